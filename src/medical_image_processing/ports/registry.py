"""The registry: what should be.

Clauses, each a test in ``testing/``:

- R1 ``create`` of a taken id raises Conflict ``ALGORITHM_EXISTS`` and changes nothing
- R2 ``update`` with a revision that is not the newest raises StaleRevision and changes nothing (law P6)
- R3 ``update`` raises the revision by one; ``set_status`` leaves it alone, and is refused when it moved
- R4 each change of the desired state leaves an audit entry with who made it, together or not at all (law A4)
- R5 a listing pages through every record once, in the order of the ids
"""

from __future__ import annotations

from typing import Protocol

from medical_image_processing.model.algorithm import Algorithm, AlgorithmSpec, AlgorithmStatus, ResourceStatus
from medical_image_processing.model.page import Page


class Registry(Protocol):
    """Algorithms by id."""

    async def get(self, algo_id: str) -> Algorithm | None:
        """The record, or None."""

    async def page(
        self, *, status: AlgorithmStatus | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[Algorithm]:
        """One page, ordered by id; ``cursor`` is the last id of the page before."""

    async def create(self, spec: AlgorithmSpec, *, actor: str) -> Algorithm:
        """A new record, PENDING, revision 1."""

    async def update(
        self, spec: AlgorithmSpec, *, status: AlgorithmStatus, based_on: int, actor: str, action: str
    ) -> Algorithm:
        """Replace the desired state of revision ``based_on``."""

    async def set_status(
        self,
        algo_id: str,
        *,
        revision: int,
        status: AlgorithmStatus,
        reason: str | None,
        resources: ResourceStatus,
    ) -> None:
        """What the provisioner found. StaleRevision when the desired state has moved on."""

    async def remove(self, algo_id: str, *, revision: int, actor: str) -> None:
        """Forget the record; the audit entries stay."""
