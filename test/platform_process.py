"""A platform as a process of its own, started by the command a person would type."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx

from free_ports import free_port
from medical_image_processing.entrypoints.client import Client, read_env

START_S = 60.0
STOP_S = 10.0
"""What `mip up` is allowed for stopping everything it started."""

CLI = [sys.executable, "-P", "-m", "medical_image_processing.entrypoints.cli"]


def unconfined(folder: Path) -> list[str]:
    """Options that let a record's env name packages, such as the puppet's: on processes that takes consent."""
    return ["--allow-commands", str(folder)]


class Platform:
    """``mip up`` on ``home``. As a context manager it is started, and at the end stopped.

    The first start takes a free port; later ones on the same home take that port again. ``env`` is what it
    wrote for shells, and is there while it runs. Its output is in ``log``.
    """

    def __init__(
        self,
        home: Path,
        *,
        pacs: Path | str,
        options: Sequence[str] = (),
        runtime: str = "process",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.log = home.with_name(f"{home.name}.log")
        self.env: dict[str, str] = {}
        self._pacs = pacs
        self._options = ["--runtime", runtime, *options]
        self._environment = clean_environment(**environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    @property
    def pid(self) -> int:
        """The process, which must run."""
        assert self._process is not None, "the platform is not running"
        return self._process.pid

    @property
    def base(self) -> str:
        """Address of its API."""
        return self.env["API_BASE"]

    @property
    def port(self) -> int:
        """Port of its API; 0 before the first start."""
        return httpx.URL(self.env["API_BASE"]).port or 0 if self.env else 0

    def start(self, timeout_s: float = START_S) -> float:
        """Start it, and wait until it answers; the seconds that took."""
        assert self._process is None, "the platform is running"
        began = time.monotonic()
        (self.home / "env").unlink(missing_ok=True)
        command = [*CLI, "up", "--home", str(self.home), "--port", str(self.port or free_port())]
        command += ["--pacs", str(self._pacs), *self._options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        while not (self.home / "env").exists() or not self._answers():
            if self._process.poll() is not None or time.monotonic() - began > timeout_s:
                self.kill()
                raise AssertionError(f"the platform did not start:\n{self.tail()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def stop(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, as a service manager would; its exit status. AssertionError if it takes too long."""
        process, self._process = self._process, None
        assert process is not None, "the platform is not running"
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the platform did not stop in {timeout_s} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """``kill -9``. Its workers are not told."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def client(self) -> Client:
        """The command line's client, with the admin key."""
        return Client(self.base, admin_key=self.env["MIP_ADMIN_KEY"])

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _answers(self) -> bool:
        self.env = read_env(self.home / "env")
        try:
            return httpx.get(f"{self.base}/health", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would point a command at another platform."""
    foreign = ("MIP_API_BASE", "API_BASE", "MIP_ADMIN_KEY", "MIP_CLIENT_KEY", "MIP_HOME")
    return {**{name: value for name, value in os.environ.items() if name not in foreign}, **more}


def workers_of(home: Path) -> dict[int, int]:
    """Process id → parent's, of every living process that was started in this home's workers' folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if entry.name.isdecimal() and Path(entry / "cwd").resolve() == home / "run":
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(entry.name)] = int(parent)
    return found


def children(parent: int | str, name: str) -> list[int]:
    """Process ids of ``parent``'s children, which may be ``self``, whose command line has ``name`` in it."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        for pid in (task / "children").read_text().split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if name in Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(int(pid))
    return found
