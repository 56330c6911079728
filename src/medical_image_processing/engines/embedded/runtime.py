"""What the supervisor needs of whatever runs workers: processes of this machine, or Docker containers.

A runtime starts one worker from a task, tells how it ended, and ends it. Which workers should run, how often a
dead one is replaced and what becomes of its jobs is the supervisor's.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from medical_image_processing.engines.embedded.task import Task
from medical_image_processing.model.algorithm import AlgorithmSpec

EX_CONFIG = 78
"""sysexits.h: the worker says it can never start."""
EX_TEMPFAIL = 75
"""The worker ended itself because its algorithm hung."""


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    ``code`` and ``sentence`` ("exited with status 1") are for the error of the jobs it held. ``expected``: it
    ended itself for a reason it has reported. ``hopeless``: another one would end the same way.
    """

    code: str
    sentence: str
    expected: bool = False
    hopeless: bool = False

    @classmethod
    def of_status(cls, status: int) -> Ending:
        """From a process's exit status, negative for a signal."""
        if status < 0:
            return cls("WORKER_KILLED", f"was ended by signal {_signal_name(-status)}")
        return cls(
            "WORKER_EXITED",
            f"exited with status {status}",
            expected=status == EX_TEMPFAIL,
            hopeless=status == EX_CONFIG,
        )


class RunningWorker(Protocol):
    """One worker. ``name`` is the process or container, for the platform's own log."""

    @property
    def name(self) -> str: ...

    async def ended(self) -> Ending:
        """Wait until it and all it started have ended, and its log has been taken in."""

    def send_signal(self, number: signal.Signals) -> None:
        """Ask it to stop; nothing happens if it has ended."""

    def kill(self) -> None:
        """End it and all it started, now."""


class Runtime(Protocol):
    """Starts workers."""

    name: str
    """"process" or "docker"."""

    async def image_digest(self, spec: AlgorithmSpec) -> str | None:
        """The content that the spec's image names now; None where no image is used.

        PermanentError when this runtime can't run the spec, with what to do about it.
        """

    async def start(self, task: Task, environment: Mapping[str, str]) -> RunningWorker:
        """A new worker of ``task``. ``environment`` is what the platform sets, credentials included.

        PermanentError when it can't ever start, any other MipError when it can't now.
        """

    async def end_leftovers(self) -> None:
        """End what an earlier life of the platform left running."""

    async def sweep(self) -> None:
        """Now and then: remove what should not be there, and mend what the workers stand on. Unavailable."""

    async def close(self) -> None:
        """Let go of everything; no worker runs any more."""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
