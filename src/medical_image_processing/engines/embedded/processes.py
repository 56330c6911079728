"""Workers as processes of this machine: the runtime that needs no Docker engine, and does not confine.

Our own worker never outlives the platform: it asks the kernel for a signal when that dies. Commands of the
operator's own may; what is left of an earlier life is ended at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.engines.embedded.runtime import Ending
from medical_image_processing.engines.embedded.task import WORKER_COMMAND, Task
from medical_image_processing.errors import PermanentError
from medical_image_processing.model.algorithm import AlgorithmSpec

# A record's env must not choose the code that runs: that would be a command of one's own by another name.
_CHOOSES_CODE = re.compile(r"(LD_|PYTHON|DYLD_).*|PATH|HOME")
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")


class ProcessRuntime:
    """Implements :class:`runtime.Runtime`. ``run_dir`` has a note for each process that runs."""

    name = "process"

    def __init__(self, *, logs: LogGroups, run_dir: Path, allow_commands: Path | None) -> None:
        self._logs = logs
        self._run_dir = run_dir
        self._allow_commands = allow_commands
        run_dir.mkdir(parents=True, exist_ok=True)

    async def image_digest(self, spec: AlgorithmSpec) -> str | None:
        """None. PermanentError ``COMMAND_NOT_ALLOWED``, ``ENV_NOT_ALLOWED``, ``COMMAND_NOT_FOUND``."""
        self._argv(spec.command)
        self._check_env(spec.env)
        return None

    async def start(self, task: Task, environment: Mapping[str, str]) -> WorkerProcess:
        """A process in a session of its own, which appends to its log group itself."""
        self._check_env(task.env)
        plain = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        with self._logs.open(task.algo_id) as log:
            process = await asyncio.create_subprocess_exec(
                *self._argv(task.command),
                env={**plain, **environment, "MIP_PARENT_PID": str(os.getpid())},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._run_dir,
                start_new_session=True,
            )
        note = self._run_dir / str(process.pid)
        note.write_text(_start_time(process.pid))
        return WorkerProcess(process, note)

    async def end_leftovers(self) -> None:
        """End workers that a killed platform left behind."""
        for note in self._run_dir.iterdir():
            if note.name.isdecimal() and _start_time(int(note.name)) == note.read_text():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(int(note.name), signal.SIGKILL)
            note.unlink(missing_ok=True)

    async def sweep(self) -> None:
        """Processes need nothing that could be taken away."""

    async def close(self) -> None:
        """Nothing is held."""

    def _check_env(self, env: Mapping[str, str]) -> None:
        chosen = [name for name in env if _CHOOSES_CODE.fullmatch(name)]
        if chosen and self._allow_commands is None:
            raise PermanentError(
                "ENV_NOT_ALLOWED",
                f"without containers, env may not set {', '.join(sorted(chosen))}, which chooses what code runs; "
                "run it in a container (mip up --runtime docker), or start the platform with --allow-commands",
            )

    def _argv(self, command: tuple[str, ...]) -> tuple[str, ...]:
        if command[0] == WORKER_COMMAND:
            return (sys.executable, "-m", "medical_image_processing.worker", *command[1:])
        folder = self._allow_commands
        if folder is None:
            raise PermanentError(
                "COMMAND_NOT_ALLOWED",
                f"without containers, only {WORKER_COMMAND} runs here; run it in a container (mip up --runtime "
                "docker), or, unconfined, start the platform with --allow-commands DIR and use a command in DIR",
            )
        program = (folder / command[0]).resolve()
        if not program.is_relative_to(folder.resolve()):
            raise PermanentError(
                "COMMAND_NOT_ALLOWED", "the command lies outside the directory given to --allow-commands"
            )
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise PermanentError(
                "COMMAND_NOT_FOUND", "the command is not an executable file in the --allow-commands directory"
            )
        return (str(program), *command[1:])


class WorkerProcess:
    """Implements :class:`runtime.RunningWorker`."""

    def __init__(self, process: asyncio.subprocess.Process, note: Path) -> None:
        self._process = process
        self._note = note
        self.name = f"process {process.pid}"

    async def ended(self) -> Ending:
        """Wait for it, then end whatever it had started itself."""
        status = await self._process.wait()
        self.kill()
        self._note.unlink(missing_ok=True)
        return Ending.of_status(status)

    def send_signal(self, number: signal.Signals) -> None:
        """Ask it to stop."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End its whole session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _start_time(pid: int) -> str:
    """A process's start time in clock ticks, which with its id names it for good; '' when there is none."""
    try:
        # proc(5): the 22nd field; the second, the name, may hold anything but ends with the last ')'.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
