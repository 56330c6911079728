"""Results of algorithms with ``deidentify``: given their patient back before anybody sees them.

The platform does this, never the algorithm. The new objects lie where no algorithm may write or read, each under a
name made from its content: done again after a crash, it is the same, and a late result replaces nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from typing import Any

from medical_image_processing import naming
from medical_image_processing.errors import PermanentError
from medical_image_processing.model.job import JobResult
from medical_image_processing.ports.reidentification import (
    JobMessages,
    PatientsObject,
    ReidentifiedObjects,
    Reidentifier,
)
from medical_image_processing.ports.storing import ResultFiles

_DICOM = "application/dicom"


class Reidentification:
    """``objects`` is the bucket that ``files`` reads."""

    def __init__(
        self, jobs: JobMessages, files: ResultFiles, objects: ReidentifiedObjects, reidentifier: Reidentifier
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._objects = objects
        self._reidentifier = reidentifier

    async def of_patient(self, job_id: str, algo_id: str, result: JobResult) -> JobResult:
        """The job's result with objects of the patient in place of the algorithm's.

        PermanentError as :class:`Reidentifier`, and ``RESULT_GONE``; TransientError when it can't be done now.
        """
        job = await self._jobs.message(job_id)
        if job is None or job.algo_id != algo_id:
            raise PermanentError("UNKNOWN_JOB", "the result is of no job that is on record")
        outputs = [(one.bucket, one.key) for one in result.outputs]
        named = list(dict.fromkeys([(result.dicom.bucket, result.dicom.key), *outputs]))
        if any(one.media_type != _DICOM for one in result.outputs):
            raise PermanentError(
                "NOT_DICOM", "with deidentify an algorithm's outputs are DICOM objects, and nothing else"
            )
        async with AsyncExitStack() as stack:
            files = [await stack.enter_async_context(self._files.local(*one)) for one in named]
            made = await stack.enter_async_context(self._reidentifier.reidentified(job, files))
            provenance = await self._provenance(result.provenance)
            keys = {}
            for one, content in zip(named, made, strict=True):
                keys[one] = naming.reidentified_key(algo_id, job_id, await asyncio.to_thread(_digest, content))
                await self._objects.put(keys[one], content)
        return JobResult(
            dicom=result.dicom.model_copy(update={"key": keys[result.dicom.bucket, result.dicom.key]}),
            outputs=tuple(one.model_copy(update={"key": keys[one.bucket, one.key]}) for one in result.outputs),
            provenance=provenance,
        )

    async def _provenance(self, said: dict[str, Any] | None) -> dict[str, Any] | None:
        source = (said or {}).get("input")
        uids = source.get("sop_instance_uids") if isinstance(source, dict) else None
        if not isinstance(source, dict) or not isinstance(uids, list):
            return said
        if not all(isinstance(uid, str) for uid in uids):
            raise PermanentError(
                "RESULT_UNKNOWN_UID", "the result's provenance names images by something else than UIDs"
            )
        return {**(said or {}), "input": {**source, "sop_instance_uids": await self._reidentifier.real_uids(uids)}}


def _digest(content: PatientsObject) -> str:
    digest = hashlib.sha256()
    for piece in content.pieces():
        digest.update(piece)
    return digest.hexdigest()[:32]
