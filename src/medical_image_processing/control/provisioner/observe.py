"""What should be and what is, of one algorithm, read together."""

from __future__ import annotations

from dataclasses import dataclass

from medical_image_processing.model.algorithm import Algorithm
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.resources import Observed, Resources


@dataclass(frozen=True)
class Situation:
    """The record, and what exists for it."""

    record: Algorithm
    observed: Observed


async def observe(algo_id: str, registry: Registry, resources: Resources) -> Situation | None:
    """The situation now; None when the algorithm is not (or no longer) registered."""
    record = await registry.get(algo_id)
    if record is None:
        return None
    return Situation(record, await resources.observe(algo_id))
