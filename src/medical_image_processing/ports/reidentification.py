"""Results of de-identifying algorithms on their way back to the patient.

Clauses, each a test in ``test/contract/test_reidentification_embedded.py``:

- V1 the same result for the same job makes the same objects, however often (law J2)
- V2 a job's place is what its message says, whatever a result claims
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from medical_image_processing.model.job import JobMessage


class JobMessages(Protocol):
    """What stood on the queue for a job."""

    async def message(self, job_id: str) -> JobMessage | None:
        """The message as the algorithm got it, or None."""


class PatientsObject(Protocol):
    """A DICOM object that may be large."""

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, from the start each time. Blocks."""


class Reidentifier(Protocol):
    """Gives results their patient back. PermanentError where that can't be, TransientError when the PACS is in
    trouble."""

    def reidentified(
        self, job: JobMessage, files: Sequence[Path]
    ) -> AbstractAsyncContextManager[Sequence[PatientsObject]]:
        """The DICOM objects of one job, which may refer to each other, as objects of the patient, for a while.

        Patient and study are those of the images that ``job`` is about. ``NOT_DICOM``, ``RESULT_UNKNOWN_UID``,
        ``RESULT_OF_OTHER_STUDY``, ``SOURCE_GONE``.
        """

    async def real_uids(self, uids: Sequence[str]) -> list[str]:
        """The UIDs behind pseudonyms. ``RESULT_UNKNOWN_UID`` where one is none."""


class ReidentifiedObjects(Protocol):
    """Where they are put: in the output bucket, out of the algorithms' reach."""

    async def put(self, key: str, content: PatientsObject) -> None:
        """Durably, and whole or not at all."""
