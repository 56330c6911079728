"""The AWS engine on a bad day: throttled, cut off, without an answer, behind an index that lags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from aws_engine import AwsStores, fresh_stores

from aws_emulator import AwsEmulator
from fault_proxy import UNAVAILABLE, Answer, Call, Fault, FaultProxy, Trouble, fault_proxy, first_tries, throttling
from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import ATTEMPTS
from medical_image_processing.errors import MipError, Throttled, TransientError, Unavailable
from medical_image_processing.model.algorithm import AlgorithmStatus
from medical_image_processing.model.job import JobEnd, JobStatus, StoreStatus
from medical_image_processing.ports.jobs import DEAD_LETTERED
from medical_image_processing.ports.keys import KeyRole
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
from medical_image_processing.testing.registry_contract import RegistryContract, RegistryPorts, a_spec, set_status

BACKOFF_LIMIT_S = 2.0 ** (ATTEMPTS - 1) + 5
"""The SDK's standard mode waits at most 1, 2, 4, 8 s between five throttled tries; the rest is this machine's."""

QUEUE = naming.queue(ALGO)


@pytest.fixture(scope="module")
def proxy(aws_emulator: AwsEmulator) -> Iterator[FaultProxy]:
    with fault_proxy(aws_emulator.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _no_fault(proxy: FaultProxy) -> None:
    proxy.fault = lambda _: None
    proxy.answered = lambda *_: None


@pytest.fixture
def stores(aws_emulator: AwsEmulator, proxy: FaultProxy) -> AwsStores:
    """Behind the proxy; ``direct`` stores of the same account are made from ``stores.account``."""
    return AwsStores(fresh_stores(aws_emulator).account, endpoint=proxy.endpoint)


PortCall = Callable[[AwsStores], Awaitable[object]]


def bucket(stores: AwsStores) -> str:
    """Its own: all accounts share the names of buckets."""
    return f"mip-output-{stores.account.account}"


A_MESSAGE = OutgoingMessage(body="x", group_id="g", dedup_id="d")
PORT_CALLS: dict[str, PortCall] = {
    "registry.get": lambda s: s.registry.get(ALGO),
    "registry.page": lambda s: s.registry.page(),
    "registry.create": lambda s: s.registry.create(a_spec("kidney"), actor="a"),
    "registry.update": lambda s: s.registry.update(
        a_spec("changed", desired_count=2), status=AlgorithmStatus.ACTIVE, based_on=1, actor="a", action="update"
    ),
    "registry.set_status": lambda s: set_status(s.registry, AlgorithmStatus.ACTIVE),
    "registry.remove": lambda s: s.registry.remove("removed", revision=1, actor="a"),
    "access_record.page": lambda s: s.access_record.page(study_uid="1.2"),
    "access_record.note": lambda s: s.access_record.note(ALGO, [("1.2", "1.2.3", "1.2.3.4")], "j"),
    "keys.find": lambda s: s.keys.find("f" * 64),
    "keys.add": lambda s: s.keys.add("a" * 64, name="new", role=KeyRole.CLIENT, client_ids=[], actor="a"),
    "keys.grant_client_id": lambda s: s.keys.grant_client_id("kept", "c"),
    "keys.holders": lambda s: s.keys.holders(),
    "keys.remove": lambda s: s.keys.remove("gone", actor="a"),
    "pacs_keys.find_pacs_key": lambda s: s.pacs_keys.find_pacs_key("d" * 64),
    "pacs_keys.let_in": lambda s: s.pacs_keys.let_in("e" * 64, "changed"),
    "pacs_keys.shut_out": lambda s: s.pacs_keys.shut_out(ALGO),
    "jobs.accept": lambda s: s.jobs.accept(a_message("new"), "same"),
    "jobs.find": lambda s: s.jobs.find("open", "same"),
    "jobs.get": lambda s: s.jobs.get("open"),
    "jobs.page": lambda s: s.jobs.page(client_ids=["client-1"]),
    "jobs.apply": lambda s: s.jobs.apply([succeeded("ends")]),
    "jobs.open_count": lambda s: s.jobs.open_count(ALGO),
    "jobs.fail_open": lambda s: s.jobs.fail_open("changed", failed("x").error or GIVEN_UP),
    "jobs.replay": lambda s: s.jobs.replay("dead", actor="a"),
    "jobs.resend_lost": lambda s: s.jobs.resend_lost(after_s=900, given_up=GIVEN_UP),
    "jobs.unseen": lambda s: s.jobs.unseen("client-1", after=None, limit=10),
    "jobs.mark_seen": lambda s: s.jobs.mark_seen([JobEnd("seen", "m")]),
    "to_store.due": lambda s: s.to_store.due(limit=10),
    "to_store.note": lambda s: s.to_store.note("to-store", StoreStatus.DONE),
    "queues.send": lambda s: s.queues.send(QUEUE, [A_MESSAGE]),
    "queues.receive": lambda s: s.queues.receive(naming.RESULTS_QUEUE, limit=1, wait_s=0),
    "queues.delete": lambda s: s.queues.delete(QUEUE, ["no-handle"]),
    "queues.depth": lambda s: s.queues.depth(QUEUE),
    "queues.dead_letters": lambda s: s.queues.dead_letters(limit=10),
    "s3.get_object": lambda s: s.clients.client("s3").call("list_objects_v2", Bucket=bucket(s)),
}
"""Each call of a port, so prepared by :func:`prepared` that it makes each of its own calls of AWS."""


@asynccontextmanager
async def prepared(stores: AwsStores, proxy: FaultProxy, fault: Fault) -> AsyncIterator[AwsStores]:
    """Something of all there is, then ``fault``."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(48))
    await stores.register(ALGO)
    for algo_id in ("changed", "removed"):
        await stores.registry.create(a_spec(algo_id), actor="a")
    for name, digit in (("kept", "b"), ("gone", "c")):
        await stores.keys.add(digit * 64, name=name, role=KeyRole.CLIENT, client_ids=[], actor="a")
    await stores.pacs_keys.let_in("d" * 64, ALGO)
    for job_id in ("open", "ends", "dead", "seen"):
        await stores.jobs.accept(a_message(job_id), "same")
    await stores.jobs.accept(a_message("to-store").model_copy(update={"store": True}), "same")
    await stores.jobs.apply([failed("dead", DEAD_LETTERED), succeeded("seen"), succeeded("to-store")])
    await stores.clients.client("s3").call("create_bucket", Bucket=bucket(stores))
    proxy.fault = fault
    try:
        yield stores
    finally:
        proxy.fault = lambda _: None


