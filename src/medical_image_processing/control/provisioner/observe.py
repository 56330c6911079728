"""What should be and what is, of one algorithm, read together."""

from __future__ import annotations

from dataclasses import dataclass

from medical_image_processing.model.algorithm import Algorithm
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.resources import Observed, Resources


@dataclass(frozen=True)
class Situation:
    """The record, what exists for it, and how many of its jobs are open."""

    record: Algorithm
    observed: Observed
    open_jobs: int


async def observe(algo_id: str, registry: Registry, resources: Resources, jobs: Jobs) -> Situation | None:
    """The situation now; None when the algorithm is not (or no longer) registered."""
    record = await registry.get(algo_id)
    if record is None:
        return None
    return Situation(record, await resources.observe(algo_id), await jobs.open_count(algo_id))
