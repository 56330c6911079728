"""The clauses of ports.storing, and what control decides over it, for every engine to inherit.

A subclass provides ``run``: it opens a fresh place, awaits the given coroutine function with it, and closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from medical_image_processing.control.storing import LAST_PAUSE_S, Storing
from medical_image_processing.errors import PermanentError, Unavailable
from medical_image_processing.model.job import (
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    Output,
    Stored,
    StoredObject,
    StoreStatus,
)
from medical_image_processing.ports.jobs import Jobs, Report
from medical_image_processing.ports.storing import ResultFiles, ResultsToStore

ALGO = "liver"
STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
"""That of :func:`an_instance`."""
RESULTS = (f"{ALGO}/s/one.dcm", f"{ALGO}/s/two.dcm")
_DOWN = Unavailable("PACS_UNAVAILABLE", "it is down", retry_after_s=1)
_PAUSES_S = (1, 2, 4, 8, 16, 32, 64, 128, 256, LAST_PAUSE_S, LAST_PAUSE_S)


class StoringPlace(Protocol):
    """Jobs, their results, and a clock that stands still; the queues of :data:`ALGO` exist."""

    jobs: Jobs
    to_store: ResultsToStore
    files: ResultFiles
    bucket: str

    def pass_time(self, seconds: float) -> None:
        """Put the clock forward."""

    async def put_result(self, key: str, content: bytes) -> None:
        """An object into the output bucket."""

    async def remove_result(self, key: str) -> None:
        """And away."""

    async def restart(self) -> None:
        """Forget all that isn't kept, as a process does that dies."""


class Pacs:
    """Takes instances, or raises ``fault``. Whoever comes at ``gate`` waits until so many have."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.fault: Exception | None = None
        self.gate = asyncio.Barrier(1)

    async def store(self, file: Path, study_id: str) -> None:
        """Note the instance's UID (ports.storing.PacsWriter)."""
        assert study_id == STUDY, "the job's own"
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.taken.append(str(pydicom.dcmread(file).SOPInstanceUID))


async def succeed(
    place: StoringPlace, job_id: str, *, store: bool = True, status: JobStatus = JobStatus.SUCCEEDED
) -> None:
    """A job that ended. If well, its results are two instances and a table that is nowhere."""
    for number, key in enumerate(RESULTS):
        await place.put_result(key, an_instance(f"1.2.{number}"))
    await end(place, job_id, store=store, status=status)


async def end(
    place: StoringPlace, job_id: str, *, store: bool = True, status: JobStatus = JobStatus.SUCCEEDED
) -> None:
    """The same, whether its results are there or not."""
    await accept(place, job_id, store=store)
    outputs = tuple(Output(kind="SC", bucket=place.bucket, key=key) for key in RESULTS)
    table = Output(kind="other", bucket=place.bucket, key="no/such/table", media_type="text/csv")
    result = JobResult(dicom=StoredObject(bucket=place.bucket, key=RESULTS[0]), outputs=(*outputs, table))
    if status is JobStatus.SUCCEEDED:
        report = Report(job_id, ALGO, status, result=result)
    else:
        report = Report(job_id, ALGO, status, error=JobError(code="ALGORITHM_RAISED", message="it broke"))
    await place.jobs.apply([report])


async def accept(place: StoringPlace, job_id: str, *, store: bool = True) -> None:
    """A job that waits."""
    pacs: dict[str, Any] = {"study_id": STUDY, "scope": "study"}
    message = {"job_id": job_id, "client_id": "c", "algo_id": ALGO, "pacs": pacs, "store": store or None}
    await place.jobs.accept(JobMessage.model_validate(message), "fingerprint")