async def outcome(stores: AwsStores, call: PortCall) -> object:
    """What it returned or raised, of our own errors."""
    try:
        return await asyncio.wait_for(call(stores), BACKOFF_LIMIT_S)
    except MipError as error:
        return error


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (throttling, Throttled),
        (lambda _: UNAVAILABLE, Unavailable),
        (lambda _: Trouble.CUT, Unavailable),
    ],
    ids=["throttled", "unavailable", "cut off"],
)
def test_what_does_not_pass_ends_in_a_stated_transient_error_within_a_limit(
    stores: AwsStores, proxy: FaultProxy, fault: Fault, kind: type[TransientError]
) -> None:
    async def work(stores: AwsStores) -> None:
        tries: list[Call] = []

        def watched(call: Call) -> Answer | Trouble | None:
            tries.append(call)
            return fault(call)

        async with prepared(stores, proxy, watched):
            outcomes = await asyncio.gather(*(outcome(stores, call) for call in PORT_CALLS.values()))
        wrong = {name: came for name, came in zip(PORT_CALLS, outcomes, strict=True) if not isinstance(came, kind)}
        assert not wrong
        assert {call.number for call in tries} == set(range(1, ATTEMPTS + 1))
        texts = [str(came) for came in outcomes]
        assert all("try again" in text for text in texts), texts

    stores.run(work)


@pytest.mark.parametrize(
    "fault",
    [throttling, lambda _: UNAVAILABLE, lambda _: Trouble.CUT],
    ids=["throttled", "unavailable", "cut off"],
)
def test_what_passes_is_backed_off_from_and_nobody_is_told(
    stores: AwsStores, proxy: FaultProxy, fault: Fault
) -> None:
    async def work(stores: AwsStores) -> None:
        async with prepared(stores, proxy, first_tries(fault)):
            outcomes = await asyncio.gather(*(outcome(stores, call) for call in PORT_CALLS.values()))
        wrong = {name: came for name, came in zip(PORT_CALLS, outcomes, strict=True) if isinstance(came, MipError)}
        assert not wrong
        job = await stores.jobs.get("ends")
        assert job is not None and job.status is JobStatus.SUCCEEDED

    stores.run(work)


