"""``python -m medical_image_processing.worker.native EXECUTABLE``: run a native algorithm (CONTRACT.md).

The worker is the usual one; its algorithm starts ``EXECUTABLE INPUT OUTPUT`` once per job. INPUT is a NRRD file of
three axes, int16 or float32 in modality units, in the patient's coordinates. OUTPUT must be NRRD too, attached
header, raw or gzip, of the same sizes: a mask of whole numbers, set where it isn't zero, or, with
``--output image``, an image of uint8, int16, uint16 or float32. ``MIP_PARAMETERS`` names a file with the job's
parameters. ``--include`` prints the folder of ``mip_volume.hpp``, which reads and writes all this in C++.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from medical_image_processing.worker import log
from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.start import run_worker

if TYPE_CHECKING:
    from medical_image_processing.processing.base import Processor

INCLUDE = Path(__file__).parent / "include"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command line; ends the process as :func:`run_worker` says."""
    parser = argparse.ArgumentParser(prog="python3 -m medical_image_processing.worker.native")
    parser.add_argument("executable", type=Path, nargs="?")
    parser.add_argument("--output", choices=("mask", "image"), default="mask", help="what the executable writes")
    parser.add_argument("--include", action="store_true", help="print the folder of mip_volume.hpp")
    given = parser.parse_args(arguments)
    if given.include:
        print(INCLUDE)
        raise SystemExit(0)
    if given.executable is None:
        parser.error("which executable?")
    run_native(given.executable.absolute(), given.output)


def run_native(path: Path, output: str) -> NoReturn:
    """Run the executable on this container's queue until SIGTERM."""
    endings = []

    def load(config: WorkerConfig) -> Processor:
        from medical_image_processing.worker.executable import Executable, become_reaper
        from medical_image_processing.worker.native_processor import NativeProcessor

        become_reaper()
        executable = Executable(path, time_limit_s=config.time_limit_s, log=_log, is_reaper=True)
        processor = NativeProcessor(
            executable,
            "image" if output == "image" else "mask",
            env=os.environ,
            own_folders=_own_folders(config),
        )
        endings.append(processor.close)
        return processor

    def end() -> None:
        for close in endings:
            close()

    run_worker(load, at_exit=end)


def _own_folders(config: WorkerConfig) -> tuple[Path, ...]:
    """Where an executable can leave files that are nobody else's: in the platform's containers, whose root is
    read-only. Elsewhere /tmp is the machine's.
    """
    if not (config.image_digest and os.statvfs("/").f_flag & os.ST_RDONLY):
        return ()
    return Path("/tmp"), Path("/dev/shm")  # noqa: S108


def _log(line: str, stream: str) -> None:
    log.event(line, stream=stream)


if __name__ == "__main__":
    main()
