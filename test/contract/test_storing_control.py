"""What control decides of storing: one job's trouble, or one object's, holds up no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from medical_image_processing import naming
from medical_image_processing.control.storing import Storing
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.storing import OutputFiles, SqliteResultsToStore
from medical_image_processing.errors import MipError, PermanentError, Unavailable
from medical_image_processing.model.job import (
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    Output,
    StoredObject,
    StoreStatus,
)
from medical_image_processing.ports.jobs import Report

ALGO, BUCKET = "algo_1", "mip-output"
WITHIN_S = 20.0


class FullDisk(SqliteResultsToStore):
    """Can't note anything of the jobs in ``unnoted``, as on a disk that is full."""

    unnoted: frozenset[str] = frozenset()
    fault: Any = Unavailable("DATABASE_UNAVAILABLE", "the disk is full", retry_after_s=0.05)
    refused = 0

    async def note(
        self, job_id: str, status: StoreStatus, *, error: JobError | None = None, again_in_s: float = 0.0
    ) -> None:
        if job_id in self.unnoted:
            self.refused += 1
            raise self.fault
        await super().note(job_id, status, error=error, again_in_s=again_in_s)


class Pacs:
    """Takes files, but raises the fault of a file's name, and keeps files waiting that are ``slow``."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.slow: set[str] = set()
        self.goes_on = asyncio.Event()

    async def store(self, file: Path, study_id: str) -> None:
        name = file.relative_to(file.parents[1]).as_posix()
        if name in self.slow:
            await self.goes_on.wait()
        if fault := self.faults.get(name):
            raise fault
        self.taken.append(name)


class Place:
    """Jobs in a database, and their results in a folder."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.database = Database(folder / "mip.db")
        self.queues = FifoQueues(self.database)
        self.jobs = SqliteJobs(self.database, self.queues, clock=lambda: 1000.0)
        self.now = 1000.0
        self.to_store = FullDisk(self.database, clock=lambda: self.now)
        self.pacs = Pacs()
        self.storing = Storing(
            self.to_store, OutputFiles(ObjectStore(self.output, bucket=BUCKET)), lambda _: self.pacs
        )

    async def succeed(self, job_id: str, kinds: tuple[str, ...] = ("SC",), table: bool = False) -> None:
        """A job that made objects of these ``kinds``; before them, as the result itself, a ``table``."""
        outputs = [Output(kind=kind, bucket=BUCKET, key=f"{ALGO}/{job_id}/{kind}") for kind in kinds]
        if table:
            outputs.insert(0, Output(kind="other", bucket=BUCKET, key=f"{ALGO}/{job_id}/t", media_type="text/csv"))
        for one in outputs:
            path = self.output / one.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"content")
        pacs = {"study_id": "s", "scope": "study"}
        message = {"job_id": job_id, "client_id": "c", "algo_id": ALGO, "pacs": pacs, "store": True}
        await self.jobs.accept(JobMessage.model_validate(message), "fingerprint")
        first = StoredObject(bucket=BUCKET, key=outputs[0].key)
        result = JobResult(dicom=first, outputs=tuple(outputs))
        await self.jobs.apply([Report(job_id, ALGO, JobStatus.SUCCEEDED, result=result)])
        self.to_store.wake()

    async def stored(self, job_id: str) -> tuple[str, JobError | None]:
        job = await self.jobs.get(job_id)
        assert job is not None and job.stored is not None
        return job.stored.status, job.stored.error


def at(folder: Path, work: Callable[[Place], Awaitable[None]]) -> None:
    async def go() -> None:
        place = Place(folder)
        dead = naming.dead_letter_queue(ALGO)
        await place.queues.create(dead, redrive_to=None)
        await place.queues.create(naming.queue(ALGO), redrive_to=dead)
        try:
            async with asyncio.timeout(WITHIN_S):
                await work(place)
        finally:
            await place.database.close()

    asyncio.run(go())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", [FullDisk.fault, ZeroDivisionError("a defect")], ids=["full disk", "defect"])