def test_whoever_is_silent_is_asked_again_before_anybody_gives_up(stores: AwsStores, proxy: FaultProxy) -> None:
    async def work(stores: AwsStores) -> None:
        async with prepared(stores, proxy, first_tries(lambda _: Trouble.SILENCE)):
            names = ("jobs.get", "queues.depth", "queues.receive", "s3.get_object")
            outcomes = await asyncio.gather(*(outcome(stores, PORT_CALLS[name]) for name in names))
        assert not [came for came in outcomes if isinstance(came, MipError)]

    stores.run(work)


def test_what_is_refused_for_good_is_not_tried_again(stores: AwsStores, proxy: FaultProxy) -> None:
    async def work(stores: AwsStores) -> None:
        denied = Answer(400, b'{"__type": "com.amazon.coral.service#AccessDeniedException", "message": "hush"}')
        tries: list[Call] = []

        def deny(call: Call) -> Answer:
            tries.append(call)
            return denied

        async with prepared(stores, proxy, deny):
            came = await outcome(stores, PORT_CALLS["jobs.get"])
        assert isinstance(came, MipError) and not isinstance(came, TransientError)
        assert "lacks the permission" in str(came) and "hush" not in str(came)
        assert len(tries) == 1

    stores.run(work)


def test_what_a_batch_left_over_is_asked_for_again(stores: AwsStores, proxy: FaultProxy) -> None:
    async def work(stores: AwsStores) -> None:
        left: list[str] = []

        def leave_all(call: Call) -> Answer | None:
            unprocessed = {
                "DynamoDB.BatchGetItem": "UnprocessedKeys",
                "DynamoDB.BatchWriteItem": "UnprocessedItems",
            }
            if call.operation not in unprocessed or left.count(call.operation) == 2:
                return None
            left.append(call.operation)
            answer = {"Responses": {}, unprocessed[call.operation]: call.given["RequestItems"]}
            return Answer(200, json.dumps(answer).encode())

        async with prepared(stores, proxy, leave_all):
            page = await stores.jobs.page(client_ids=["client-1"])
            assert len(page.items) == 5
            await stores.access_record.note(ALGO, [("1.2", "1.2.3", "1.2.3.4")], "j")
            assert len(await stores.audit.entries("1.2")) == 1
        assert len(left) == 4

    stores.run(work)


def lose_answers(call: Call) -> Trouble | None:
    """Each write is made twice. A receive is left alone: the emulator knows no ReceiveRequestAttemptId."""
    return None if call.operation == "SQS.ReceiveMessage" else Trouble.ANSWER_LOST


class TestJobsWhoseAnswersAreLost(JobsContract):
    """The SDK repeats a call whose answer did not come, and AWS does the work again."""

    @pytest.fixture(autouse=True)
    def _stores(self, stores: AwsStores, proxy: FaultProxy) -> None:
        self.stores = stores
        self.proxy = proxy

    def run(self, work: Callable[[JobPorts], Awaitable[None]]) -> None:
        async def with_losses(stores: AwsStores) -> None:
            await stores.register(ALGO)
            self.proxy.fault = first_tries(lose_answers)
            await work(JobPorts(stores.jobs, stores.queues, stores.audited))

        self.stores.run(with_losses)


class TestRegistryWhoseAnswersAreLost(RegistryContract):
    """As above."""

    @pytest.fixture(autouse=True)
    def _stores(self, stores: AwsStores, proxy: FaultProxy) -> None:
        self.stores = stores
        proxy.fault = first_tries(lose_answers)

    def run(self, work: Callable[[RegistryPorts], Awaitable[None]]) -> None:
        stores = self.stores
        stores.run(lambda _: work(RegistryPorts(stores.registry, stores.keys, stores.audited)))


class StaleIndex:
    """Answers from an index as it was once, however the table has moved on."""

    def __init__(self, proxy: FaultProxy, operation: str) -> None:
        self._operation = operation
        self._old: Answer | None = None
        self.told = 0
        proxy.answered = self._keep
        proxy.fault = self._tell

    def _keep(self, call: Call, answer: Answer) -> None:
        if self._is_mine(call) and self._old is None and answer.given["Items"]:
            self._old = answer

    def _tell(self, call: Call) -> Answer | None:
        if self._old is None or not self._is_mine(call):
            return None
        self.told += 1
        return self._old

    def _is_mine(self, call: Call) -> bool:
        return call.operation == self._operation and "IndexName" in call.given


