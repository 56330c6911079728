"""The access record (law A4): which algorithm read which image, for which job.

Clauses, each a test in ``testing/``:

- I1 what was noted is found by its study, its reader and its job, newest first, page by page
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from medical_image_processing.model.page import Page


@dataclass(frozen=True)
class Access:
    """One image that a reader got. UIDs that its header lacked are ``""``; ``at`` is ISO 8601, UTC."""

    at: str
    algo_id: str
    job_id: str | None
    study_uid: str
    series_uid: str
    image_uid: str


class Accesses(Protocol):
    """What was read."""

    async def page(
        self,
        *,
        study_uid: str | None = None,
        algo_id: str | None = None,
        job_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Access]:
        """One page, newest first."""
