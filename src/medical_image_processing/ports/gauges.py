"""What ``/metrics`` shows. Only an engine whose process is the platform has it; on AWS CloudWatch measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from medical_image_processing.model.job import JobStatus


@dataclass(frozen=True)
class JobCount:
    """How many jobs of an algorithm are in a state."""

    algo_id: str
    status: JobStatus
    count: int


@dataclass(frozen=True)
class QueueGauge:
    """A queue that holds messages: how many, and the age of the oldest in seconds."""

    queue: str
    depth: int
    oldest_s: float


class JobCounts(Protocol):
    """The job records, counted."""

    async def counts(self) -> list[JobCount]:
        """Jobs by algorithm and state."""


class QueueGauges(Protocol):
    """The queues, measured."""

    async def gauges(self) -> list[QueueGauge]:
        """All queues that hold messages."""
