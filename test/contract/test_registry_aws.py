"""The registry's and the keys' contract on the AWS engine, and what only it must see to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aws_engine import AwsStores, fresh_stores

from aws_emulator import AwsEmulator
from medical_image_processing.errors import Conflict, InvalidRequest, NotFound
from medical_image_processing.model.algorithm import AlgorithmStatus, ResourceStatus
from medical_image_processing.ports.keys import KeyRole
from medical_image_processing.testing.registry_contract import (
    RegistryContract,
    RegistryPorts,
    a_spec,
    refused,
    set_status,
)


@pytest.fixture
def store(aws_emulator: AwsEmulator) -> AwsStores:
    return fresh_stores(aws_emulator)


class TestAwsRegistry(RegistryContract):
    @pytest.fixture(autouse=True)
    def _store(self, store: AwsStores) -> None:
        self.store = store

    def run(self, work: Callable[[RegistryPorts], Awaitable[None]]) -> None:
        store = self.store
        store.run(lambda _: work(RegistryPorts(store.registry, store.keys, store.audited)))


def test_what_the_provisioner_finds_is_not_lost_to_a_change_that_is_under_way(store: AwsStores) -> None:
    """A finding leaves the revision alone, so the revision alone can't tell that it came in between."""

    async def work(store: AwsStores) -> None:
        await store.registry.create(a_spec(), actor="anna")
        found = ResourceStatus(queue_url="http://q")

        async def find() -> None:
            await store.registry.set_status(
                "liver", revision=1, status=AlgorithmStatus.ACTIVE, reason=None, resources=found
            )

        came_between = asyncio.Event()
        dynamodb = store.clients.client("dynamodb").boto
        loop = asyncio.get_running_loop()

        def before_the_write(**_: object) -> None:
            if not came_between.is_set():
                loop.call_soon_threadsafe(came_between.set)
                asyncio.run_coroutine_threadsafe(find(), loop).result(10)

        dynamodb.meta.events.register("before-call.dynamodb.TransactWriteItems", before_the_write)
        await store.registry.update(
            a_spec(desired_count=3), status=AlgorithmStatus.ACTIVE, based_on=1, actor="anna", action="update"
        )
        assert came_between.is_set()
        record = await store.registry.get("liver")
        assert record is not None
        assert (record.revision, record.desired_count, record.resource_status) == (2, 3, found)

    store.run(work)


def test_a_finding_that_says_nothing_new_writes_nothing(store: AwsStores) -> None:
    async def work(store: AwsStores) -> None:
        await store.registry.create(a_spec(), actor="anna")
        await set_status(store.registry, AlgorithmStatus.ACTIVE)
        before = await store.registry.get("liver")
        await set_status(store.registry, AlgorithmStatus.ACTIVE)
        assert await store.registry.get("liver") == before

    store.run(work)


def test_a_record_that_no_task_could_be_given_is_refused(store: AwsStores) -> None:
    async def work(store: AwsStores) -> None:
        env = {f"V{number}": "x" * 4096 for number in range(16)}
        await refused(InvalidRequest, "RECORD_TOO_LARGE", store.registry.create(a_spec(env=env), actor="anna"))
        assert await store.registry.get("liver") is None
        assert await store.audit.entries("liver") == []

    store.run(work)


def test_a_listing_by_status_pages_through_every_record(store: AwsStores) -> None:
    async def work(store: AwsStores) -> None:
        for number in range(5):
            await store.registry.create(a_spec(f"a{number}"), actor="anna")
        pending = AlgorithmStatus.PENDING
        first = await store.registry.page(status=pending, limit=3)
        rest = await store.registry.page(status=pending, limit=3, cursor=first.next_cursor)
        assert [one.algorithm_id for one in (*first.items, *rest.items)] == [f"a{number}" for number in range(5)]
        assert rest.next_cursor is None

    store.run(work)


def test_a_name_has_one_key_however_many_ask_at_once(store: AwsStores) -> None:
    async def work(store: AwsStores) -> None:
        async def add(digest: str) -> bool:
            try:
                await store.keys.add(digest, name="ct", role=KeyRole.CLIENT, client_ids=[], actor="anna")
            except Conflict:
                return False
            return True

        won = await asyncio.gather(*(add(digit * 64) for digit in "abcd"))
        assert sum(won) == 1
        opened = [await store.keys.find(digit * 64) is not None for digit in "abcd"]
        assert opened == won
        assert [entry.action for entry in await store.audit.entries("ct")] == ["add key"]

    store.run(work)


def test_client_ids_that_are_granted_at_once_are_all_kept_and_each_once(store: AwsStores) -> None:
    async def work(store: AwsStores) -> None:
        await store.keys.add("a" * 64, name="ct", role=KeyRole.CLIENT, client_ids=["own"], actor="anna")
        granted = [f"c{number % 6}" for number in range(12)]
        await asyncio.gather(*(store.keys.grant_client_id("ct", one) for one in granted))
        [holder] = await store.keys.holders()
        assert sorted(holder.granted) == sorted(set(granted))
        assert set(holder.client_ids) == {"own", *granted}
        await refused(NotFound, "UNKNOWN_KEY", store.keys.grant_client_id("nobody", "c"))

    store.run(work)


def test_a_key_that_can_hold_no_more_client_ids_says_so(store: AwsStores) -> None:
    async def work(store: AwsStores) -> None:
        full = [f"{number:0120}" for number in range(3375)]
        await store.keys.add("a" * 64, name="ct", role=KeyRole.CLIENT, client_ids=[], actor="a", granted=full)

        async def grant_on() -> None:
            for number in range(20):
                await store.keys.grant_client_id("ct", f"more-{number:0115}")

        await refused(Conflict, "TOO_MANY_CLIENT_IDS", grant_on())
        holder = await store.keys.find("a" * 64)
        assert holder is not None and len(holder.granted) >= len(full)

    store.run(work)


def test_a_key_for_the_pacs_is_one_algorithms_until_it_is_removed(store: AwsStores) -> None:
    async def work(store: AwsStores) -> None:
        keys = store.pacs_keys
        for digit in "dde":
            await keys.let_in(digit * 64, "liver")
        await refused(Conflict, "PACS_KEY_TAKEN", keys.let_in("d" * 64, "kidney"))
        await keys.shut_out("kidney")
        assert [await keys.find_pacs_key(digit * 64) for digit in "de"] == ["liver", "liver"]
        assert await store.keys.find("d" * 64) is None, "an algorithm's key opened the API"
        assert await store.keys.holders() == []
        for _ in range(2):
            await keys.shut_out("liver")
        assert [await keys.find_pacs_key(digit * 64) for digit in "de"] == [None, None]

    store.run(work)
