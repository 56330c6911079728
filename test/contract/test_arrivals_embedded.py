"""What nodes sent: ports.arrivals on the embedded engine, the jobs it becomes, and the way of their results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from medical_image_processing import naming
from medical_image_processing.control.receiving import Receiving
from medical_image_processing.control.router import Router
from medical_image_processing.control.storing import MOST_ATTEMPTS, Sending
from medical_image_processing.engines.embedded.arrivals import SqliteArrivals
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.registry import SqliteRegistry
from medical_image_processing.engines.embedded.storing import TO_NODE, OutputFiles, SqliteResultsToStore
from medical_image_processing.errors import Conflict, InvalidRequest, MipError, NotFound, Unavailable
from medical_image_processing.model.algorithm import (
    AlgorithmPatch,
    AlgorithmSpec,
    AlgorithmStatus,
    ResourceStatus,
)
from medical_image_processing.model.job import Job, JobError, JobResult, JobStatus, StoredObject, StoreStatus
from medical_image_processing.ports.arrivals import ArrivedSeries
from medical_image_processing.ports.jobs import DEAD_LETTERED, Report

ALGO, BUCKET, KEY = "algo_1", "mip-output", "algo_1/result.dcm"
SERIES = ArrivedSeries("SCANNER", ALGO, "1.2.3", "1.2.3.4")
OTHER = ArrivedSeries("SCANNER", ALGO, "1.2.3", "1.2.3.5")


class Place:
    """A platform's parts over a database, with a clock of its own; its PACS raises ``fault`` where it has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        self.fault: MipError | None = None
        self.stored: list[Path] = []
        self.indexed = 0

    async def open(self) -> None:
        self.database = Database(self.folder / "mip.db")
        queues = FifoQueues(self.database)
        self.registry = SqliteRegistry(self.database, clock=self.clock)
        self.jobs = SqliteJobs(self.database, queues, clock=self.clock)
        self.arrivals = SqliteArrivals(self.database, clock=self.clock)
        self.to_send = SqliteResultsToStore(self.database, clock=self.clock, way=TO_NODE)
        dead = naming.dead_letter_queue(ALGO)
        await queues.create(dead, redrive_to=None)
        await queues.create(naming.queue(ALGO), redrive_to=dead)
        router = Router(self.registry, self.jobs, queues, queue_limit=100)
        self.receiving = Receiving(
            self.arrivals,
            self.registry,
            router,
            self,
            self.index,
            titles={"Liver": ALGO},
            clock=self.clock,
        )
        self.files = OutputFiles(ObjectStore(self.folder / "output", bucket=BUCKET))
        self.sending = Sending(self.to_send, self.files, lambda _: self)

    def clock(self) -> float:
        return self.now

    async def index(self) -> None:
        self.indexed += 1

    async def store(self, file: Path, study_id: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.stored.append(file)

    async def register(self, **more: Any) -> None:
        spec = AlgorithmSpec(algo_id=ALGO, image_uri="i", cpu=256, memory=512, command=("c",), **more)
        await self.registry.create(spec, actor="a")
        await self.become(AlgorithmStatus.ACTIVE)

    async def change(self, **changed: Any) -> None:
        record = await self.registry.get(ALGO)
        assert record is not None
        spec = AlgorithmPatch(**changed).apply_to(record.spec())
        await self.registry.update(
            spec, status=AlgorithmStatus.ACTIVE, based_on=record.revision, actor="a", action="update"
        )

    async def become(self, status: AlgorithmStatus) -> None:
        await self.registry.set_status(ALGO, revision=1, status=status, reason=None, resources=ResourceStatus())

    async def succeed(self, job_id: str) -> Job:
        path = self.folder / "output" / KEY
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a result")
        result = JobResult(dicom=StoredObject(bucket=BUCKET, key=KEY))
        [job] = await self.jobs.apply([Report(job_id, ALGO, JobStatus.SUCCEEDED, result=result)])
        return job

    async def all_jobs(self) -> list[Job]:
        return list((await self.jobs.page()).items)

    async def sent(self, job_id: str) -> tuple[str, int, str | None]:
        job = await self.jobs.get(job_id)
        assert job is not None and job.sent is not None
        return job.sent.status, job.sent.attempts, job.sent.error.code if job.sent.error else None


def run(folder: Path, work: Callable[[Place], Awaitable[None]]) -> None:
    async def go() -> None:
        place = Place(folder)
        await place.open()
        try:
            await work(place)
        finally:
            await place.database.close()

    asyncio.run(go())


FILE = Path("instance.dcm")


def test_c1_j1_what_was_noted_waits_until_there_is_a_job_for_it(tmp_path: Path) -> None:
    async def die(place: Place) -> None:
        await place.register()
        await place.receiving.take("association", SERIES, "1.2", FILE)
        await place.receiving.take("association", OTHER, "1.1", FILE)

    async def live_again(place: Place) -> None:
        assert list(await place.arrivals.waiting()) == [SERIES, OTHER]
        assert await place.receiving.send_jobs() == 2 and place.indexed == 1
        assert not await place.arrivals.waiting() and await place.receiving.send_jobs() == 0
        assert {(job.client_id, job.send_to) for job in await place.all_jobs()} == {("dimse.SCANNER", "SCANNER")}

    run(tmp_path, die)
    run(tmp_path, live_again)


def test_c2_what_came_after_the_look_still_waits(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.arrivals.note(SERIES, "1.1")
        looked = await place.arrivals.look(SERIES)
        await place.arrivals.note(SERIES, "1.0")
        await place.arrivals.done(looked, "job")
        assert (await place.arrivals.look(SERIES)).sop_uids == ("1.0",)
        assert list(await place.arrivals.waiting()) == [SERIES]

    run(tmp_path, work)


def test_a4_who_sent_what_for_which_job_is_on_record(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.register()
        await place.receiving.take("association", SERIES, "1.1", FILE)
        place.receiving.end("association")
        await place.receiving.send_jobs()
        [job] = await place.all_jobs()
        await place.succeed(job.job_id)
        await place.sending.store_due()
        sql = "SELECT actor, action, subject FROM audit WHERE action IN ('receive', 'send') ORDER BY seq"
        found = [tuple(row) for row in place.database.read(sql)]
        assert found == [("dimse.SCANNER", "receive", "1.2.3"), ("platform", "send", job.job_id)]

    run(tmp_path, work)


def test_j3_the_same_images_in_another_order_are_the_same_job(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.register()
        for order in (("1.1", "1.2"), ("1.2", "1.1", "1.1"), ("1.1", "1.2", "1.3")):
            for uid in order:
                await place.receiving.take("association", SERIES, uid, FILE)
            place.receiving.end("association")
            assert await place.receiving.send_jobs() == 1
        assert len(await place.all_jobs()) == 2

    run(tmp_path, work)


def test_a_series_waits_for_the_last_association_that_brings_it(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.register()
        await place.receiving.take("first", SERIES, "1.1", FILE)
        await place.receiving.take("second", SERIES, "1.2", FILE)
        await place.receiving.take("third", OTHER, "1.3", FILE)
        place.receiving.end("first")
        assert await place.receiving.send_jobs() == 0
        place.receiving.end("second")
        assert await place.receiving.send_jobs() == 1
        assert list(await place.arrivals.waiting()) == [OTHER]

    run(tmp_path, work)


def test_what_the_pacs_does_not_take_is_not_noted(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        place.fault = Unavailable("PACS_UNAVAILABLE", "it is down")
        with pytest.raises(Unavailable):
            await place.receiving.take("association", SERIES, "1.1", FILE)
        assert not await place.arrivals.waiting()

    run(tmp_path, work)


def test_a_series_whose_algorithm_takes_no_jobs_is_put_off_and_said(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.arrivals.note(SERIES, "1.1")
        assert await place.receiving.send_jobs() == 0
        trouble = place.receiving.trouble
        assert trouble is not None and trouble.code == "UNKNOWN_ALGORITHM"
        await place.register()
        assert await place.receiving.send_jobs() == 0, "it is not due yet"
        place.now += 1
        assert await place.receiving.send_jobs() == 1
        assert place.receiving.trouble is None

    run(tmp_path, work)


def test_titles_name_active_algorithms_alone(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        with pytest.raises(NotFound):
            await place.receiving.find_algorithm("ALGO_1")
        await place.register()
        assert await place.receiving.find_algorithm("ALGO_1") == ALGO
        assert await place.receiving.find_algorithm("Liver") == ALGO
        for title in ("algo_1", "Algo_1", "LIVER", ""):
            with pytest.raises(NotFound):
                await place.receiving.find_algorithm(title)
        await place.become(AlgorithmStatus.INACTIVE)
        with pytest.raises(Conflict):
            await place.receiving.find_algorithm("ALGO_1")

    run(tmp_path, work)


NEEDS_ONE = {"type": "object", "properties": {"above": {"type": "number", "default": 1}}, "required": ["above"]}
NEEDS_NONE = {**NEEDS_ONE, "required": []}


def test_an_algorithm_that_requires_parameters_is_refused_as_c_store_brings_none(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.register(parameters=NEEDS_ONE)
        with pytest.raises(InvalidRequest, match="above") as refused:
            await place.receiving.find_algorithm("ALGO_1")
        assert refused.value.code == "PARAMETERS_NEEDED"
        await place.change(parameters=NEEDS_NONE)
        assert await place.receiving.find_algorithm("ALGO_1") == ALGO

    run(tmp_path, work)


def test_what_came_before_parameters_were_required_waits_says_why_and_gets_its_job(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.register()
        await place.receiving.take("association", SERIES, "1.1", FILE)
        place.receiving.end("association")
        await place.change(parameters=NEEDS_ONE)
        assert await place.receiving.send_jobs() == 0
        trouble = place.receiving.trouble
        assert trouble is not None and (trouble.code, "above" in trouble.message) == ("INVALID_PARAMETERS", True)
        await place.change(parameters=NEEDS_NONE)
        place.now += 1
        assert await place.receiving.send_jobs() == 1
        assert place.receiving.trouble is None

    run(tmp_path, work)


async def sent_job(place: Place) -> str:
    """A job of what a node sent."""
    await place.register()
    await place.arrivals.note(SERIES, "1.1")
    await place.receiving.send_jobs()
    return (await place.all_jobs())[0].job_id


def test_t1_a_result_is_sent_once_and_outlives_the_process(tmp_path: Path) -> None:
    async def die(place: Place) -> None:
        await place.succeed(await sent_job(place))

    async def live_again(place: Place) -> None:
        assert await place.sending.store_due() == 1 and [file.name for file in place.stored] == ["result.dcm"]
        assert await place.sending.store_due() == 0
        assert await place.sent((await place.all_jobs())[0].job_id) == (StoreStatus.DONE, 1, None)

    run(tmp_path, die)
    run(tmp_path, live_again)


def test_t2_a_node_that_stays_away_is_given_up_after_more_than_a_day(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        await place.succeed(job_id := await sent_job(place))
        place.fault = Unavailable("NODE_UNAVAILABLE", "it is down", retry_after_s=0)
        began = place.now
        for attempt in range(1, MOST_ATTEMPTS):
            assert await place.sending.store_due() == 1
            assert await place.sent(job_id) == (StoreStatus.PENDING, attempt, "NODE_UNAVAILABLE")
            assert place.sending.trouble is not None
            place.now += min(2 ** (attempt - 1), 300)
        await place.sending.store_due()
        assert await place.sent(job_id) == (StoreStatus.FAILED, MOST_ATTEMPTS, "NODE_UNAVAILABLE")
        assert place.now - began > 86_400 and place.sending.trouble is None
        place.now += 1e6
        assert await place.sending.store_due() == 0

    run(tmp_path, work)


def test_a_job_that_failed_has_nothing_to_send_until_it_is_replayed(tmp_path: Path) -> None:
    async def work(place: Place) -> None:
        job_id = await sent_job(place)
        error = JobError(code=DEAD_LETTERED, message="no")
        await place.jobs.apply([Report(job_id, ALGO, JobStatus.FAILED, error=error)])
        await place.sending.store_due()
        assert await place.sent(job_id) == (StoreStatus.FAILED, 1, "NO_RESULT")
        await place.jobs.replay(job_id, actor="a")
        replayed = await place.jobs.get(job_id)
        assert replayed is not None and replayed.sent is None
        await place.succeed(job_id)
        await place.sending.store_due()
        assert await place.sent(job_id) == (StoreStatus.DONE, 1, None)

    run(tmp_path, work)


def test_b9_a_job_that_is_cancelled_has_nothing_to_send_and_the_same_images_again_do_not_reopen_it(
    tmp_path: Path,
) -> None:
    async def work(place: Place) -> None:
        job_id = await sent_job(place)
        cancelled = await place.jobs.cancel(job_id, actor="anna")
        assert cancelled.sent is not None, "its way to the node has no end"
        assert await place.sending.store_due() == 1
        assert await place.sent(job_id) == (StoreStatus.FAILED, 1, "NO_RESULT")
        assert await place.sending.store_due() == 0 and place.sending.trouble is None
        await place.arrivals.note(SERIES, "1.1")
        assert await place.receiving.send_jobs() == 1
        [job] = await place.all_jobs()
        assert job.status is JobStatus.CANCELLED and not place.stored

    run(tmp_path, work)
