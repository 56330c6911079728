"""The job records' contract on the AWS engine, and what only it must see to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import pytest
from aws_engine import AwsStores, fresh_stores
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from aws_emulator import AwsEmulator
from aws_tables import JOBS, table
from medical_image_processing import naming
from medical_image_processing.engines.aws import open_jobs
from medical_image_processing.engines.aws.job_items import KEPT_S, MAX_RESULT_BYTES, new_item
from medical_image_processing.errors import MipError, NotFound
from medical_image_processing.model.job import Job, JobMessage, JobResult, JobStatus, Output, StoredObject
from medical_image_processing.ports.jobs import DEAD_LETTERED, Report
from medical_image_processing.ports.queues import OutgoingMessage
from medical_image_processing.testing.jobs_contract import (
    ALGO,
    GIVEN_UP,
    JobPorts,
    JobsContract,
    a_message,
    failed,
    succeeded,
)
from medical_image_processing.testing.jobs_model import JobsMachine
from medical_image_processing.testing.registry_contract import a_spec, refused

CHECKED_OTHERWISE = {
    "C1": "Nothing arrives here: C-STORE is taken by `mip up` alone.",
    "C2": "As C1.",
}
"""Clauses that this engine has no use for."""

DAY_S = 86_400.0


@pytest.fixture
def stores(aws_emulator: AwsEmulator) -> AwsStores:
    return fresh_stores(aws_emulator)


class TestAwsJobs(JobsContract):
    @pytest.fixture(autouse=True)
    def _stores(self, stores: AwsStores) -> None:
        self.stores = stores

    def run(self, work: Callable[[JobPorts], Awaitable[None]]) -> None:
        async def with_algorithm(stores: AwsStores) -> None:
            await stores.register(ALGO)
            await work(JobPorts(stores.jobs, stores.queues, stores.audited))

        self.stores.run(with_algorithm)


class Engine:
    """Implements testing.jobs_model.ModelledJobs in an account of its own. SQS takes no message back."""

    takes_back = False

    def __init__(self, stores: AwsStores) -> None:
        self._stores = stores
        self.ports = JobPorts(stores.jobs, stores.queues, stores.audited)

    async def give_back(self, receipt_handles: Sequence[str]) -> None:
        sqs, url = self._stores.clients.client("sqs"), self._stores.queues.url(naming.queue(ALGO))
        for handle in receipt_handles:
            with contextlib.suppress(MipError):  # it is no longer in flight
                await sqs.call(
                    "change_message_visibility", QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0
                )

    async def restart(self) -> None:
        self.close()
        self._stores = AwsStores(self._stores.account)
        self.ports = JobPorts(self._stores.jobs, self._stores.queues, self._stores.audited)

    def close(self) -> None:
        self._stores.clients.close()


def test_j1_j2_j3_whatever_is_done_in_any_order_jobs_move_as_the_model_says(aws_emulator: AwsEmulator) -> None:
    class Machine(JobsMachine):
        async def open_engine(self) -> Engine:
            stores = fresh_stores(aws_emulator)
            await stores.register(ALGO)
            self._opened = Engine(stores)
            return self._opened

        async def close_engine(self) -> None:
            self._opened.close()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


def on(stores: AwsStores, work: Callable[[AwsStores], Awaitable[None]]) -> None:
    async def with_algorithm(stores: AwsStores) -> None:
        await stores.register(ALGO)
        await work(stores)

    stores.run(with_algorithm)


async def ids(jobs: Awaitable[list[Job]]) -> list[str]:
    return [job.job_id for job in await jobs]


async def lose_all(stores: AwsStores) -> None:
    """As a worker that deletes a job's message before it computes."""
    queue = naming.queue(ALGO)
    while messages := await stores.queues.receive(queue, limit=10, wait_s=0):
        await stores.queues.delete(queue, [message.receipt_handle for message in messages])


