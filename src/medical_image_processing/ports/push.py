"""The way back to the client.

Clauses; connections are the API's and not an engine's, so the tests are of a whole platform,
``test/system/test_end_to_end.py``, those of law J7 and of two connections:

- D1 ``push`` never waits for a client, and never raises because of one; Unavailable where the way to them all is
  broken, and then it may be repeated
- D2 a job that no connection took stays unseen in the job records (law J7)
"""

from __future__ import annotations

from typing import Protocol

from medical_image_processing.model.job import Job


class Push(Protocol):
    """Sends a finished job to its client's connections."""

    async def push(self, job: Job) -> None:
        """Hand the job to whichever connections its client has now."""


class Connections(Push, Protocol):
    """The clients' connections."""

    async def close(self, holder: str) -> None:
        """End the connections that were opened with the key of ``holder`` (ports.keys, clause K2)."""
