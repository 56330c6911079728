"""What workers say becomes states and pushes, and nothing they say is trusted."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from medical_image_processing import naming
from medical_image_processing.api.results import job_answer
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.registry import SqliteRegistry
from medical_image_processing.errors import Unavailable
from medical_image_processing.model.algorithm import AlgorithmStatus
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.ports.queues import OutgoingMessage
from medical_image_processing.testing.jobs_contract import ALGO, a_message
from medical_image_processing.testing.registry_contract import a_spec
from medical_image_processing.testing.resources_contract import eventually

BUCKET = "mip-output-test"


@dataclass
class Pushed:
    """Keeps what was pushed (ports.push)."""

    jobs: list[Job] = field(default_factory=list)

    async def push(self, job: Job) -> None:
        self.jobs.append(job)


class Unsigned:
    """Gives objects no address (ports.outputs)."""

    def sign(self, bucket: str, key: str, *, base_url: str) -> str:
        return ""


@dataclass
class World:
    queues: FifoQueues
    jobs: SqliteJobs
    registry: SqliteRegistry
    pushed: Pushed
    delivery: Delivery
    sent: int = 0

    async def say(self, *bodies: Any, sender: str | None = ALGO) -> None:
        """Put messages on the results queue as a worker of ``sender`` would, and deliver what is there."""
        for body in bodies:
            self.sent += 1
            text = body if isinstance(body, str) else json.dumps(body)
            message = OutgoingMessage(body=text, group_id=str(self.sent), dedup_id=str(self.sent), sender=sender)
            await self.queues.send(naming.RESULTS_QUEUE, [message])
        await self.delivery.deliver(await self.queues.receive(naming.RESULTS_QUEUE, limit=100))

    async def job(self, job_id: str = "j1") -> Job:
        job = await self.jobs.get(job_id)
        assert job is not None
        return job


def run(folder: Path, work: Callable[[World], Awaitable[None]], **spec: Any) -> None:
    async def with_world() -> None:
        database = Database(folder / "mip.db")
        queues = FifoQueues(database)
        await queues.create(naming.RESULTS_QUEUE, redrive_to=None)
        dead = naming.dead_letter_queue(ALGO)
        await queues.create(dead, redrive_to=None)
        await queues.create(naming.queue(ALGO), redrive_to=dead, visibility_s=0.01)
        registry = SqliteRegistry(database, clock=time.time)
        await registry.create(a_spec(ALGO, **spec), actor="anna")
        jobs, pushed = SqliteJobs(database, queues, clock=time.time), Pushed()
        await jobs.accept(a_message("j1"), "same")
        delivery = Delivery(queues, jobs, registry, pushed, output_bucket=BUCKET)
        try:
            await work(World(queues, jobs, registry, pushed, delivery))
        finally:
            queues.close()
            await database.close()

    asyncio.run(with_world())


def said(**changes: Any) -> dict[str, Any]:
    """A good result, changed."""
    dicom = {"bucket": BUCKET, "key": f"{ALGO}/study-1/series-1/j1.dcm", "url": "https://evil.example"}
    return {"job_id": "j1", "algo_id": ALGO, "client_id": "client-1", "dicom": dicom, **changes}


def test_a_result_ends_the_job_is_pushed_once_and_leaves_the_queue(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.say(said(), said(), said(status="FAILED", dicom=None))
        await world.say(said())
        job = await world.job()
        assert job.status is JobStatus.SUCCEEDED and job.result is not None
        assert job.result.dicom.url is None
        assert [job.job_id for job in world.pushed.jobs] == ["j1"]
        assert await world.queues.depth(naming.RESULTS_QUEUE) == 0

    run(tmp_path, work)


def test_running_and_progress_show_on_the_record_and_are_not_pushed(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.say(said(status="RUNNING", dicom=None, progress=0.25, attempt=2))
        job = await world.job()
        assert (job.status, job.progress, job.attempts) == (JobStatus.RUNNING, 0.25, 2)
        assert job.started_at is not None and world.pushed.jobs == []
        await world.say(said(status="RUNNING", dicom=None, error={"code": "PACS_DOWN", "message": "no answer"}))
        assert (await world.job()).error is not None
        await world.say(said())
        assert (await world.job()).error is None

    run(tmp_path, work)


@pytest.mark.parametrize("sender", ["kidney", "liver2", ""])
def test_a1_one_algorithm_cannot_speak_for_another(tmp_path: Path, sender: str) -> None:
    async def work(world: World) -> None:
        await world.say(said(), said(status="FAILED", dicom=None), sender=sender)
        assert (await world.job()).status is JobStatus.QUEUED
        # Nor about another's job in its own name.
        await world.say(said(algo_id="kidney", dicom={"bucket": BUCKET, "key": "kidney/x.dcm"}), sender="kidney")
        assert (await world.job()).status is JobStatus.QUEUED
        assert world.pushed.jobs == [] and await world.queues.depth(naming.RESULTS_QUEUE) == 0

    run(tmp_path, work)


@pytest.mark.parametrize(
    "dicom",
    [
        {"bucket": "another-bucket", "key": f"{ALGO}/a.dcm"},
        {"bucket": BUCKET, "key": "kidney/a.dcm"},
        {"bucket": BUCKET, "key": f"{ALGO}2/a.dcm"},
        {"bucket": BUCKET, "key": f"study-1/series-1/image-1_{ALGO}.dcm"},
        {"bucket": BUCKET, "key": f"{ALGO}/../kidney/a.dcm"},
    ],
    ids=str,
)
def test_a1_a_result_that_lies_elsewhere_fails_the_job(tmp_path: Path, dicom: dict[str, str]) -> None:
    async def work(world: World) -> None:
        await world.say(said(dicom=dicom))
        job = await world.job()
        assert job.status is JobStatus.FAILED and job.result is None
        assert job.error is not None and job.error.code == "OUTPUT_NOT_ALLOWED"

    run(tmp_path, work)


def test_a1_every_one_of_several_outputs_must_be_the_algorithms_own(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.say(said(outputs=[{"kind": "SC", "bucket": BUCKET, "key": "kidney/a.dcm"}]))
        assert (await world.job()).status is JobStatus.FAILED

    run(tmp_path, work)


def test_a1_an_earlier_key_under_another_algorithms_prefix_fails_the_job(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.registry.create(a_spec("kidney"), actor="anna")
        await world.say(said(dicom={"bucket": BUCKET, "key": f"kidney/series-1/image-1_{ALGO}.dcm"}))
        assert (await world.job()).status is JobStatus.FAILED

    run(tmp_path, work, legacy_output_keys=True)


def test_an_earlier_containers_message_and_key_count_where_the_record_allows_them(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.say(said(dicom={"bucket": BUCKET, "key": f"study-1/series-1/image-1_{ALGO}.dcm"}))
        assert (await world.job()).status is JobStatus.SUCCEEDED

    run(tmp_path, work, legacy_output_keys=True)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "",
        "null",
        "[]",
        "{}",
        '{"job_id": "j1"}',
        json.dumps(said(status="DONE")),
        json.dumps(said(status="QUEUED")),
        json.dumps(said(status="RUNNING", progress=7)),
        json.dumps(said(job_id="j1\n")),
        "[" * 100_000,
        '{"job_id": "\\ud800", "algo_id": "liver"}',
    ],
    ids=range(12),
)
def test_a_message_that_names_no_end_of_a_job_is_dropped_and_stops_nobody_behind_it(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(world: World) -> None:
        await world.jobs.accept(a_message("j2"), "same")
        await world.say(text, said(job_id="j2"))
        await world.say(said())
        assert [(await world.job(name)).status for name in ("j1", "j2")] == [JobStatus.SUCCEEDED] * 2
        assert await world.queues.depth(naming.RESULTS_QUEUE) == 0

    run(tmp_path, work)
    assert "evil.example" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"progress": 7}, "progress"),
        ({"progress": float("nan")}, "progress"),
        ({"dicom": None}, "message"),
        ({"dicom": {"bucket": BUCKET}}, "dicom.key"),
        ({"status": "FAILED", "error": {"code": "bad_pixels", "message": "SMITH^JOHN"}}, "error.code"),
        ({"status": "FAILED", "error": "SMITH^JOHN"}, "error"),
        ({"started_at": 1e308}, "started_at"),
        ({"provenance": "not an object"}, "provenance"),
    ],
    ids=str,
)
def test_j1_a_result_that_is_wrong_ends_its_job_with_a_reason(
    tmp_path: Path, changes: dict[str, Any], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(world: World) -> None:
        await world.say(said(**changes), sender="kidney")
        assert (await world.job()).status is JobStatus.QUEUED, "another algorithm ended it"
        await world.say(said(**changes))
        job = await world.job()
        assert job.status is JobStatus.FAILED and job.error is not None and job.result is None
        assert job.error.code == "INVALID_RESULT" and place in job.error.message
        assert [job.job_id for job in world.pushed.jobs] == ["j1"]
        assert "SMITH" not in job.error.message

    run(tmp_path, work)
    assert "SMITH" not in caplog.text


def test_a_reason_that_is_too_long_is_cut(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.say(said(status="FAILED", dicom=None, error={"code": "BAD", "message": "x" * 2001}))
        job = await world.job()
        assert job.error is not None and (job.error.code, job.error.message) == ("BAD", "x" * 2000)

    run(tmp_path, work)


def test_j1_a_message_deleted_without_a_result_is_sent_again_and_given_up_in_the_end(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        queue = naming.queue(ALGO)
        for _ in range(naming.MAX_RECEIVES):
            assert (await world.job()).status is JobStatus.QUEUED
            (message,) = await world.queues.receive(queue, limit=1)
            await world.queues.delete(queue, [message.receipt_handle])
            await world.delivery.resend(after_s=0)
        job = await world.job()
        assert job.error is not None and job.error.code == "DEAD_LETTERED"
        assert [job.job_id for job in world.pushed.jobs] == ["j1"]

    run(tmp_path, work)


@pytest.mark.parametrize(
    "provenance",
    [
        {"x": "\ud800"},
        {"\ud800": 1},
        {"x": float("nan")},
        {"x": 10**400},
        {"x": json.loads("[" * 150 + "]" * 150)},
    ],
    ids=["surrogate", "surrogate name", "nan", "huge", "deep"],
)
def test_whatever_a_worker_calls_provenance_stops_nobody(tmp_path: Path, provenance: Any) -> None:
    async def work(world: World) -> None:
        await world.jobs.accept(a_message("j2"), "same")
        await world.say(said(provenance=provenance), said(job_id="j2"))
        job = await world.job("j2")
        assert job.status is JobStatus.SUCCEEDED
        job = await world.job("j1")
        json.dumps(job_answer(job, Unsigned(), "h"), allow_nan=False).encode()

    run(tmp_path, work)


def test_a_failure_without_a_reason_still_has_one_for_the_client(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.say(said(status="FAILED", dicom=None))
        job = await world.job()
        assert job.error is not None and job.error.code == "ALGORITHM_FAILED"

    run(tmp_path, work)


def test_j5_a_dead_letter_fails_its_job_with_the_last_trouble_and_can_be_replayed(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        trouble = {"code": "PACS_UNAVAILABLE", "message": "the PACS does not answer"}
        await world.say(said(status="RUNNING", dicom=None, error=trouble))
        for _ in range(naming.MAX_RECEIVES):
            assert await world.queues.receive(naming.queue(ALGO), limit=1, wait_s=2)
        deadline = time.monotonic() + 5
        while not await world.queues.dead_letters(limit=1):
            assert time.monotonic() < deadline, "the message never became a dead letter"
            await world.queues.sweep()
        await world.delivery.bury()
        job = await world.job()
        assert job.status is JobStatus.FAILED and job.error is not None
        assert job.error.code == "DEAD_LETTERED" and "the PACS does not answer" in job.error.message
        assert [job.job_id for job in world.pushed.jobs] == ["j1"]
        await world.delivery.bury()
        assert len(world.pushed.jobs) == 1
        await world.jobs.replay("j1", actor="anna")
        await world.say(said())
        assert (await world.job()).status is JobStatus.SUCCEEDED

    run(tmp_path, work)


def test_a_result_of_an_algorithm_being_deleted_still_counts(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        deleting = AlgorithmStatus.DELETING
        await world.registry.update(a_spec(ALGO), status=deleting, based_on=1, actor="anna", action="delete")
        await world.say(said())
        assert (await world.job()).status is JobStatus.SUCCEEDED

    run(tmp_path, work)


def test_a_result_received_again_is_pushed_again_for_the_first_push_may_not_have_come_about(
    tmp_path: Path,
) -> None:
    async def work(world: World) -> None:
        await world.jobs.accept(a_message("waits"), "same")
        for body in (json.dumps(said()), json.dumps(said(job_id="waits", status="RUNNING"))):
            message = OutgoingMessage(body=body, group_id=body[:99], dedup_id=body[:99], sender=ALGO)
            await world.queues.send(naming.RESULTS_QUEUE, [message])
        received = await world.queues.receive(naming.RESULTS_QUEUE, limit=10)
        await world.delivery.handle(received)
        assert [job.job_id for job in world.pushed.jobs] == ["j1"]
        await world.delivery.handle([replace(message, receive_count=2) for message in received])
        assert [job.job_id for job in world.pushed.jobs] == ["j1", "j1"], "the crash came between the two"

    run(tmp_path, work)


class Torn(Pushed):
    """A way to the clients that is broken for the first job, once."""

    async def push(self, job: Job) -> None:
        await super().push(job)
        if len(self.jobs) == 1:
            raise Unavailable("PUSH_FAILED", "the first push fails")


def test_j7_a_push_that_fails_holds_up_no_other_and_a_dead_letters_is_tried_again(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        torn = Torn()
        delivery = Delivery(world.queues, world.jobs, world.registry, torn, output_bucket=BUCKET)
        for job_id in ("j2", "j3"):
            await world.jobs.accept(a_message(job_id), "same")

        async def all_given_up() -> bool:
            await world.queues.receive(naming.queue(ALGO), limit=10)
            await world.queues.sweep()
            return await world.queues.depth(naming.queue(ALGO)) == 0

        await eventually(all_given_up, "all three have been received too often")
        with pytest.raises(Unavailable):
            await delivery.bury()
        assert sorted(job.job_id for job in torn.jobs) == ["j1", "j2", "j3"], "one failure stopped the others"
        await delivery.bury()
        assert sorted(job.job_id for job in torn.jobs[3:]) == ["j1", "j2", "j3"], "what failed is never pushed"
        await delivery.bury()
        assert len(torn.jobs) == 6

    run(tmp_path, work)
