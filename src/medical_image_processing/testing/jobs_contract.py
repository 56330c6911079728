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
from medical_image_processing.ports.queues import OutgoingMessage, Queues
from medical_image_processing.testing.registry_contract import refused

ALGO = "liver"
GIVEN_UP = JobError(code=DEAD_LETTERED, message="its message was lost again and again")


@dataclass(frozen=True)
class JobPorts:
    """Jobs, and the queues their messages go to; the queues of :data:`ALGO` and the results queue exist."""

    jobs: Jobs
    queues: Queues
    audit: Callable[[str], list[str]]
    """The actions on record for a subject."""


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
    """Clauses B1 to B10."""

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
            ended = await ports.jobs.apply([succeeded(job_id) for job_id in (*order, "other")])
            assert [job.job_id for job in await ports.jobs.unseen("client-1", after=None, limit=10)] == order
            assert [job.job_id for job in await ports.jobs.unseen("client-1", after="j3", limit=1)] == ["j0"]
            await ports.jobs.mark_seen([job.end for job in ended if job.job_id in ("j3", "j4")])
            assert [job.job_id for job in await ports.jobs.unseen("client-1", after=None, limit=10)] == ["j0"]
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
            assert job.error is None, "what is over still stands on a job that waits"
            (again,) = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            assert JobMessage.model_validate_json(again.body).job_id == "j1"
            await refused(NotFound, "UNKNOWN_JOB", ports.jobs.replay("nobody", actor="anna"))

        self.run(work)

    def test_b7_j1_an_open_job_whose_message_is_gone_is_sent_again(self) -> None:
        async def work(ports: JobPorts) -> None:
            queue = naming.queue(ALGO)
            for name in ("ended", "gone"):
                await ports.jobs.accept(a_message(name), "same")
            await ports.jobs.apply([succeeded("ended")])
            assert await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
            assert await ports.queues.depth(queue) == 2, "a job whose message waits was sent again"
            for message in await ports.queues.receive(queue, limit=10, wait_s=0):
                await ports.queues.delete(queue, [message.receipt_handle])
            assert await ports.jobs.resend_lost(after_s=60, given_up=GIVEN_UP) == []
            assert await ports.queues.depth(queue) == 0, "it was sent before its time"
            for _ in range(2):
                assert await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
            (again,) = await ports.queues.receive(queue, limit=10, wait_s=0)
            assert (JobMessage.model_validate_json(again.body), again.group_id) == (a_message("gone"), "gone")

        self.run(work)

    def test_b7_j1_no_job_is_sent_again_while_its_report_may_still_wait(self) -> None:
        async def work(ports: JobPorts) -> None:
            queue = naming.queue(ALGO)
            await ports.jobs.accept(a_message("answered"), "same")
            (message,) = await ports.queues.receive(queue, limit=10, wait_s=0)
            # In a group that says nothing of the job: some containers send it so.
            told = OutgoingMessage(body="{}", group_id="client-1", dedup_id="told")
            await ports.queues.send(naming.RESULTS_QUEUE, [told])
            await ports.queues.delete(queue, [message.receipt_handle])
            for _ in range(2):
                assert await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
            assert await ports.queues.depth(queue) == 0

        self.run(work)

    def test_b7_j5_a_job_whose_message_goes_again_and_again_is_given_up_and_can_be_replayed(self) -> None:
        async def work(ports: JobPorts) -> None:
            queue = naming.queue(ALGO)
            await ports.jobs.accept(a_message("j1"), "same")
            for attempt in range(2):
                for sent in range(naming.MAX_RECEIVES):
                    (message,) = await ports.queues.receive(queue, limit=10, wait_s=0)
                    await ports.queues.delete(queue, [message.receipt_handle])
                    ended = await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP)
                    assert [job.error for job in ended] == [GIVEN_UP] * (sent == naming.MAX_RECEIVES - 1)
                if attempt == 0:
                    await ports.jobs.replay("j1", actor="anna")
            job = await ports.jobs.get("j1")
            assert job is not None and job.status is JobStatus.FAILED

        self.run(work)

    def test_b8_j7_a_replayed_jobs_new_end_is_unseen_though_its_old_one_is_marked_late(self) -> None:
        async def work(ports: JobPorts) -> None:
            await ports.jobs.accept(a_message("j1"), "same")
            (old,) = await ports.jobs.apply([failed("j1", DEAD_LETTERED)])
            await ports.jobs.replay("j1", actor="anna")
            (new,) = await ports.jobs.apply([succeeded("j1")])
            await ports.jobs.mark_seen([old.end])
            assert await ports.jobs.unseen("client-1", after=None, limit=10) == [new]
            await ports.jobs.mark_seen([new.end])
            assert await ports.jobs.unseen("client-1", after=None, limit=10) == []

        self.run(work)

    def test_b9_j1_a_job_that_waits_is_cancelled_once_and_is_an_end_as_any_other(self) -> None:
        async def work(ports: JobPorts) -> None:
            for name in ("j1", "j2"):
                await ports.jobs.accept(a_message(name), "same")
            cancelled = await ports.jobs.cancel("j1", actor="anna")
            assert (cancelled.status, cancelled.error, cancelled.result) == (JobStatus.CANCELLED, None, None)
            assert cancelled.finished_at is not None and cancelled.started_at is None
            assert await ports.jobs.cancel("j1", actor="anna") == cancelled == await ports.jobs.get("j1")
            assert await ports.jobs.unseen("client-1", after=None, limit=10) == [cancelled]
            assert await ports.jobs.open_count(ALGO) == 1
            again = await ports.jobs.accept(a_message("j1"), "same")
            assert (again.created, again.status) == (False, JobStatus.CANCELLED)
            await refused(Conflict, "NOT_REPLAYABLE", ports.jobs.replay("j1", actor="anna"))
            assert await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
            assert (await ports.jobs.page(status=JobStatus.CANCELLED)).items == (cancelled,)
            await refused(NotFound, "UNKNOWN_JOB", ports.jobs.cancel("nobody", actor="anna"))
            assert [entry.split()[:2] for entry in ports.audit("j1")] == [["anna", "cancel"]], "once"
            assert ports.audit("nobody") == []

        self.run(work)

    def test_b9_j2_what_comes_late_of_a_cancelled_job_is_ignored(self) -> None:
        async def work(ports: JobPorts) -> None:
            queue = naming.queue(ALGO)
            await ports.jobs.accept(a_message("j1"), "same")
            (held,) = await ports.queues.receive(queue, limit=1, wait_s=0)
            cancelled = await ports.jobs.cancel("j1", actor="anna")  # a worker has it, and has not said so
            running = Report("j1", ALGO, JobStatus.RUNNING, progress=0.5)
            assert await ports.jobs.apply([running, succeeded("j1"), failed("j1", DEAD_LETTERED)]) == []
            await ports.queues.delete(queue, [held.receipt_handle])
            for _ in range(2):
                assert await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
            assert await ports.queues.depth(queue) == 0
            assert await ports.jobs.get("j1") == cancelled

        self.run(work)

    def test_b9_a_job_that_runs_or_has_ended_is_not_cancelled(self) -> None:
        async def work(ports: JobPorts) -> None:
            for name in ("runs", "ended"):
                await ports.jobs.accept(a_message(name), "same")
            running = Report("runs", ALGO, JobStatus.RUNNING)
            await ports.jobs.apply([running, succeeded("ended")])
            for name in ("runs", "ended"):
                before = await ports.jobs.get(name)
                await refused(Conflict, "NOT_CANCELLABLE", ports.jobs.cancel(name, actor="anna"))
                assert await ports.jobs.get(name) == before and ports.audit(name) == []
            await ports.jobs.apply([failed("runs", DEAD_LETTERED)])
            await ports.jobs.replay("runs", actor="anna")
            assert (await ports.jobs.cancel("runs", actor="anna")).status is JobStatus.CANCELLED, (
                "replayed, it waits again"
            )

        self.run(work)

    def test_b9_j2_a_cancel_and_a_result_at_once_leave_one_end(self) -> None:
        async def work(ports: JobPorts) -> None:
            async def cancel(job_id: str) -> bool:
                try:
                    await ports.jobs.cancel(job_id, actor="anna")
                except Conflict:
                    return False
                return True

            names = [f"j{number}" for number in range(8)]
            for name in names:
                await ports.jobs.accept(a_message(name), "same")
                cancelled, ended = await asyncio.gather(cancel(name), ports.jobs.apply([succeeded(name)]))
                assert cancelled != bool(ended)
                job = await ports.jobs.get(name)
                wanted = JobStatus.CANCELLED if cancelled else JobStatus.SUCCEEDED
                assert job is not None and job.status is wanted and (job.result is None) == cancelled
            unseen = await ports.jobs.unseen("client-1", after=None, limit=20)
            assert [job.job_id for job in unseen] == names

        self.run(work)

    def test_b10_a_job_tells_what_it_was_asked_for_before_and_after_its_end(self) -> None:
        async def work(ports: JobPorts) -> None:
            message = a_message("j1").model_copy(update={"parameters": {"above": 300, "names": ["a", None]}})
            await ports.jobs.accept(message, "same")
            waiting = await ports.jobs.get("j1")
            (ended,) = await ports.jobs.apply([succeeded("j1")])
            (listed,) = (await ports.jobs.page()).items
            (missed,) = await ports.jobs.unseen("client-1", after=None, limit=1)
            for job in (waiting, ended, listed, missed):
                assert job is not None and job.asked_pacs() == message.pacs
                assert job.asked_parameters() == message.parameters

        self.run(work)

    def test_b10_neither_the_owner_nor_the_worker_is_told_what_the_other_calls_it(self) -> None:
        async def work(ports: JobPorts) -> None:
            asked = PacsRef(study_id="smith-anna", series_id="1", image_id="2.dcm", scope=Scope.IMAGE)
            message = a_message("j1").model_copy(update={"sent": asked})
            await ports.jobs.accept(message, "same")
            (received,) = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            assert "smith" not in received.body and "study-1" in received.body
            await ports.jobs.apply([failed("j1", DEAD_LETTERED)])
            await ports.queues.delete(naming.queue(ALGO), [received.receipt_handle])
            await ports.jobs.replay("j1", actor="anna")
            (again,) = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            assert "smith" not in again.body
            job = await ports.jobs.get("j1")
            assert job is not None and job.asked_pacs() == asked and "smith" not in job.model_dump_json()

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
