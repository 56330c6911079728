"""Starts an algorithm's executable once per job, and ends it with everything it started (CONTRACT.md).

It runs in a session and process group of its own. When it has ended, was too slow, or the worker goes, the group
is killed; and since the worker is the reaper of orphans (prctl(2)), also what left the group. A worker that is
killed takes the executable with it through its parent-death signal.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medical_image_processing.errors import AlgorithmFailed, PermanentError
from medical_image_processing.worker.memory import count_memory_kills, read_memory_limit
from medical_image_processing.worker.report import time_limit_exceeded

Log = Callable[[str, str], None]
"""Takes a line that the executable wrote, and "stderr" or "stdout"."""

MAX_REASON = 500
_MAX_LINE = 2000
_MAX_LINES = 10_000
_READ_BYTES = 65_536
_DRAIN_S = 2.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_ELF = b"\x7fELF"
_prctl = ctypes.CDLL(None).prctl


def check_executable(path: Path) -> None:
    """PermanentError ``EXECUTABLE_UNUSABLE`` if it is not there, may not be run, or is another machine's."""
    if not path.is_file():
        raise _unusable(path, "is not there" if not path.exists() else "is no file")
    if not os.access(path, os.X_OK):
        raise _unusable(path, "may not be executed; chmod +x it")
    with path.open("rb") as file, Path(sys.executable).open("rb") as ours:
        head, own = file.read(20), ours.read(20)
    if head[:2] != b"#!" and head[:4] != _ELF:
        raise _unusable(path, "is neither a program (ELF) nor a script that begins with #!")
    # Class, byte order and machine of the ELF header (elf(5)).
    if head[:4] == _ELF and (head[4:6], head[18:20]) != (own[4:6], own[18:20]):
        raise _unusable(path, "is built for another processor; build it on this architecture")


