"""The way back to the client.

Clauses, each a test in ``testing/``:

- D1 ``push`` never waits for a client, and never raises because of one
- D2 a job that no connection took stays unseen in the job records (law J7)
"""

from __future__ import annotations

from typing import Protocol

from medical_image_processing.model.job import Job


class Push(Protocol):
    """Sends a finished job to its client's connections."""

    async def push(self, job: Job) -> None:
        """Hand the job to whichever connections its client has now."""