def test_j7_an_index_that_lags_shows_a_client_nothing_twice(stores: AwsStores, proxy: FaultProxy) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.register(ALGO)
        for name in ("j1", "j2"):
            await stores.jobs.accept(a_message(name), "same")
        ended = await stores.jobs.apply([succeeded("j1"), failed("j2", DEAD_LETTERED)])
        index = StaleIndex(proxy, "DynamoDB.Query")
        assert await stores.jobs.unseen("client-1", after=None, limit=10) == ended
        await stores.jobs.mark_seen([ended[0].end])
        await stores.jobs.replay("j2", actor="anna")
        assert await stores.jobs.unseen("client-1", after=None, limit=10) == []
        assert index.told == 1

    stores.run(work)


def test_j1_j2_an_index_that_lags_lets_no_ended_job_be_sent_again(stores: AwsStores, proxy: FaultProxy) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.register(ALGO)
        await stores.jobs.accept(a_message("j1"), "same")
        index = StaleIndex(proxy, "DynamoDB.Scan")
        assert await stores.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
        [message] = await stores.queues.receive(QUEUE, limit=10, wait_s=0)
        await stores.queues.delete(QUEUE, [message.receipt_handle])
        await stores.jobs.apply([succeeded("j1")])
        assert await stores.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
        assert index.told == 1
        assert await stores.queues.count(QUEUE) == 0

    stores.run(work)


def test_j1_j2_a_job_that_ended_before_its_message_was_noted_is_accepted_and_not_sent_again(
    stores: AwsStores, proxy: FaultProxy
) -> None:
    async def work(stores: AwsStores) -> None:
        await stores.register(ALGO)
        proxy.fault = lambda call: UNAVAILABLE if call.operation == "DynamoDB.UpdateItem" else None
        assert (await stores.jobs.accept(a_message("j1"), "same")).created
        index = StaleIndex(proxy, "DynamoDB.Scan")
        assert await stores.jobs.resend_lost(after_s=900, given_up=GIVEN_UP) == []
        [message] = await stores.queues.receive(QUEUE, limit=10, wait_s=0)
        await stores.queues.delete(QUEUE, [message.receipt_handle])
        [ended] = await stores.jobs.apply([succeeded("j1")])
        sent: list[Call] = []
        proxy.answered = lambda call, _: sent.append(call) if call.operation == "SQS.SendMessage" else None
        assert await stores.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
        assert (index.told, sent) == (1, [])
        await stores.jobs.mark_seen([ended.end])
        assert await stores.jobs.unseen("client-1", after=None, limit=10) == []

    stores.run(work)


def test_r2_k1_writers_that_meet_in_a_transaction_try_again_and_are_not_refused(
    stores: AwsStores, proxy: FaultProxy
) -> None:
    """An item that is in one transaction refuses another (DynamoDB developer guide, "Transaction conflict")."""
    met = {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}
    reasons = {"CancellationReasons": [met, {"Code": "None"}]}
    kind = {"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException"}
    conflict = Answer(400, json.dumps({**kind, **reasons}).encode())

    async def work(stores: AwsStores) -> None:
        tries = 0

        def meet_twice(call: Call) -> Answer | None:
            nonlocal tries
            tries += call.operation == "DynamoDB.TransactWriteItems"
            return conflict if call.operation == "DynamoDB.TransactWriteItems" and tries <= 2 else None

        proxy.fault = meet_twice
        await stores.registry.create(a_spec(), actor="anna")
        assert tries == 3
        tries = 0
        single = {"__type": "com.amazonaws.dynamodb.v20120810#TransactionConflictException"}
        busy = Answer(400, json.dumps(single).encode())

        def meet_once(call: Call) -> Answer | None:
            nonlocal tries
            tries += call.operation == "DynamoDB.PutItem"
            return busy if tries == 1 and call.operation == "DynamoDB.PutItem" else None

        proxy.fault = meet_once
        await set_status(stores.registry, AlgorithmStatus.ACTIVE)
        assert tries == 2
        proxy.fault = lambda call: conflict if call.operation == "DynamoDB.TransactWriteItems" else None
        came = await outcome(stores, lambda s: s.registry.remove(ALGO, revision=1, actor="anna"))
        assert isinstance(came, Unavailable) and came.code == "AWS_BUSY"
        assert (await stores.registry.get(ALGO)) is not None

    stores.run(work)
