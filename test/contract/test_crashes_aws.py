"""The platform on AWS is killed after each of its calls, and the next one makes good what was left (J1, J2, J7).

A life is a process: Router, Delivery and stores of its own, on tables and queues that outlive it.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest
from aws_engine import AwsStores, fresh_stores

from aws_emulator import AwsEmulator
from aws_tables import JOBS, table
from medical_image_processing import naming
from medical_image_processing.control.cancelling import cancel_job
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.control.router import Router
from medical_image_processing.errors import Conflict
from medical_image_processing.model.algorithm import AlgorithmStatus
from medical_image_processing.model.job import Job, JobMessage, JobStatus, ProcessRequest, ResultMessage
from medical_image_processing.ports.jobs import DEAD_LETTERED
from medical_image_processing.ports.queues import OutgoingMessage, ReceivedMessage
from medical_image_processing.testing.jobs_contract import ALGO, GIVEN_UP, a_message, failed
from medical_image_processing.testing.registry_contract import set_status

QUEUE, BUCKET = naming.queue(ALGO), "out"
REQUEST = ProcessRequest.model_validate(
    {"job_id": "j1", "client_id": "client-1", "pacs": {"study_id": "s", "scope": "study"}}
)


class Killed(BaseException):
    """As by SIGKILL: nothing of ours may catch it."""


class Received:
    """The client's connection, which keeps what it gets (ports.push)."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    async def push(self, job: Job) -> None:
        self.jobs.append(job)


class Life:
    """One process of the platform, killed as the answer of its ``dies_after``-th call of AWS comes."""

    def __init__(self, account: AwsEmulator, client: Received, *, dies_after: int | None = None) -> None:
        self.stores = AwsStores(account)
        self.router = Router(self.stores.registry, self.stores.jobs, self.stores.queues, queue_limit=1000)
        self.delivery = Delivery(
            self.stores.queues, self.stores.jobs, self.stores.registry, client, output_bucket=BUCKET
        )
        self._calls = itertools.count(1)
        self._dies_after = dies_after
        for service in ("dynamodb", "sqs"):
            self.stores.clients.client(service).boto.meta.events.register("after-call", self._count)

    def _count(self, **_: object) -> None:
        if next(self._calls) == self._dies_after:
            raise Killed

    async def survives(self, work: Awaitable[object]) -> bool:
        """Whether it lived to the end of ``work``."""
        try:
            await work
        except Killed:
            return False
        return True

    async def sweep(self) -> None:
        """What a schedule does each minute."""
        await self.delivery.bury()
        await self.delivery.resend(after_s=0)

    async def run_jobs(self) -> int:
        """A worker's part, and the delivery of what it reports; how many messages there were."""
        queues, done = self.stores.queues, 0
        while messages := await queues.receive(QUEUE, limit=10, wait_s=0):
            for message in messages:
                job = JobMessage.model_validate_json(message.body)
                await queues.send(naming.RESULTS_QUEUE, [result_of(job, message.message_id)])
            await queues.delete(QUEUE, [message.receipt_handle for message in messages])
            done += len(messages)
        while reports := await queues.receive(naming.RESULTS_QUEUE, limit=10, wait_s=0):
            await self.delivery.deliver(reports)
        return done

    def close(self) -> None:
        self.stores.clients.close()


def result_of(job: JobMessage, dedup: str) -> OutgoingMessage:
    """What a worker says when it succeeded."""
    dicom = {"bucket": BUCKET, "key": f"{ALGO}/{job.job_id}.dcm"}
    result = ResultMessage.model_validate({"job_id": job.job_id, "algo_id": job.algo_id, "dicom": dicom})
    return OutgoingMessage(body=result.model_dump_json(exclude_none=True), group_id=job.job_id, dedup_id=dedup)


Lives = Callable[..., Life]
Work = Callable[[Lives, Received, int], Awaitable[bool]]


@pytest.fixture
def account(aws_emulator: AwsEmulator) -> AwsEmulator:
    return fresh_stores(aws_emulator).account


def each_crash(emulator: AwsEmulator, work: Work, *, calls: int) -> None:
    """``work(new_life, client, number)`` for a crash after each call, in an account of its own, until none comes.

    It returns whether the first life survived; ``calls`` says how many that life makes when it does.
    """
    for number in itertools.count(1):
        stores = fresh_stores(emulator)
        client, lives = Received(), []

        def new_life(dies_after: int | None = None) -> Life:
            lives.append(Life(stores.account, client, dies_after=dies_after))  # noqa: B023 - of this round
            return lives[-1]  # noqa: B023

        survived = False

        async def round_(stores: AwsStores) -> None:
            nonlocal survived
            await stores.register(ALGO)
            await set_status(stores.registry, AlgorithmStatus.ACTIVE)
            survived = await work(new_life, client, number)  # noqa: B023

        try:
            stores.run(round_)
        finally:
            for life in lives:
                life.close()
        if survived:
            assert number - 1 == calls, "the life makes more or fewer calls than it is known to"
            return


