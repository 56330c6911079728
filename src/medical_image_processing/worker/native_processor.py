"""An algorithm that is an executable: files in, files out; see :mod:`~medical_image_processing.worker.native`."""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medical_image_processing import naming
from medical_image_processing.processing.base import Processor, invalid_result
from medical_image_processing.worker.executable import Executable
from medical_image_processing.worker.nrrd import MappedVolume, Placement, create_volume, read_volume, write_header

Pixels = npt.NDArray[Any]
OutputKind = Literal["mask", "image"]

_PRIVATE_PREFIXES = ("AWS_", "ECS_", "MIP_")
_WRITABLE_AS = {"int8": "int16", "float64": "float32"}


class NativeProcessor(Processor):
    """Hands each image to an executable as a file, and takes a mask or an image back. Linux only."""

    KEEPS_TIME_LIMIT = True

    def __init__(
        self,
        executable: Executable,
        output: OutputKind,
        *,
        env: Mapping[str, str],
        own_folders: Sequence[Path] = (),
    ) -> None:
        """``env`` is the worker's own, of which the executable gets :func:`public_environment`.

        ``own_folders`` belong to this worker alone: what appears in them is gone after each job.
        """
        self._executable = executable
        self._output = output
        self._env = public_environment(env)
        self._kept = {folder: set(_entries(folder)) for folder in own_folders}
        self._folder: Path | None = None
        self._input: MappedVolume | None = None

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
        """An array that lies in the executable's input file."""
        return self._create_input(shape, dtype).pixels

    def run(self, img: Pixels, meta: dict[str, Any] | None = None) -> dict[str, Any]:
        """One job. Raises what :meth:`Executable.run` and :func:`read_volume` raise."""
        meta = meta or {}
        volume = self._input
        if volume is None or volume.pixels is not img:
            volume = self._create_input(img.shape, img.dtype)
            volume.pixels[...] = img
        folder = self._work_folder()
        source, result, parameters = folder / "input.nrrd", folder / "output.nrrd", folder / "parameters.json"
        write_header(source, img, Placement.of(meta))
        source.chmod(stat.S_IRUSR)
        parameters.write_text(json.dumps(meta.get("parameters") or {}))
        env = {**self._env, "MIP_PARAMETERS": str(parameters), "TMPDIR": str(folder)}
        self._executable.run([str(source), str(result)], cwd=folder, env=env)
        if not volume.is_whole():
            raise invalid_result("the executable cut its input file short; it must write to OUTPUT alone")
        return {self._output: self._converted(read_volume(result, img.shape))}

    def end_job(self) -> None:
        """Remove the work folder, and what the executable left elsewhere. What is mapped stays readable."""
        self._input = None
        if self._folder is not None:
            _remove(self._folder)
            self._folder = None
        for folder, kept in self._kept.items():
            for left in set(_entries(folder)) - kept:
                _remove(left)

    def close(self) -> None:
        """End what runs, for good. From any thread."""
        self._executable.close()
        if (folder := self._folder) is not None:
            _remove(folder)

    def _create_input(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> MappedVolume:
        path = self._work_folder() / "input.nrrd"
        path.unlink(missing_ok=True)
        self._input = create_volume(path, shape, dtype)
        return self._input

    def _work_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="mip-job-"))
        return self._folder

    def _converted(self, pixels: Pixels) -> Pixels:
        if self._output == "image":
            return pixels.astype(_WRITABLE_AS.get(pixels.dtype.name, pixels.dtype), copy=False)
        if pixels.dtype.kind not in "iu":
            raise invalid_result("a mask must be of whole numbers; for an image, the adapter has --output image")
        return pixels if pixels.dtype == np.uint8 else (pixels != 0).astype(np.uint8)


def public_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What an executable may see of the worker's environment: no keys, no addresses of the platform."""
    return {
        name: value
        for name, value in env.items()
        if name not in naming.RESERVED_ENV and not name.startswith(_PRIVATE_PREFIXES)
    }


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return list(folder.iterdir())
    return []


def _remove(path: Path) -> None:
    """A folder or a file; also what the executable made unreadable to us."""
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return

    def open_and_retry(remove: Any, inner: str, _: object) -> None:
        try:
            for place in (Path(inner).parent, Path(inner)):
                if not place.is_symlink():
                    place.chmod(stat.S_IRWXU)
            remove(inner)
        except OSError:
            return

    shutil.rmtree(path, onerror=open_and_retry)
    shutil.rmtree(path, ignore_errors=True)
