"""The access record's contract on the AWS engine, and what only it must see to."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
from aws_engine import AwsStores, fresh_stores

from aws_emulator import AwsEmulator
from aws_tables import AUDIT, table
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.testing.accesses_contract import AccessesContract, AccessPorts, all_pages, six_jobs
from medical_image_processing.testing.registry_contract import refused


@pytest.fixture
def stores(aws_emulator: AwsEmulator) -> AwsStores:
    return fresh_stores(aws_emulator)


def on(stores: AwsStores, work: Callable[[AwsStores, AccessPorts], Awaitable[None]]) -> None:
    record = stores.access_record
    stores.run(lambda stores: work(stores, AccessPorts(record.note, record)))


class TestAwsAccesses(AccessesContract):
    @pytest.fixture(autouse=True)
    def _stores(self, stores: AwsStores) -> None:
        self.stores = stores

    def run(self, work: Callable[[AccessPorts], Awaitable[None]]) -> None:
        on(self.stores, lambda _, ports: work(ports))


def test_what_is_not_asked_by_study_reader_or_job_is_refused(stores: AwsStores) -> None:
    async def work(_: AwsStores, ports: AccessPorts) -> None:
        await refused(InvalidRequest, "FILTER_NEEDED", ports.accesses.page())

    on(stores, work)


def test_changes_of_the_same_name_are_no_reads_and_earlier_entries_are_found_by_study(stores: AwsStores) -> None:
    async def work(stores: AwsStores, ports: AccessPorts) -> None:
        audit = table(stores.clients, AUDIT)
        earlier = {"series": "1.2.3", "image": "1.2.3.4", "job_id": "job-9"}
        entry = {"subject": "1.2", "at": "2026-11-25T00:00:00.000000Z#ff", "actor": "liver", "action": "read"}
        await audit.put_all([{**entry, "details": json.dumps(earlier)}])
        await audit.transact([stores.audit.action("anna", "replay", "1.2", {"attempt": 2})])
        await ports.note("liver", [("1.2", "1.2.3", "1.2.3.5")], "1.2")
        found = await all_pages(ports, limit=1, study_uid="1.2")
        assert [(one.image_uid, one.job_id) for one in found] == [("1.2.3.5", "1.2"), ("1.2.3.4", "job-9")]
        assert [one.image_uid for one in await all_pages(ports, limit=9, job_id="1.2")] == ["1.2.3.5"]

    on(stores, work)


def test_few_among_very_many_are_found_over_several_pages(stores: AwsStores) -> None:
    async def work(stores: AwsStores, ports: AccessPorts) -> None:
        await six_jobs(ports)
        told = json.dumps({"study": "1.2", "series": "1.2.3", "images": ["7"], "job_id": None})
        entry = {"subject": "1.2", "actor": "busy", "action": "read", "details": told}
        later = [{**entry, "at": f"9999-01-01T00:00:00.000000Z#{number:04x}"} for number in range(2100)]
        await table(stores.clients, AUDIT).put_all(later)
        first = await ports.accesses.page(study_uid="1.2", algo_id="algo_0", limit=100)
        assert len(first.items) == 0 and first.next_cursor is not None
        found = await all_pages(ports, limit=100, study_uid="1.2", algo_id="algo_0")
        assert len(found) == 6

    on(stores, work)


def test_a_series_costs_three_entries_and_not_three_for_each_image(stores: AwsStores) -> None:
    async def work(stores: AwsStores, ports: AccessPorts) -> None:
        await ports.note("liver", [("1.2", "1.2.3", f"1.2.3.{number}") for number in range(60)], "job-1")
        assert len(await table(stores.clients, AUDIT).scan()) == 3

    on(stores, work)
