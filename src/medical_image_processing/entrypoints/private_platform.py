"""A platform of one's own for a while, as ``mip demo`` and ``mip check`` need it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medical_image_processing import naming
from medical_image_processing.entrypoints.client import Client, read_env
from medical_image_processing.errors import Unavailable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_START_S = 30.0
_STOP_S = 15.0


@dataclass(frozen=True)
class PrivatePlatform:
    """One that runs. ``env`` is what it wrote for shells."""

    client: Client
    home: Path
    env: dict[str, str]

    def read_log(self, algo_id: str) -> bytes:
        """All that the algorithm's workers logged so far."""
        file = self.home / "logs" / naming.log_group(algo_id).lstrip("/") / "worker.log"
        return file.read_bytes() if file.exists() else b""


@contextmanager
def private_platform(pacs: Path, *, command: str, runtime: str) -> Iterator[PrivatePlatform]:
    """A platform over the files in ``pacs`` for ``mip COMMAND``; it is stopped and removed at the end.
    Where this process is killed, it stops all the same, and leaves its folder.

    SIGTERM ends this process as Ctrl-C does from then on. Unavailable ``PLATFORM_FAILED``.
    """
    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory(prefix=f"mip-{command}-", ignore_cleanup_errors=True) as place:
        home, log = Path(place) / "home", Path(place) / "log"
        up = [sys.executable, "-P", "-m", "medical_image_processing.entrypoints.cli", "up"]
        up += ["--home", str(home), "--port", "0", "--pacs", str(pacs), "--runtime", runtime]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MIP_")}
        with log.open("wb") as stream:
            platform = subprocess.Popen(  # noqa: S603 - ourselves
                up,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                preexec_fn=_stop_with_parent(),
            )
        try:
            env = _await_env(platform, home / "env", log, command)
            with Client(env["API_BASE"], admin_key=env["MIP_ADMIN_KEY"]) as client:
                yield PrivatePlatform(client, home, env)
        finally:
            platform.terminate()
            try:
                platform.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                platform.kill()
                platform.wait()


def _stop_with_parent() -> Callable[[], None] | None:
    """What a child calls so that it is asked to stop when this process dies, however (prctl(2)). Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        # Between fork and exec: only system calls.
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(os.EX_OK)

    return ask


def _stop(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _await_env(platform: subprocess.Popen[bytes], file: Path, log: Path, command: str) -> dict[str, str]:
    """What the platform writes once it takes jobs."""
    deadline = time.monotonic() + _START_S
    while not file.exists():
        if platform.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()
            reason = said[-1].removeprefix("error: ") if said else "it said nothing"
            raise Unavailable("PLATFORM_FAILED", f"the platform of `mip {command}` did not start: {reason}")
        time.sleep(0.05)
    return read_env(file)
