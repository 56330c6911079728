"""What a worker process is started from: the embedded engine's task definition."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from medical_image_processing import naming
from medical_image_processing.errors import PermanentError
from medical_image_processing.model.algorithm import AlgorithmSpec

WORKER_COMMAND = "/app/worker.sh"
"""The entry point of images built on mip-base; on this engine, our worker itself."""


@dataclass(frozen=True)
class Task:
    """One version of an algorithm, ready to start. ``name`` is its task definition's."""

    name: str
    algo_id: str
    fingerprint: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cpu: int
    revision: int

    @classmethod
    def of(cls, spec: AlgorithmSpec, *, revision: int, allow_commands: Path | None) -> Self:
        """PermanentError ``COMMAND_NOT_ALLOWED`` or ``COMMAND_NOT_FOUND`` when it can't run here."""
        return cls(
            name=f"{naming.service(spec.algorithm_id)}:{revision}",
            algo_id=spec.algorithm_id,
            fingerprint=spec.task_fingerprint(),
            argv=_argv(spec.command, allow_commands),
            env=dict(spec.env),
            cpu=spec.cpu,
            revision=revision,
        )

    def environment(self, platform: dict[str, str]) -> dict[str, str]:
        """The whole environment of a worker: a plain one, the record's, then what the platform sets."""
        plain = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "HOME") if name in os.environ}
        threads = {"OMP_NUM_THREADS": str(max(1, self.cpu // 1024))}
        mine = {"ALGO_ID": self.algo_id, "MIP_TASK": self.name, "MIP_REVISION": str(self.revision)}
        return {**plain, **threads, **self.env, **platform, **mine}


def _argv(command: tuple[str, ...], allow_commands: Path | None) -> tuple[str, ...]:
    if command[0] == WORKER_COMMAND:
        return (sys.executable, "-m", "medical_image_processing.worker", *command[1:])
    if allow_commands is None:
        raise PermanentError(
            "COMMAND_NOT_ALLOWED",
            f"without containers, only {WORKER_COMMAND} runs here; to run your own programs, unconfined, "
            "start the platform with --allow-commands DIR and use a command in DIR",
        )
    program = (allow_commands / command[0]).resolve()
    if not program.is_relative_to(allow_commands.resolve()):
        raise PermanentError(
            "COMMAND_NOT_ALLOWED", "the command lies outside the directory given to --allow-commands"
        )
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise PermanentError(
            "COMMAND_NOT_FOUND", "the command is not an executable file in the --allow-commands directory"
        )
    return (str(program), *command[1:])
