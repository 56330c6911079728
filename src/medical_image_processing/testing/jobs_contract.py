"""The clauses of ports.jobs, for every engine to inherit (see :mod:`testing.registry_contract`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from medical_image_processing import naming
from medical_image_processing.errors import Conflict, NotFound
from medical_image_processing.model.job import (
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    PacsRef,
    Scope,
    StoredObject,
)
from medical_image_processing.ports.jobs import DEAD_LETTERED, Jobs, Report
from medical_image_processing.ports.queues import Queues
from medical_image_processing.testing.registry_contract import refused

ALGO = "liver"


@dataclass(frozen=True)
class JobPorts:
    """Jobs, and the queues their messages go to; the queues of :data:`ALGO` exist."""

    jobs: Jobs
    queues: Queues


def a_message(job_id: str, client_id: str = "client-1") -> JobMessage:
    """A job on one series."""
    pacs = PacsRef(study_id="study-1", series_id="series-1", scope=Scope.SERIES)
    return JobMessage(job_id=job_id, client_id=client_id, algo_id=ALGO, pacs=pacs)


def succeeded(job_id: str) -> Report:
    """The report of a good end."""
    result = JobResult(dicom=StoredObject(bucket="out", key=f"{ALGO}/{job_id}.dcm"))
    return Report(job_id, ALGO, JobStatus.SUCCEEDED, result=result)


def failed(job_id: str, code: str = "ALGORITHM_RAISED") -> Report:
    """The report of a bad end."""
    return Report(job_id, ALGO, JobStatus.FAILED, error=JobError(code=code, message="it broke"))


class JobsContract:
    """Clauses B1 to B6."""

    def run(self, work: Callable[[JobPorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        raise NotImplementedError

    def test_b1_j1_an_accepted_job_is_on_record_and_its_message_on_the_queue(self) -> None:
        async def work(ports: JobPorts) -> None:
            accepted = await ports.jobs.accept(a_message("j1"), "same")
            assert accepted.created and accepted.status is JobStatus.QUEUED
            job = await ports.jobs.get("j1")
            assert job is not None and job.status is JobStatus.QUEUED
            (message,) = await ports.queues.receive(naming.queue(ALGO), limit=10, wait_s=0)
            assert JobMessage.model_validate_json(message.body) == a_message("j1")
            assert (message.message_id, message.group_id) == (accepted.message_id, "j1")

        self.run(work)

    def test_b2_j3_the_same_body_is_the_same_job_and_another_a_conflict(self) -> None:
        async def work(ports: JobPorts) -> None:
            answers = await asyncio.gather(*(ports.jobs.accept(a_message("j1"), "same") for _ in range(5)))
            assert sum(answer.created for answer in answers) == 1
            assert len({answer.message_id for answer in answers}) == 1
            await refused(Conflict, "JOB_ID_TAKEN", ports.jobs.accept(a_message("j1"), "other"))
            assert len(await ports.queues.receive(naming.queue(ALGO), limit=10, wait_s=0)) == 1

        self.run(work)

    def test_b3_j2_a_job_moves_only_forward_and_ends_once(self) -> None:
        async def work(ports: JobPorts) -> None:
            await ports.jobs.accept(a_message("j1"), "same")
            running = Report("j1", ALGO, JobStatus.RUNNING, progress=0.5, attempt=1)
            assert await ports.jobs.apply([running]) == []
            first = await ports.jobs.apply([failed("j1"), succeeded("j1"), failed("j1")])
            assert [job.status for job in first] == [JobStatus.FAILED]
            assert await ports.jobs.apply([succeeded("j1"), running]) == []
            job = await ports.jobs.get("j1")
            assert job is not None and job.status is JobStatus.FAILED and job.result is None

        self.run(work)

    def test_b3_a_report_of_another_algorithm_or_of_no_job_changes_nothing(self) -> None:
        async def work(ports: JobPorts) -> None:
            await ports.jobs.accept(a_message("j1"), "same")
            thief = Report("j1", "kidney", JobStatus.FAILED, error=failed("j1").error)
            assert await ports.jobs.apply([thief, succeeded("no-such-job")]) == []
            job = await ports.jobs.get("j1")
            assert job is not None and job.status is JobStatus.QUEUED

        self.run(work)

    def test_b4_j7_what_a_client_missed_is_there_oldest_first_until_it_was_seen(self) -> None:
        async def work(ports: JobPorts) -> None:
            for number in range(5):
                await ports.jobs.accept(a_message(f"j{number}"), "same")
            await ports.jobs.accept(a_message("other", "client-2"), "same")
            order = ["j3", "j0", "j4"]
            await ports.jobs.apply([succeeded(job_id) for job_id in (*order, "other")])
            assert [job.job_id for job in await ports.jobs.unseen("client-1", after=None, limit=10)] == order
            assert [job.job_id for job in await ports.jobs.unseen("client-1", after="j3", limit=1)] == ["j0"]
            await ports.jobs.mark_seen(["j3", "j4", "j1"])
            assert [job.job_id for job in await ports.jobs.unseen("client-1", after=None, limit=10)] == ["j0"]
            # One that had not ended when it was marked is not lost by that.
            await ports.jobs.apply([succeeded("j1")])
            assert [job.job_id for job in await ports.jobs.unseen("client-1", after=None, limit=10)] == [
                "j0",
                "j1",
            ]

        self.run(work)

    def test_b5_p4_open_jobs_of_a_deleted_algorithm_end_with_a_reason(self) -> None:
        async def work(ports: JobPorts) -> None:
            for number in range(3):
                await ports.jobs.accept(a_message(f"j{number}"), "same")
            await ports.jobs.apply([succeeded("j0")])
            assert await ports.jobs.open_count(ALGO) == 2
            gone = await ports.jobs.fail_open(ALGO, JobError(code="ALGORITHM_DELETED", message="deleted"))
            assert [job.job_id for job in gone] == ["j1", "j2"]
            assert await ports.jobs.open_count(ALGO) == 0
            assert await ports.queues.receive(naming.queue(ALGO), limit=10, wait_s=0) == []

        self.run(work)

    def test_b6_j5_a_dead_letter_and_only_one_can_be_replayed(self) -> None:
        async def work(ports: JobPorts) -> None:
            await ports.jobs.accept(a_message("j1"), "same")
            (message,) = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            await ports.queues.delete(naming.queue(ALGO), [message.receipt_handle])
            await refused(Conflict, "NOT_REPLAYABLE", ports.jobs.replay("j1", actor="anna"))
            await ports.jobs.apply([failed("j1", DEAD_LETTERED)])
            await ports.jobs.replay("j1", actor="anna")
            job = await ports.jobs.get("j1")
            assert job is not None and job.status is JobStatus.QUEUED
            (again,) = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            assert JobMessage.model_validate_json(again.body).job_id == "j1"
            await refused(NotFound, "UNKNOWN_JOB", ports.jobs.replay("nobody", actor="anna"))

        self.run(work)

    def test_a_listing_filters_and_pages_newest_first(self) -> None:
        async def work(ports: JobPorts) -> None:
            for number in range(7):
                await ports.jobs.accept(a_message(f"j{number}", f"client-{number % 2}"), "same")
            first = await ports.jobs.page(client_ids=["client-0"], limit=3)
            assert [job.job_id for job in first.items] == ["j6", "j4", "j2"]
            rest = await ports.jobs.page(client_ids=["client-0"], limit=3, cursor=first.next_cursor)
            assert ([job.job_id for job in rest.items], rest.next_cursor) == (["j0"], None)
            assert (await ports.jobs.page(status=JobStatus.FAILED)).items == ()
            assert (await ports.jobs.page(client_ids=[])).items == ()

        self.run(work)
