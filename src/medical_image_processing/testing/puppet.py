"""An algorithm that does what its job says: the good and the bad ways an algorithm can behave.

A job's ``parameters`` are ``{"do": ..., "seconds": ...}``; see :data:`ACTS`. ``install`` makes it known to
workers the way an author's own package is: through an entry point of an installed distribution.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medical_image_processing.processing.base import ENTRY_POINT_GROUP, Processor

Meta = dict[str, Any]


class Puppet(Processor):
    """Marks the upper left corner, after doing what ``parameters["do"]`` says."""

    ALGO_ID = "puppet"

    def run(self, img: npt.NDArray[Any], meta: dict[str, Any] | None = None) -> dict[str, Any]:
        parameters = (meta or {}).get("parameters") or {}
        answer = ACTS[parameters.get("do", "work")](meta or {})
        mask = np.zeros(img.shape, np.uint8)
        mask[..., :8, :8] = 1
        return {"mask": mask, "labels": None, "meta": {}} if answer is None else answer


class Puppet2(Puppet):
    """The same under another name."""

    ALGO_ID = "puppet-2"


class Puppet3(Puppet):
    """And another."""

    ALGO_ID = "puppet-3"


def _seconds(meta: Meta) -> float:
    return float(meta["parameters"].get("seconds", 1.0))


def _work(_: Meta) -> None:
    return None


def _sleep(meta: Meta) -> None:
    """Takes its time, and says how far it is; and, in ``file``, which process it is."""
    if file := meta["parameters"].get("file"):
        with Path(file).open("a") as stream:
            stream.write(f"{os.getpid()}\n")
    began, length = time.monotonic(), _seconds(meta)
    while (done := time.monotonic() - began) < length:
        if progress := meta.get("progress"):
            progress(done / length)
        time.sleep(0.02)


def _raise(_: Meta) -> None:
    raise RuntimeError("the patient is PUPPET^SECRET")


def _hang(_: Meta) -> None:
    while True:
        time.sleep(60)


def _exit(_: Meta) -> None:
    sys.exit(3)


def _leave(_: Meta) -> None:
    os._exit(7)


def _die(_: Meta) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _nonsense(_: Meta) -> Any:
    return {"mask": "no array"}


def _fill_memory(_: Meta) -> None:
    raise MemoryError


def _recurse(meta: Meta) -> None:
    _recurse(meta)


def _tell_environment(_: Meta) -> Any:
    """Writes its environment where the job's owner can read it, as no algorithm should."""
    Path(os.environ["PUPPET_REPORT"]).write_text(json.dumps(dict(os.environ)))
    return None


def _die_once(meta: Meta) -> None:
    """Dies at the first attempt and works at the second; the file says which it is."""
    file = Path(meta["parameters"]["file"])
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _die_until(meta: Meta) -> None:
    """Dies until the file is there."""
    if not Path(meta["parameters"]["file"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)


ACTS: dict[str, Callable[[Meta], Any]] = {
    "work": _work,
    "sleep": _sleep,
    "raise": _raise,
    "hang": _hang,
    "exit": _exit,
    "leave": _leave,
    "die": _die,
    "die once": _die_once,
    "die until": _die_until,
    "nonsense": _nonsense,
    "fill memory": _fill_memory,
    "recurse": _recurse,
    "tell environment": _tell_environment,
}


def install(folder: Path, processors: Sequence[type[Processor]] = (Puppet, Puppet2, Puppet3)) -> dict[str, str]:
    """Make a distribution of ``processors`` in ``folder``, and return the env that makes workers see it."""
    metadata = folder / "puppet-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: puppet\nVersion: 1.0\n")
    points = "".join(f"{each.ALGO_ID} = {each.__module__}:{each.__qualname__}\n" for each in processors)
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{points}")
    return {"PYTHONPATH": str(folder)}
