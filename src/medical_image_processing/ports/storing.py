"""Results on their way back into the PACS.

Clauses, each a test in ``testing/storing_contract.py`` that every engine inherits:

- T1 a job that was asked to be stored is to be stored from the moment it SUCCEEDED, whatever is killed (law J1)
- T2 one that is done or failed is not handed out again; one that was put off only when its time has come
- T3 storing the same instance twice leaves one
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from medical_image_processing.model.job import Job, JobError, StoreStatus


class ResultsToStore(Protocol):
    """The jobs whose results wait to be stored."""

    async def due(self, *, limit: int) -> Sequence[Job]:
        """Those whose time has come, the longest due first."""

    async def wait_for_due(self, *, at_most_s: float) -> None:
        """Return once some may be due, or after so many seconds."""

    async def note(
        self, job_id: str, status: StoreStatus, *, error: JobError | None = None, again_in_s: float = 0.0
    ) -> None:
        """What came of an attempt; a PENDING one is due ``again_in_s`` from now."""


class ResultFiles(Protocol):
    """The output bucket."""

    def local(self, bucket: str, key: str) -> AbstractAsyncContextManager[Path]:
        """The object as a file of this machine for a while. NotFound ``RESULT_GONE``."""


class PacsWriter(Protocol):
    """Where DICOM instances can be stored."""

    async def store(self, file: Path, study_id: str) -> None:
        """Store an instance, whole or not at all; one that is there already is left, or replaced by its like.

        ``study_id`` is the job's, "" where nobody knows it: where the PACS names studies by their UIDs, the
        instance must be of that one.
        PermanentError when it can't be, as ``NOT_DICOM``, ``STORE_REFUSED``; TransientError when the PACS is in
        trouble.
        """