def test_a_job_that_can_not_be_noted_ends_nothing_and_holds_up_no_other(tmp_path: Path, fault: Exception) -> None:
    async def work(place: Place) -> None:
        place.to_store.unnoted, place.to_store.fault = frozenset({"first"}), fault
        began = time.monotonic()
        running = asyncio.create_task(place.storing.run())
        await place.succeed("first")
        await until(lambda: place.to_store.refused)
        await place.succeed("second")
        await until(lambda: "second/SC" in place.pacs.taken)
        assert not running.done()
        refused, took_s = place.to_store.refused, time.monotonic() - began
        place.to_store.unnoted = frozenset()
        if isinstance(fault, Unavailable):
            while (await place.stored("first"))[0] != "done":
                await asyncio.sleep(0.01)
        assert refused <= 1 + took_s / FullDisk.fault.retry_after_s, "tried again without a pause"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    at(tmp_path, work)


def test_a_slow_store_holds_up_no_other_job(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        place.pacs.slow = {"slow/SC"}
        running = asyncio.create_task(place.storing.run())
        await place.succeed("slow")
        for number in range(25):
            await place.succeed(f"job-{number}")
        await until(lambda: len(place.pacs.taken) == 25)
        place.pacs.goes_on.set()
        await until(lambda: "slow/SC" in place.pacs.taken)
        assert place.pacs.taken.count("slow/SC") == 1
        running.cancel()

    at(tmp_path, work)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (PermanentError("STORE_REFUSED", "it takes no such thing"), "failed"),
        (Unavailable("PACS_UNAVAILABLE", "it is in trouble"), "pending"),
        (ZeroDivisionError("PATIENT^NAME"), "failed"),
    ],
    ids=["refused", "in trouble", "defect"],
)
def test_an_object_that_is_not_stored_keeps_none_from_it_and_is_named(
    tmp_path: Path, fault: Exception, status: str
) -> None:
    async def work(place: Place) -> None:
        await place.succeed("asked", ("SC", "SEG", "SR"))
        place.pacs.faults = {"asked/SC": fault}
        await place.storing.store_due()
        assert place.pacs.taken == ["asked/SEG", "asked/SR"]
        now, error = await place.stored("asked")
        assert now == status and error is not None
        assert error.code == (fault.code if isinstance(fault, MipError) else "STORE_FAILED")
        assert error.message.startswith("1 of 3 objects are not stored. SC: ") and "PATIENT" not in error.message

    at(tmp_path, work)


def test_what_was_stored_is_not_sent_again_when_another_object_waits(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.succeed("asked", ("SC", "SEG", "SR"))
        place.pacs.faults = {"asked/SEG": Unavailable("PACS_UNAVAILABLE", "it is in trouble")}
        for _ in range(3):
            assert await place.storing.store_due() == 1
            place.now += 1000
        place.pacs.faults = {}
        await place.storing.store_due()
        assert place.pacs.taken == ["asked/SC", "asked/SR", "asked/SEG"]
        assert await place.stored("asked") == ("done", None)

    at(tmp_path, work)


def test_trouble_that_may_pass_comes_before_what_is_refused(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.succeed("asked", ("SC", "SEG"))
        place.pacs.faults = {
            "asked/SC": PermanentError("STORE_REFUSED", "no"),
            "asked/SEG": Unavailable("PACS_UNAVAILABLE", "it is down"),
        }
        await place.storing.store_due()
        now, error = await place.stored("asked")
        assert now == "pending" and error is not None and error.code == "PACS_UNAVAILABLE"
        assert "SC: no; SEG: it is down" in error.message

    at(tmp_path, work)


def test_a_first_result_that_is_no_dicom_is_left_and_the_others_are_stored(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.succeed("asked", ("SEG",), table=True)
        await place.storing.store_due()
        assert place.pacs.taken == ["asked/SEG"]
        assert await place.stored("asked") == ("done", None)

    at(tmp_path, work)