def an_instance(uid: str) -> bytes:
    """A small DICOM file."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    buffer = BytesIO()
    image.save_as(buffer)
    return buffer.getvalue()


async def stored(place: StoringPlace, job_id: str) -> Stored | None:
    """How storing a job goes."""
    job = await place.jobs.get(job_id)
    assert job is not None
    return job.stored


async def due(place: StoringPlace) -> list[str]:
    """The jobs that are to be stored now."""
    return [job.job_id for job in await place.to_store.due(limit=10)]


class StoringContract:
    """Clauses T1 to T3."""

    def run(self, work: Callable[[StoringPlace], Awaitable[None]]) -> None:
        """Run ``work`` in a fresh place."""
        raise NotImplementedError

    def test_t1_a_job_that_asked_for_it_is_to_be_stored_from_its_good_end(self) -> None:
        async def work(place: StoringPlace) -> None:
            await accept(place, "waits")
            await place.jobs.apply([Report("waits", ALGO, JobStatus.RUNNING, progress=0.5)])
            await succeed(place, "not-asked", store=False)
            await succeed(place, "failed", status=JobStatus.FAILED)
            await accept(place, "cancelled")
            await place.jobs.cancel("cancelled", actor="anna")
            late = JobResult(dicom=StoredObject(bucket=place.bucket, key=RESULTS[0]))
            await place.jobs.apply([Report("cancelled", ALGO, JobStatus.SUCCEEDED, result=late)])
            assert await due(place) == []
            await succeed(place, "asked")
            assert await due(place) == ["asked"]
            assert await stored(place, "asked") == Stored(status=StoreStatus.PENDING)
            for job_id in ("waits", "not-asked", "failed", "cancelled"):
                assert await stored(place, job_id) is None

        self.run(work)

    def test_t1_each_instance_is_stored_once(self) -> None:
        async def work(place: StoringPlace) -> None:
            await succeed(place, "asked")
            pacs = Pacs()
            storing = Storing(place.to_store, place.files, lambda _: pacs)
            assert await storing.store_due() == 1
            assert pacs.taken == ["1.2.0", "1.2.1"]
            assert await stored(place, "asked") == Stored(status=StoreStatus.DONE, attempts=1)
            assert await storing.store_due() == 0

        self.run(work)

    def test_t1_what_is_to_be_stored_outlives_the_process(self) -> None:
        async def work(place: StoringPlace) -> None:
            await succeed(place, "asked")
            await place.restart()
            pacs = Pacs()
            assert await Storing(place.to_store, place.files, lambda _: pacs).store_due() == 1
            assert len(pacs.taken) == 2

        self.run(work)

    def test_t2_a_pacs_in_trouble_is_tried_again_ever_later_and_the_reason_is_there(self) -> None:
        async def work(place: StoringPlace) -> None:
            await succeed(place, "asked")
            pacs = Pacs()
            storing = Storing(place.to_store, place.files, lambda _: pacs)
            pacs.fault = _DOWN
            for attempt, pause_s in enumerate(_PAUSES_S, start=1):
                assert await storing.store_due() == 1
                now = await stored(place, "asked")
                assert now is not None and now.error is not None
                assert (now.status, now.attempts, now.error.code) == ("pending", attempt, "PACS_UNAVAILABLE")
                place.pass_time(pause_s - 0.5)
                assert await due(place) == [], f"before its {pause_s} s"
                place.pass_time(0.5)
            pacs.fault = None
            assert await storing.store_due() == 1
            assert await stored(place, "asked") == Stored(status=StoreStatus.DONE, attempts=len(_PAUSES_S) + 1)

        self.run(work)

    def test_t2_what_can_not_be_stored_is_stated_and_left(self) -> None:
        faults = {
            "STORE_REFUSED": PermanentError("STORE_REFUSED", "it takes no such thing"),
            "STORE_FAILED": ZeroDivisionError("PATIENT^NAME"),
        }

        async def work(place: StoringPlace) -> None:
            pacs = Pacs()
            storing = Storing(place.to_store, place.files, lambda _: pacs)
            for code, fault in faults.items():
                await succeed(place, code)
                pacs.fault = fault
                assert await storing.store_due() == 1
                now = await stored(place, code)
                assert now is not None and now.error is not None
                assert (now.status, now.error.code) == ("failed", code)
                assert "PATIENT" not in now.error.message
            place.pass_time(10_000)
            assert await due(place) == []

        self.run(work)

    def test_t2_a_result_that_is_gone_is_said_to_be_so(self) -> None:
        async def work(place: StoringPlace) -> None:
            await succeed(place, "asked")
            await place.remove_result(RESULTS[1])
            await Storing(place.to_store, place.files, lambda _: Pacs()).store_due()
            now = await stored(place, "asked")
            assert now is not None and now.error is not None
            assert (now.status, now.error.code) == ("failed", "RESULT_GONE")
            place.pass_time(10_000)
            assert await due(place) == []

        self.run(work)

    def test_t2_those_that_wait_longest_come_first_and_no_more_than_asked_for(self) -> None:
        async def work(place: StoringPlace) -> None:
            for number in range(4):
                await succeed(place, f"j{number}")
                place.pass_time(1)
            await place.to_store.note("j0", StoreStatus.PENDING, again_in_s=0)
            first = [job.job_id for job in await place.to_store.due(limit=3)]
            assert first == ["j1", "j2", "j3"]
            await place.to_store.note("j2", StoreStatus.DONE)
            assert await due(place) == ["j1", "j3", "j0"]

        self.run(work)

    def test_t2_late_news_of_a_job_that_is_done_changes_nothing(self) -> None:
        async def work(place: StoringPlace) -> None:
            await succeed(place, "asked")
            late = JobError(code="PACS_UNAVAILABLE", message="it was down")
            await place.to_store.note("asked", StoreStatus.DONE)
            await place.to_store.note("asked", StoreStatus.PENDING, error=late)
            await place.to_store.note("asked", StoreStatus.FAILED, error=late)
            await place.to_store.note("no-such-job", StoreStatus.DONE)
            assert await stored(place, "asked") == Stored(status=StoreStatus.DONE, attempts=1)
            assert await due(place) == []

        self.run(work)

    def test_t3_two_that_store_side_by_side_store_the_same_instances(self) -> None:
        async def work(place: StoringPlace) -> None:
            await succeed(place, "asked")
            pacs = Pacs()
            pacs.gate = asyncio.Barrier(2)
            both = (Storing(place.to_store, place.files, lambda _: pacs) for _ in range(2))
            assert await asyncio.gather(*(storing.store_due() for storing in both)) == [1, 1]
            assert sorted(pacs.taken) == ["1.2.0", "1.2.0", "1.2.1", "1.2.1"]
            assert await stored(place, "asked") == Stored(status=StoreStatus.DONE, attempts=1)
            assert await due(place) == []

        self.run(work)
