"""The queues' contract on SQS, as an emulator of it with a movable clock shows it, and what the engine adds.

What only AWS itself can show stands in :data:`CHECKED_OTHERWISE`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from aws_engine import AwsStores, create_queues, fresh_stores
from botocore.exceptions import ClientError

from aws_emulator import AwsEmulator
from medical_image_processing import naming
from medical_image_processing.engines.aws.queues import UNKNOWN_ROLE, SqsQueues
from medical_image_processing.ports.jobs import DEAD_LETTERED
from medical_image_processing.ports.queues import DeadLetter, OutgoingMessage
from medical_image_processing.testing.jobs_contract import a_message as a_job
from medical_image_processing.testing.jobs_contract import failed
from medical_image_processing.testing.queues_contract import (
    DEAD,
    MAX_RECEIVES,
    QUEUE,
    VISIBILITY_S,
    QueuesContract,
    a_message,
    bodies,
)

CHECKED_OTHERWISE = {
    "Q1": "Amazon SQS developer guide, 'Amazon SQS features': a message is stored on several servers before a "
    "send returns. Tested here: they outlive the process that sent them.",
    "Q2": "Amazon SQS developer guide, 'Exactly-once processing in Amazon SQS': the five-minute deduplication "
    "interval. Tested here against an emulator's clock.",
    "Q5": "Amazon SQS developer guide, 'Using dead-letter queues': a message moves when its receive count exceeds "
    "maxReceiveCount, at the next receive. Tested here against an emulator.",
}
"""Clauses whose keeping rests on AWS, with the page that promises it."""

ALGO = "liver"


class AllAlgorithms:
    """Every algorithm has open jobs, and all their messages are the newest (engines.aws.queues.OpenJobs)."""

    async def algorithms(self) -> Sequence[str]:
        return [ALGO]

    async def has_another_message(self, job_id: str, message_id: str, dedup_id: str) -> bool:
        return False


class AwsQueueEngine:
    """Implements testing.queues_contract.QueueEngine in an account of its own."""

    def __init__(self, emulator: AwsEmulator) -> None:
        self.account = emulator.fresh_account()
        self.now = 0.0
        self.calls: Counter[str] = Counter()
        self._open()
        create_queues(self._clients, ALGO, visibility_s=VISIBILITY_S)
        self.calls.clear()

    def _open(self) -> None:
        self._clients = self.account.clients()
        self.queues = SqsQueues(
            self._clients.client("sqs"),
            f"{self.account.endpoint}/{self.account.account}/{naming.RESULTS_QUEUE}",
            open_jobs=AllAlgorithms(),
            algorithm_of_role=self._algorithm_of_role,
            clock=lambda: self.now,
        )
        self._clients.client("sqs").boto.meta.events.register("before-call.sqs", self._count)

    def _count(self, model: Any, **_: object) -> None:
        self.calls[model.name] += 1

    async def _algorithm_of_role(self, role_id: str) -> str | None:
        return {"AROALIVER": ALGO}.get(role_id)

    async def change_visibility(self, queue: str, receipt_handle: str, seconds: int) -> bool:
        sqs = self._clients.client("sqs").boto
        given: dict[str, Any] = {"QueueUrl": self.queues.url(queue), "ReceiptHandle": receipt_handle}
        try:
            await asyncio.to_thread(sqs.change_message_visibility, **given, VisibilityTimeout=seconds)
        except ClientError as error:
            assert error.response["Error"]["Code"] in ("ReceiptHandleIsInvalid", "InvalidParameterValue"), error
            return False
        return True

    async def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.account.pass_time(seconds)

    async def restart(self) -> None:
        self._clients.close()
        self._open()

    def close(self) -> None:
        self._clients.close()


@pytest.fixture
def engine(movable_aws_emulator: AwsEmulator) -> Iterator[AwsQueueEngine]:
    engine = AwsQueueEngine(movable_aws_emulator)
    yield engine
    engine.close()


def run(engine: AwsQueueEngine, work: Callable[[AwsQueueEngine], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(engine), 30)

    asyncio.run(limited())


class TestContract(QueuesContract):
    @pytest.fixture(autouse=True)
    def _engine(self, engine: AwsQueueEngine) -> None:
        self.engine = engine

    def run(self, work: Callable[..., Awaitable[None]]) -> None:
        run(self.engine, work)


def test_a_depth_is_asked_for_once_in_five_seconds(engine: AwsQueueEngine) -> None:
    async def work(engine: AwsQueueEngine) -> None:
        assert await engine.queues.depth(QUEUE) == 0
        await engine.queues.send(QUEUE, [a_message("one")])
        await engine.pass_time(4)
        assert await engine.queues.depth(QUEUE) == 0
        assert engine.calls["GetQueueAttributes"] == 1
        await engine.pass_time(1)
        assert await engine.queues.depth(QUEUE) == 1

    run(engine, work)


def test_more_messages_than_a_batch_are_sent_received_and_deleted_in_order(engine: AwsQueueEngine) -> None:
    async def work(engine: AwsQueueEngine) -> None:
        names = [f"{number:02}" for number in range(25)]
        ids = await engine.queues.send(QUEUE, [a_message(name) for name in names])
        received = await engine.queues.receive(QUEUE, limit=24, wait_s=0)
        assert bodies(received) == names[:24]
        assert [message.message_id for message in received] == ids[:24]
        assert [message.seq for message in received] == sorted(message.seq for message in received)
        await engine.queues.delete(QUEUE, [message.receipt_handle for message in received])
        assert await engine.queues.count(QUEUE) == 1
        assert engine.calls["SendMessageBatch"] == engine.calls["DeleteMessageBatch"] == 3

    run(engine, work)


def test_messages_too_long_to_go_together_go_apart(engine: AwsQueueEngine) -> None:
    async def work(engine: AwsQueueEngine) -> None:
        long = [OutgoingMessage(body=name * 200_000, group_id=name, dedup_id=name) for name in ("a", "b", "c")]
        await engine.queues.send(QUEUE, [*long, a_message("d")])
        assert engine.calls["SendMessageBatch"] + engine.calls["SendMessage"] == 3
        assert await engine.queues.count(QUEUE) == 4

    run(engine, work)


@pytest.mark.parametrize(
    ("sender_id", "sender"),
    [
        ("AROALIVER:a-task", ALGO),
        ("AROAOTHER:a-session", UNKNOWN_ROLE),
        ("AIDAOPERATOR", None),
        ("123456789012", None),
    ],
)
def test_a1_a_message_is_of_the_algorithm_whose_role_sent_it(
    engine: AwsQueueEngine, sender_id: str, sender: str | None
) -> None:
    async def work(engine: AwsQueueEngine) -> None:
        message = await engine.queues.received(
            {
                "messageId": "m",
                "receiptHandle": "h",
                "body": "{}",
                "attributes": {
                    "ApproximateReceiveCount": "2",
                    "SentTimestamp": "1764000000123",
                    "ApproximateFirstReceiveTimestamp": "1764000001000",
                    "SenderId": sender_id,
                    "SequenceNumber": "18849496460467696128",
                    "MessageGroupId": "j1",
                    "MessageDeduplicationId": "d1",
                },
            }
        )
        assert (message.sender, message.receive_count, message.group_id) == (sender, 2, "j1")
        assert (message.sent_at, message.seq) == (1764000000.123, 18849496460467696128)

    run(engine, work)


def test_a_dead_letter_that_nobody_answered_for_comes_again_after_its_lease(engine: AwsQueueEngine) -> None:
    async def work(engine: AwsQueueEngine) -> None:
        await engine.queues.send(DEAD, [a_message("bad")])
        first = await engine.queues.dead_letters(limit=10)
        assert await engine.queues.dead_letters(limit=10) == []
        await engine.restart()
        await engine.pass_time(61)
        assert await engine.queues.dead_letters(limit=10) == first
        await engine.queues.settle_dead_letters([first[0].message_id])
        assert await engine.queues.count(DEAD) == 0

    run(engine, work)


def test_no_queue_is_asked_for_dead_letters_while_no_job_is_open(movable_aws_emulator: AwsEmulator) -> None:
    async def work(stores: AwsStores) -> None:
        asked: list[str] = []
        sqs = stores.clients.client("sqs").boto
        sqs.meta.events.register("before-call.sqs.ReceiveMessage", lambda **_: asked.append("receive"))
        for algo_id in ("kidney", ALGO):
            await stores.register(algo_id)
        assert await stores.queues.dead_letters(limit=10) == []
        assert asked == []
        await stores.jobs.accept(a_job("j1"), "same")
        assert await stores.queues.dead_letters(limit=10) == []
        assert asked == ["receive"]

    fresh_stores(movable_aws_emulator).run(work)


def test_j5_a_dead_letter_of_an_earlier_attempt_does_not_end_the_replayed_job(
    movable_aws_emulator: AwsEmulator,
) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.register(ALGO)
        await stores.jobs.accept(a_job("j1"), "same")
        letter = await die(stores)
        # The platform ended the job and stopped before it settled the letter.
        await stores.jobs.apply([failed("j1", DEAD_LETTERED)])
        again = await stores.jobs.replay("j1", actor="anna")
        stores.account.pass_time(61)
        assert await stores.queues.dead_letters(limit=10) == []
        assert await stores.queues.count(DEAD) == 0
        assert (await die(stores)).message_id == again != letter.message_id

    fresh_stores(movable_aws_emulator).run(work)


async def die(stores: AwsStores) -> DeadLetter:
    """The one message of the queue is received and forgotten until it is a dead letter."""
    for _ in range(MAX_RECEIVES):
        assert len(await stores.queues.receive(QUEUE, limit=1, wait_s=0)) == 1
        stores.account.pass_time(VISIBILITY_S + 1)
    assert await stores.queues.receive(QUEUE, limit=1, wait_s=0) == []
    [letter] = await stores.queues.dead_letters(limit=10)
    return letter
