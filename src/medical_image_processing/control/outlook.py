"""What whoever waits for jobs wants to know of them: how many come before, and how long one takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from medical_image_processing.model.job import Job
from medical_image_processing.ports.workload import Workload


@dataclass(frozen=True)
class Outlook:
    """``queue_position`` counts from 1, the next to be taken; ``expected_s`` is what a job of its algorithm takes.

    Each is None where it doesn't apply, or nobody knows.
    """

    queue_position: int | None = None
    expected_s: float | None = None


NO_OUTLOOK = Outlook()


async def look_ahead(workload: Workload, jobs: Sequence[Job]) -> Mapping[str, Outlook]:
    """Job id → its outlook, of those that have not ended: two questions, however many they are."""
    still_open = [job for job in jobs if job.finished_at is None]
    if not still_open:
        return {}
    positions = await workload.positions(still_open)
    times = await workload.run_times([job.algo_id for job in still_open])
    expected = {algo_id: round(max(0.0, median(seconds)), 3) for algo_id, seconds in times.items()}
    return {job.job_id: Outlook(positions.get(job.job_id), expected.get(job.algo_id)) for job in still_open}
