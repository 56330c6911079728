"""Why a service's workers don't stay up: ECS's answers about tasks that stopped, in words one can act on.

The shapes are those of DescribeTasks; what ECS writes into ``stoppedReason`` and a container's ``reason`` stands
in the Amazon ECS developer guide, "Stopped task error messages".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

STEADY = timedelta(seconds=30)
"""Whoever lived that long came up; what ended it was a job."""
DEATHS_TO_FAIL = 3
EXPECTED_DEATHS_TO_FAIL = 8
"""Of workers that end themselves after a job that hung; any program may say so of itself."""
_EX_CONFIG = 78
_EX_TEMPFAIL = 75
_KILLED = 137
_FAILED = frozenset({"TaskFailedToStart", "EssentialContainerExited"})
_PACS_KEY = re.compile(r"mip-pacs-[A-Za-z0-9_-]+")

Task = Mapping[str, Any]


@dataclass(frozen=True)
class Death:
    """A worker that stopped though nobody asked it to."""

    task_arn: str
    sentence: str
    expected: bool
    said_something: bool
    """Whether its log may say more."""
    at: datetime


def recent_deaths(tasks: Sequence[Task], *, now: datetime, memory: int) -> list[Death]:
    """The deaths since a worker last lived long enough to be called well, the newest first."""
    well_at = max((_started(task) + STEADY for task in tasks if _was_steady(task, now)), default=None)
    deaths = [
        _death(task, memory)
        for task in tasks
        if task.get("stopCode") in _FAILED and _stopped(task) is not None and not _was_steady(task, now)
    ]
    deaths.sort(key=lambda death: death.at, reverse=True)
    return [death for death in deaths if well_at is None or death.at > well_at]


def is_failing(deaths: Sequence[Death]) -> bool:
    """Whether that many deaths mean that no worker will come up."""
    return sum(not death.expected for death in deaths) >= DEATHS_TO_FAIL or len(deaths) >= EXPECTED_DEATHS_TO_FAIL


def with_log(death: Death, last_line: str | None) -> str:
    """The reason, one line: what happened, and what the worker said last, without its key."""
    line = " ".join(_message(last_line or "").split())
    if not death.said_something:
        return f"the worker {death.sentence}"
    told = _PACS_KEY.sub("(a key)", line)[:500] if line else "it logged nothing"
    return f"the worker {death.sentence}: {told}"


def _message(line: str) -> str:
    """Our workers log JSON lines (CONTRACT.md, "Log groups"); what one says is its ``message``."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    return str(fields.get("message", line)) if isinstance(fields, dict) else line


def _death(task: Task, memory: int) -> Death:
    containers = task.get("containers") or [{}]
    status = containers[0].get("exitCode")
    said = " ".join(str(containers[0].get("reason") or task.get("stoppedReason") or "").split())
    at = _stopped(task)
    assert at is not None
    sentence, told_by_log = _sentence(said, status, memory)
    return Death(str(task["taskArn"]), sentence, status == _EX_TEMPFAIL, told_by_log, at)


def _sentence(said: str, status: int | None, memory: int) -> tuple[str, bool]:
    if "OutOfMemory" in said:
        return f"ran out of memory: its limit is {memory} MiB; give the algorithm more", False
    if "CannotPullContainer" in said:
        advice = "is it still in the registry, and may the execution role read it?"
        return f"can't be started, its image can't be pulled: {_short(said)}; {advice}", False
    if "unable to pull secrets" in said:
        return f"can't be started, its PACS key can't be read: {_short(said)}", False
    if "ecs was unable to assume" in said.lower():
        return "can't be started, its role can't be taken by ECS; new roles take some seconds", False
    if "CannotStartContainer" in said or "CannotCreateContainer" in said:
        return f"can't be started; is its command in the image? {_short(said)}", False
    if status is None:
        return f"can't be started: {_short(said) or 'ECS gives no reason'}", False
    if status == _KILLED:
        return "was killed by signal 9, as when it runs out of memory", True
    if status > 128:
        return f"was ended by signal {status - 128}", True
    hint = " (its configuration or its algorithm can't be loaded)" if status == _EX_CONFIG else ""
    return f"ended with exit status {status}{hint}", True


def _short(said: str) -> str:
    return said[:300]


def _started(task: Task) -> datetime:
    started: datetime = task["startedAt"]
    return started


def _stopped(task: Task) -> datetime | None:
    return task.get("executionStoppedAt") or task.get("stoppedAt")


def _was_steady(task: Task, now: datetime) -> bool:
    return task.get("startedAt") is not None and (_stopped(task) or now) - _started(task) >= STEADY