@pytest.mark.parametrize("client_repeats", [True, False], ids=["the client asks again", "only the sweep comes"])
def test_j1_j2_j3_a_job_that_is_taken_in(aws_emulator: AwsEmulator, client_repeats: bool) -> None:
    async def work(new_life: Lives, client: Received, number: int) -> bool:
        first = new_life(number)
        answered = await first.survives(first.router.submit(ALGO, REQUEST))
        second = new_life()
        if client_repeats:
            again = await second.router.submit(ALGO, REQUEST)
            assert again.job_id == "j1" and again.message_id
        await second.sweep()
        job = await second.stores.jobs.get("j1")
        if job is None:
            assert not answered and not client_repeats, "an accepted job is lost"
            assert await second.stores.queues.count(QUEUE) == 0, "a message of no job is on the queue"
            return False
        assert len((await second.stores.jobs.page(client_ids=["client-1"])).items) == 1
        assert await second.run_jobs() == 1
        assert [(one.job_id, one.status) for one in client.jobs] == [("j1", JobStatus.SUCCEEDED)]
        return answered

    # registry, depth; record, send, note
    each_crash(aws_emulator, work, calls=5)


@pytest.mark.parametrize("is_held", [False, True], ids=["it waits", "a worker has it and answers late"])
def test_b9_j1_j2_a_job_that_is_cancelled(aws_emulator: AwsEmulator, is_held: bool) -> None:
    async def work(new_life: Lives, client: Received, number: int) -> bool:
        first, second = new_life(number), new_life()
        await second.stores.jobs.accept(a_message("j1"), "same")
        queues = second.stores.queues
        held = await queues.receive(QUEUE, limit=1, wait_s=0) if is_held else []
        cancelled = await first.survives(cancel_job(first.stores.jobs, client, "j1", actor="anna"))
        for message in held:
            await queues.send(naming.RESULTS_QUEUE, [result_of(a_message("j1"), "late")])
            await queues.delete(QUEUE, [message.receipt_handle])
            late = await queues.receive(naming.RESULTS_QUEUE, limit=10, wait_s=0)
            await second.delivery.deliver(late)
        try:
            await cancel_job(second.stores.jobs, client, "j1", actor="anna")  # the client asks again
        except Conflict:
            assert is_held and not cancelled, "the result was first"
        await second.sweep()
        await second.run_jobs()  # SQS took no message back
        await second.sweep()
        job = await second.stores.jobs.get("j1")
        assert job is not None and {one.status for one in client.jobs} == {job.status}, "two ends were seen"
        if cancelled or not is_held:
            assert job.status is JobStatus.CANCELLED and job.result is None
        assert await second.stores.jobs.unseen("client-1", after=None, limit=10) == [job]
        return cancelled

    # end and audit, in one; look
    each_crash(aws_emulator, work, calls=2)


def test_j2_j7_results_that_are_delivered(aws_emulator: AwsEmulator) -> None:
    async def work(new_life: Lives, client: Received, number: int) -> bool:
        first, second = new_life(number), new_life()
        queues = second.stores.queues
        for job_id in ("j1", "j2"):
            await second.stores.jobs.accept(a_message(job_id), "same")
        await queues.send(naming.RESULTS_QUEUE, [result_of(a_message("j1"), "1"), result_of(a_message("j2"), "2")])
        received = await queues.receive(naming.RESULTS_QUEUE, limit=10, wait_s=0)
        delivered = await first.survives(first.delivery.deliver(received))
        ends = {job_id: await finish_seq(second, job_id) for job_id in ("j1", "j2")}
        if left := await given_back(second, received):
            assert [message.receive_count for message in left] == [2] * len(left)
            await second.delivery.deliver(left)
        for job_id, end in ends.items():
            assert end in (None, await finish_seq(second, job_id)), "a job ended twice"
        unseen = await second.stores.jobs.unseen("client-1", after=None, limit=10)
        assert sorted(job.job_id for job in unseen) == ["j1", "j2"]
        assert {job.job_id for job in client.jobs} == {"j1", "j2"}, "an end was not pushed"
        assert await queues.count(naming.RESULTS_QUEUE) == 0
        return delivered

    # the end of each, the deletion
    each_crash(aws_emulator, work, calls=3)


