"""An algorithm that does what its job says: the good and the bad ways an algorithm can behave.

A job's ``parameters`` are ``{"do": ..., "seconds": ..., "file": ...}``; see :data:`ACTS`. ``install`` makes it
known to workers the way an author's own package is: through an entry point of an installed distribution.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        answer: dict[str, Any] | None = ACTS[parameters.get("do", "work")](meta or {})
        mask = np.zeros(img.shape, np.uint8)
        mask[..., :8, :8] = 1
        if answer is not None:
            return answer
        return {"mask": mask, "labels": None, "meta": (meta or {}).get("found", {})}


class Puppet2(Puppet):
    """The same under another name."""

    ALGO_ID = "puppet-2"


class Puppet3(Puppet):
    """And another."""

    ALGO_ID = "puppet-3"


class Puppet4(Puppet):
    """And one more."""

    ALGO_ID = "puppet-4"


def _seconds(meta: Meta) -> float:
    return float(meta["parameters"].get("seconds", 1.0))


def _work(_: Meta) -> None:
    return None


def _sleep(meta: Meta) -> None:
    """Takes its time, and says how far it is; and, in ``file``, which process it is."""
    _sign(meta["parameters"].get("file"))
    began, length = time.monotonic(), _seconds(meta)
    while (done := time.monotonic() - began) < length:
        if progress := meta.get("progress"):
            progress(done / length)
        time.sleep(0.02)


def _sign(file: str | None) -> None:
    if file:
        with Path(file).open("a") as stream:
            stream.write(f"{os.getpid()}\n")


def _wait(meta: Meta) -> None:
    """Takes its time, until the file is there, and the PACS has the study ``study``, where they are named.

    With ``files`` it waits for one after the other, and says how many came; in ``note``, which process it is.
    """
    asked = meta["parameters"]
    _sign(asked.get("note"))
    files = [Path(file) for file in asked.get("files", [asked["file"]] if "file" in asked else [])]
    for number, file in enumerate(files):
        if progress := meta.get("progress"):
            progress(number / len(files))
        while not file.exists():
            time.sleep(0.02)
    while "study" in asked and not _has_study(asked["study"]):
        time.sleep(0.05)


def _raise(_: Meta) -> None:
    raise RuntimeError("the patient is PUPPET^SECRET")


def _hang(meta: Meta) -> None:
    """For good; in ``note`` stands which process it is."""
    _sign(meta["parameters"].get("note"))
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


def _explore(meta: Meta) -> None:
    """Tells in its result's ``meta`` what can be reached from where it runs.

    ``connect``: [host, port] pairs; ``resolve``: names; ``write``: paths; ``processes``: how many to start.
    """
    asked = meta["parameters"]
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    meta["found"] = {
        "connected": _connects_to(asked.get("connect", [])),
        "resolved": [_resolves(name) for name in asked.get("resolve", [])],
        "wrote": [_writes(Path(path)) for path in asked.get("write", [])],
        "started": _start_processes(asked.get("processes", 0)),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"] == "1",
    }


def _connects_to(places: Sequence[tuple[str, int]]) -> list[bool]:
    """Which of them answer; asked side by side, for silence takes its time."""

    def connects(place: tuple[str, int]) -> bool:
        host, port = place
        try:
            socket.create_connection((host, port), timeout=3.0).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(len(places) or 1) as pool:
        return list(pool.map(connects, places))


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, 80))
    except OSError:
        return False


def _writes(path: Path) -> bool:
    try:
        path.write_text("x")
    except OSError:
        return False
    return True


def _start_processes(count: int) -> int:
    """How many of ``count`` could be started; they are ended again."""
    started: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(OSError):
        while len(started) < count:
            started.append(subprocess.Popen(["sleep", "60"]))  # noqa: S607
    for process in started:
        process.kill()
        process.wait()
    return len(started)


def _hog(meta: Meta) -> None:
    """Takes ``mib`` of memory, and uses it."""
    taken = bytearray(int(meta["parameters"]["mib"]) << 20)
    for page in range(0, len(taken), 4096):
        taken[page] = 1


def _hog_until(meta: Meta) -> None:
    """Takes ``mib`` of memory, unless by now the PACS has the study ``study``."""
    time.sleep(_seconds(meta))
    if not _has_study(meta["parameters"]["study"]):
        _hog(meta)


def _has_study(study: str) -> bool:
    request = urllib.request.Request(  # noqa: S310 - the platform's own address
        f"{os.environ['PACS_API_BASE']}/studies", headers={"x-api-key": os.environ["PACS_API_KEY"]}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return study in json.load(answer)


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
    "wait": _wait,
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
    "explore": _explore,
    "hog": _hog,
    "hog until": _hog_until,
    "tell environment": _tell_environment,
}


def install(
    folder: Path, processors: Sequence[type[Processor]] = (Puppet, Puppet2, Puppet3, Puppet4)
) -> dict[str, str]:
    """Make a distribution of ``processors`` in ``folder``, and return the env that makes workers see it."""
    metadata = folder / "puppet-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: puppet\nVersion: 1.0\n")
    points = "".join(f"{each.ALGO_ID} = {each.__module__}:{each.__qualname__}\n" for each in processors)
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{points}")
    return {"PYTHONPATH": str(folder)}