def become_reaper() -> None:
    """Make orphaned grandchildren ours, and keep them from reading the keys in our environment (proc(5))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


@dataclass(frozen=True)
class _Ending:
    """``status`` as :mod:`subprocess` has it; ``last_line`` of standard error; ``memory_kills`` meanwhile."""

    status: int | None
    last_line: str
    memory_kills: int


class Executable:
    """One program; one run at a time. :meth:`kill` and :meth:`close` may be called from any thread.

    ``is_reaper``: this process has called :func:`become_reaper` and has no other children, so that every child
    that is left after a run is the executable's and can be killed.
    """

    def __init__(self, path: Path, *, time_limit_s: float, log: Log, is_reaper: bool = False) -> None:
        """PermanentError ``EXECUTABLE_UNUSABLE``."""
        check_executable(path)
        self._path = path
        self._time_limit_s = time_limit_s
        self._log = log
        self._is_reaper = is_reaper
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def run(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Start it and wait for it; when this returns, it and all it started have ended.

        Raises AlgorithmFailed: ``EXECUTABLE_FAILED`` (its exit status, and its reason), ``EXECUTABLE_KILLED``
        (by which signal), ``OUT_OF_MEMORY``, ``TIME_LIMIT_EXCEEDED``, ``EXECUTABLE_UNUSABLE``.
        """
        kills = count_memory_kills()
        process = self._start(arguments, cwd, env)
        output = _Output(process, self._log)
        try:
            in_time = output.follow(time.monotonic() + self._time_limit_s)
        finally:
            self.kill()
            output.drain()
            with self._lock:
                self._process = None
            status = process.wait()
            if self._is_reaper:
                _end_orphans()
        if not in_time:
            raise time_limit_exceeded(self._time_limit_s)
        _check(_Ending(status, output.last_line, count_memory_kills() - kills))

    def kill(self) -> None:
        """End the group of what runs. It isn't reaped before, so the group can't be another's by now."""
        with self._lock:
            if self._process is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End what runs, and all that it started; nothing can be started any more."""
        with self._lock:
            self._closed = True
        self.kill()
        if self._is_reaper:
            _end_orphans()  # which become ours only once their parent has died

    def _start(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        worker = os.getpid()

        def die_with_worker() -> None:
            # Between fork and exec of a process with threads: only system calls, nothing that takes a lock.
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != worker:
                os._exit(os.EX_OSERR)

        with self._lock:
            if self._closed:
                raise AlgorithmFailed("EXECUTABLE_KILLED", "The worker is ending.")
            try:
                self._process = subprocess.Popen(  # noqa: S603 - it is what this worker is for
                    [str(self._path), *arguments],
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    preexec_fn=die_with_worker,
                )
            except OSError as error:
                raise AlgorithmFailed(
                    "EXECUTABLE_UNUSABLE",
                    f"The executable {self._path.name} can't be started: {error.strerror}; "
                    "if it is a script, is the interpreter of its first line in the image?",
                ) from error
            return self._process


class _Output:
    """Reads what a process writes until it has ended; long lines and floods are cut."""

    def __init__(self, process: subprocess.Popen[bytes], log: Log) -> None:
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._ended = os.pidfd_open(process.pid)
        self._partial = {"stdout": b"", "stderr": b""}
        self._lines = 0
        self.last_line = ""
        assert process.stdout is not None and process.stderr is not None
        self._pipes = {"stdout": process.stdout, "stderr": process.stderr}
        for name, pipe in self._pipes.items():
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, name)
        self._selector.register(self._ended, selectors.EVENT_READ)

    def follow(self, until: float) -> bool:
        """Read until the process has ended, or the monotonic clock says ``until``: False."""
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.fd == self._ended:
                    return True
                self._read(key)
        return False

    def drain(self) -> None:
        """Read what is left in the pipes, whose writers are dead, and close everything."""
        self._selector.unregister(self._ended)
        os.close(self._ended)
        until = time.monotonic() + _DRAIN_S  # something that left the group may hold the pipes open
        while self._selector.get_map() and time.monotonic() < until:
            ready = self._selector.select(0)
            if not ready:
                break
            for key, _ in ready:
                self._read(key)
        for key in list(self._selector.get_map().values()):
            self._end(key)
        self._selector.close()
        if self._lines > _MAX_LINES:
            self._log(f"{self._lines - _MAX_LINES} more lines are left out", "stderr")

    def _read(self, key: selectors.SelectorKey) -> None:
        data = os.read(key.fd, _READ_BYTES)
        if not data:
            self._end(key)
            return
        *lines, rest = (self._partial[key.data] + data).split(b"\n")
        for line in lines:
            self._take(line, key.data)
        # Of a line without end its beginning is enough.
        self._partial[key.data] = rest[: 4 * _MAX_LINE]

    def _end(self, key: selectors.SelectorKey) -> None:
        self._take(self._partial[key.data], key.data)
        self._selector.unregister(key.fileobj)
        self._pipes[key.data].close()

    def _take(self, raw: bytes, stream: str) -> None:
        line = printable(raw)
        if not line:
            return
        if stream == "stderr":
            self.last_line = line
        self._lines += 1
        if self._lines <= _MAX_LINES:
            self._log(line, stream)


def printable(raw: bytes) -> str:
    """A line as it may stand in a log or a message: no control characters, and not without end."""
    text = raw[: 4 * _MAX_LINE].decode("utf-8", "replace")
    # Of a progress bar, which goes back to the line's beginning, what stands there in the end.
    shown = text.rstrip("\r").rpartition("\r")[2]
    return "".join(character for character in shown if character.isprintable() or character == "\t")[
        :_MAX_LINE
    ].strip()


def _check(ending: _Ending) -> None:
    """Raise what ``ending`` stands for, unless it was a success."""
    if ending.status == 0:
        return
    reason = f": {ending.last_line[:MAX_REASON]}" if ending.last_line else "; it gave no reason on standard error"
    if ending.status is not None and ending.status > 0:
        raise AlgorithmFailed("EXECUTABLE_FAILED", f"The executable ended with status {ending.status}{reason}")
    number = -(ending.status or 0)
    if number == signal.SIGKILL and ending.memory_kills > 0:
        raise AlgorithmFailed("OUT_OF_MEMORY", f"The executable needed more memory than there is{_limit()}.")
    guess = f", perhaps for want of memory{_limit()}" if number == signal.SIGKILL else ""
    raise AlgorithmFailed(
        "EXECUTABLE_KILLED", f"The executable was ended by {_signal_name(number)}{guess}{reason}"
    )


def _limit() -> str:
    limit = read_memory_limit()
    return "" if limit is None else f" (the limit is {limit // 2**20} MiB, with the worker and /tmp in it)"


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _end_orphans(within_s: float = 5.0) -> None:
    """Kill and reap the children that were not ours by birth; the kernel gives them to us as their parents end."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        killed = _kill_children()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not killed:
            return
        time.sleep(0.001)


def _kill_children() -> int:
    """SIGKILL to every child of this process; how many there were."""
    processes = (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    children = [int(process.name) for process in processes if _is_child(process)]
    for pid in children:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(children)


def _is_child(process: Path) -> bool:
    """By the fourth field of /proc/PID/stat, after the name in brackets (proc(5))."""
    with suppress(OSError, IndexError, ValueError):
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid()
    return False


def _unusable(path: Path, fault: str) -> PermanentError:
    return PermanentError("EXECUTABLE_UNUSABLE", f"the executable {path} {fault}")