def test_j5_j7_dead_letters_that_are_answered_for(movable_aws_emulator: AwsEmulator) -> None:
    async def work(new_life: Lives, client: Received, number: int) -> bool:
        first, second = new_life(number), new_life()
        dead, jobs = naming.dead_letter_queue(ALGO), second.stores.jobs
        for job_id in ("j1", "j2"):
            await jobs.accept(a_message(job_id), "same")
        waiting = await second.stores.queues.receive(QUEUE, limit=10, wait_s=0)
        for message in waiting:
            moved = OutgoingMessage(message.body, message.group_id, message.dedup_id)
            await second.stores.queues.send(dead, [moved])
        await second.stores.queues.delete(QUEUE, [message.receipt_handle for message in waiting])
        buried = await first.survives(first.delivery.bury())
        movable_aws_emulator.pass_time(61)
        await second.sweep()
        unseen = await jobs.unseen("client-1", after=None, limit=10)
        assert sorted(job.job_id for job in unseen) == ["j1", "j2"]
        assert {job.error.code for job in unseen if job.error} == {DEAD_LETTERED}
        assert await second.stores.queues.count(QUEUE) == 0, "a dead letter was taken for lost"
        return buried

    # registry, index, letters, both jobs for each; the end of each, the letters, and that there are no more
    each_crash(movable_aws_emulator, work, calls=12)


def test_j5_a_job_that_is_replayed(aws_emulator: AwsEmulator) -> None:
    async def work(new_life: Lives, client: Received, number: int) -> bool:
        first, second = new_life(number), new_life()
        jobs, queues = second.stores.jobs, second.stores.queues
        await jobs.accept(a_message("j1"), "same")
        [message] = await queues.receive(QUEUE, limit=1, wait_s=0)
        await queues.delete(QUEUE, [message.receipt_handle])
        await jobs.apply([failed("j1", DEAD_LETTERED)])
        replayed = await first.survives(first.stores.jobs.replay("j1", actor="anna"))
        await second.sweep()
        job = await jobs.get("j1")
        assert job is not None
        if job.status is JobStatus.FAILED:
            assert not replayed
            await jobs.replay("j1", actor="anna")
        assert await second.run_jobs() == 1
        assert [(one.job_id, one.status) for one in client.jobs] == [("j1", JobStatus.SUCCEEDED)]
        assert len(await second.stores.audit.entries("j1")) == 1
        return replayed

    # record, queue; reopen with its audit, send, note
    each_crash(aws_emulator, work, calls=5)


def test_j1_a_job_that_is_sent_again(aws_emulator: AwsEmulator) -> None:
    async def work(new_life: Lives, client: Received, number: int) -> bool:
        first, second = new_life(number), new_life()
        queues = second.stores.queues
        await second.stores.jobs.accept(a_message("j1"), "same")
        [message] = await queues.receive(QUEUE, limit=1, wait_s=0)
        await queues.delete(QUEUE, [message.receipt_handle])
        resent = await first.survives(first.stores.jobs.resend_lost(after_s=0, given_up=GIVEN_UP))
        await second.sweep()
        item = await table(second.stores.clients, JOBS).get({"job_id": "j1"})
        assert item is not None and item["sends"] == 2, "a crash was counted as a loss"
        assert await second.run_jobs() == 1
        assert [(one.job_id, one.status) for one in client.jobs] == [("j1", JobStatus.SUCCEEDED)]
        return resent

    # what is unsent in four shards; index, records, registry, three queues; gone, claim, send, note
    each_crash(aws_emulator, work, calls=14)


def test_p4_the_open_jobs_of_an_algorithm_that_is_removed(aws_emulator: AwsEmulator) -> None:
    async def work(new_life: Lives, client: Received, number: int) -> bool:
        first, second = new_life(number), new_life()
        error = failed("x", "ALGORITHM_DELETED").error
        assert error is not None
        for job_id in ("j1", "j2"):
            await second.stores.jobs.accept(a_message(job_id), "same")
        done = await first.survives(first.stores.jobs.fail_open(ALGO, error))
        if not done:
            await second.stores.jobs.fail_open(ALGO, error)
        assert await second.stores.queues.count(QUEUE) == 0
        unseen = await second.stores.jobs.unseen("client-1", after=None, limit=10)
        assert sorted(job.job_id for job in unseen) == ["j1", "j2"]
        assert {job.error.code for job in unseen if job.error} == {"ALGORITHM_DELETED"}
        return done

    # index, the end of each, the queue
    each_crash(aws_emulator, work, calls=4)


async def finish_seq(life: Life, job_id: str) -> str | None:
    """Which end the job has had."""
    item = await table(life.stores.clients, JOBS).get({"job_id": job_id})
    return item.get("finish_seq") if item else None


async def given_back(life: Life, received: list[ReceivedMessage]) -> list[ReceivedMessage]:
    """The messages again, as after their lease; none when they were deleted."""
    sqs, url = life.stores.clients.client("sqs"), life.stores.queues.url(naming.RESULTS_QUEUE)
    entries = [
        {"Id": str(number), "ReceiptHandle": message.receipt_handle, "VisibilityTimeout": 0}
        for number, message in enumerate(received)
    ]
    await sqs.call("change_message_visibility_batch", QueueUrl=url, Entries=entries)
    return await life.stores.queues.receive(naming.RESULTS_QUEUE, limit=10, wait_s=0)