def test_j1_a_job_whose_queue_is_missing_is_neither_recorded_nor_sent(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        queue = naming.queue("kidney")
        message = JobMessage.model_validate({**a_message("j1").model_dump(), "algo_id": "kidney"})
        await refused(NotFound, "UNKNOWN_QUEUE", stores.jobs.accept(message, "same"))
        assert await stores.jobs.get("j1") is None
        assert await stores.jobs.open_count("kidney") == 0
        await stores.register("kidney")
        assert (await stores.jobs.accept(message, "other")).created
        assert await stores.queues.count(queue) == 1

    on(stores, work)


def test_j1_the_open_jobs_of_an_algorithm_that_is_gone_end_with_that_reason(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.jobs.accept(a_message("j1"), "same")
        await stores.registry.remove(ALGO, revision=1, actor="provisioner")
        [ended] = await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP)
        assert ended.error is not None and ended.error.code == "ALGORITHM_DELETED"
        assert await ids(stores.jobs.unseen("client-1", after=None, limit=10)) == ["j1"]

    on(stores, work)


def test_j1_what_was_recorded_and_not_sent_is_found_among_any_number_of_open_jobs(
    stores: AwsStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(stores: AwsStores) -> None:
        monkeypatch.setattr(open_jobs, "_WINDOW", 1)
        monkeypatch.setattr(open_jobs, "_UNSENT_WINDOW", 2)
        jobs, queue = table(stores.clients, JOBS), naming.queue(ALGO)
        for number in range(5):
            await stores.jobs.accept(a_message(f"open-{number}"), "same")
        names = [f"late-{number}" for number in range(12)]
        for name in names:  # whose caller ended after the first step
            item = new_item(a_message(name), "same", stores.clock())
            await jobs.put(item, condition="attribute_not_exists(#job_id)")
        assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        assert await stores.queues.count(queue) == 5, "they were sent before their time"
        stores.ahead_s = 61
        for _ in range(6):
            assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        assert await stores.queues.count(queue) == 17
        for name in ("open-0", *names):
            noted = await jobs.get({"job_id": name})
            assert noted is not None and "message_id" in noted and not {"unsent", "unsent_since"} & noted.keys()

    on(stores, work)


def test_j1_what_can_not_be_sent_holds_nothing_else_up(stores: AwsStores, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(stores: AwsStores) -> None:
        monkeypatch.setattr(open_jobs, "_UNSENT_WINDOW", 2)
        jobs = table(stores.clients, JOBS)
        await stores.registry.create(a_spec("kidney"), actor="anna")  # it has no queue yet
        for number in range(16):
            algo_id = ALGO if number == 15 else "kidney"
            message = JobMessage.model_validate({**a_message(f"j{number}").model_dump(), "algo_id": algo_id})
            await jobs.put(new_item(message, "same", stores.clock()), condition="attribute_not_exists(#job_id)")
        stores.ahead_s = 61
        for _ in range(10):
            assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        assert await stores.queues.count(naming.queue(ALGO)) == 1
        await stores.registry.remove("kidney", revision=1, actor="provisioner")
        for _ in range(10):
            await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP)
        assert await stores.jobs.open_count("kidney") == 0

    on(stores, work)


def test_b7_whoever_deleted_the_message_first_has_its_time_from_when_that_was_noticed(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        for name in ("computing", "gone"):
            await stores.jobs.accept(a_message(name), "same")
        stores.ahead_s = 10_000  # it waited for long
        await lose_all(stores)
        assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        stores.ahead_s += 899
        assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        assert await stores.queues.count(naming.queue(ALGO)) == 0, "it was sent before its time"
        await stores.jobs.apply([succeeded("computing")])
        stores.ahead_s += 2
        # Another job waits now; the one that is gone is not forgotten for that.
        await stores.jobs.accept(a_message("next"), "same")
        assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        received = await stores.queues.receive(naming.queue(ALGO), limit=10, wait_s=0)
        assert sorted(message.group_id for message in received) == ["gone", "next"]

    on(stores, work)


def test_b7_a_job_that_was_just_sent_is_not_taken_for_lost_while_sqs_has_not_counted_it(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.jobs.accept(a_message("j1"), "same")
        await lose_all(stores)
        stores.ahead_s = 59
        assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        item = await table(stores.clients, JOBS).get({"job_id": "j1"})
        assert item is not None and "gone" not in item
        stores.ahead_s = 61
        assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        item = await table(stores.clients, JOBS).get({"job_id": "j1"})
        assert item is not None and "gone" in item

    on(stores, work)


def test_b7_j5_a_job_whose_message_is_a_dead_letter_is_not_lost(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.jobs.accept(a_message("j1"), "same")
        [message] = await stores.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
        moved = OutgoingMessage(message.body, message.group_id, message.dedup_id)
        await stores.queues.send(naming.dead_letter_queue(ALGO), [moved])
        await stores.queues.delete(naming.queue(ALGO), [message.receipt_handle])
        for _ in range(2):
            assert await stores.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
        assert await stores.queues.count(naming.queue(ALGO)) == 0

    on(stores, work)


def test_b8_a_note_of_a_send_of_long_ago_does_not_name_a_replays_message(
    stores: AwsStores,
) -> None:
    async def work(stores: AwsStores) -> None:
        replayed: list[str] = []
        loop = asyncio.get_running_loop()

        async def die_and_replay() -> None:
            await stores.jobs.apply([failed("j1", DEAD_LETTERED)])
            replayed.append(await stores.jobs.replay("j1", actor="anna"))

        def before_the_note(model: object, **_: object) -> None:
            if not replayed:
                events.unregister("before-call.dynamodb.UpdateItem", before_the_note)
                asyncio.run_coroutine_threadsafe(die_and_replay(), loop).result(10)

        events = stores.clients.client("dynamodb").boto.meta.events
        events.register("before-call.dynamodb.UpdateItem", before_the_note)
        accepted = await stores.jobs.accept(a_message("j1"), "same")
        job = await stores.jobs.get("j1")
        assert job is not None and replayed == [job.message_id] != [accepted.message_id]

    on(stores, work)


def test_an_attempts_number_only_grows(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.jobs.accept(a_message("j1"), "same")
        for attempt, progress in ((2, 0.1), (1, 0.9)):
            report = Report("j1", ALGO, JobStatus.RUNNING, attempt=attempt, progress=progress, started_at=1.5)
            await stores.jobs.apply([report])
        running = await stores.jobs.get("j1")
        assert running is not None and (running.attempts, running.progress) == (2, 0.9)
        [ended] = await stores.jobs.apply(
            [Report("j1", ALGO, JobStatus.FAILED, attempt=1, error=failed("j1").error)]
        )
        assert (ended.attempts, ended.progress, ended.status) == (2, 0.9, JobStatus.FAILED)
        assert ended.started_at == "1970-01-01T00:00:01.500000Z"

    on(stores, work)


def test_what_is_over_stays_for_ninety_days_and_what_is_open_for_ever(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        async def expires() -> object:
            item = await table(stores.clients, JOBS).get({"job_id": "j1"})
            assert item is not None
            return item.get("expires_at")

        await stores.jobs.accept(a_message("j1"), "same")
        assert await expires() is None
        await stores.jobs.apply([failed("j1", DEAD_LETTERED)])
        assert await expires() == pytest.approx(stores.clock() + KEPT_S, abs=60)
        await stores.jobs.replay("j1", actor="anna")
        assert await expires() is None
        [entry] = await stores.audit.entries("j1")
        assert (entry.actor, entry.action) == ("anna", "replay")

    on(stores, work)


def test_a_result_too_long_for_an_item_loses_its_provenance_and_then_fails(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        dicom = StoredObject(bucket="out", key=f"{ALGO}/x.dcm")
        long = JobResult(dicom=dicom, provenance={"inputs": "x" * MAX_RESULT_BYTES})
        many = tuple(Output(kind="SEG", bucket="out", key=f"{ALGO}/{'x' * 900}{n}.dcm") for n in range(400))
        for name, result in (("long", long), ("many", JobResult(dicom=dicom, outputs=many))):
            await stores.jobs.accept(a_message(name), "same")
            await stores.jobs.apply([Report(name, ALGO, JobStatus.SUCCEEDED, result=result)])
        short = await stores.jobs.get("long")
        assert short is not None and short.result == JobResult(dicom=dicom)
        failure = await stores.jobs.get("many")
        assert failure is not None and failure.error is not None
        assert (failure.status, failure.error.code) == (JobStatus.FAILED, "RESULT_TOO_LARGE")

    on(stores, work)


def test_a_listing_of_all_jobs_goes_back_through_the_days(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        order: list[str] = []
        for days_ago in (100, 40, 3, 2, 0):
            stores.ahead_s = -days_ago * DAY_S
            for letter in "ab":
                order.insert(0, f"{letter}-{days_ago}")
                await stores.jobs.accept(a_message(order[0]), "same")
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await stores.jobs.page(limit=3, cursor=cursor)
            found += [job.job_id for job in page.items]
            if (cursor := page.next_cursor) is None:
                break
        assert found == order
        assert (await stores.jobs.page(cursor="nonsense")).items == ()

    on(stores, work)


def test_a_listing_by_status_finds_the_few_among_many_and_more_than_a_batch(stores: AwsStores) -> None:
    async def work(stores: AwsStores) -> None:
        names = [f"j{number:03}" for number in range(130)]
        await asyncio.gather(*(stores.jobs.accept(a_message(name), "same") for name in names))
        assert len((await stores.jobs.page(algo_id=ALGO, limit=130)).items) == 130
        await stores.jobs.apply([succeeded(names[number]) for number in (5, 50, 129)])
        wanted = JobStatus.SUCCEEDED
        for where in ({"client_ids": ["client-1", "client-2"]}, {"algo_id": ALGO}, {}):
            first = await stores.jobs.page(status=wanted, limit=2, **where)
            rest = await stores.jobs.page(status=wanted, limit=2, cursor=first.next_cursor, **where)
            found = {job.job_id for job in (*first.items, *rest.items)}
            assert (len(first.items), found, rest.next_cursor) == (2, {"j005", "j050", "j129"}, None)
        assert await stores.jobs.open_count(ALGO) == 127

    on(stores, work)
