"""The clauses of ports.registry and ports.keys, for every engine to inherit.

A subclass provides ``run``: it opens a fresh engine, awaits the given coroutine function with the ports,
and closes the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from medical_image_processing.errors import Conflict, MipError, NotFound, StaleRevision
from medical_image_processing.model.algorithm import AlgorithmSpec, AlgorithmStatus, ResourceStatus
from medical_image_processing.ports.keys import KeyRole, Keys
from medical_image_processing.ports.registry import Registry


def a_spec(algo_id: str = "liver", **changes: Any) -> AlgorithmSpec:
    """A spec that every engine accepts."""
    fields = {
        "algorithm_id": algo_id,
        "image_uri": "registry.local/algos:1",
        "cpu": 1024,
        "memory": 2048,
        "command": ["/app/worker.sh"],
    }
    return AlgorithmSpec.model_validate({**fields, **changes})


async def refused(kind: type[MipError], code: str, work: Awaitable[object]) -> MipError:
    """Await ``work``, which must raise ``kind`` with ``code``."""
    try:
        await work
    except kind as error:
        assert error.code == code, f"expected {code}, got {error.code}"
        return error
    raise AssertionError(f"expected {kind.__name__} {code}, but nothing was raised")


async def set_status(registry: Registry, status: AlgorithmStatus) -> None:
    """What a provisioner writes that knows revision 1."""
    found = ResourceStatus(queue_url="http://q")
    await registry.set_status("liver", revision=1, status=status, reason=None, resources=found)


@dataclass(frozen=True)
class RegistryPorts:
    """What the suite needs of an engine. ``audit`` reads the actions on record for a subject."""

    registry: Registry
    keys: Keys
    audit: Callable[[str], list[str]]


class RegistryContract:
    """Clauses R1 to R5 and K1, K2."""

    def run(self, work: Callable[[RegistryPorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        raise NotImplementedError

    def test_r1_a_taken_id_is_refused_and_changes_nothing(self) -> None:
        async def work(ports: RegistryPorts) -> None:
            first = await ports.registry.create(a_spec(), actor="anna")
            await refused(
                Conflict, "ALGORITHM_EXISTS", ports.registry.create(a_spec(cpu=2048, memory=4096), actor="bert")
            )
            assert await ports.registry.get("liver") == first

        self.run(work)

    def test_r2_p6_of_two_writers_on_one_revision_one_is_refused(self) -> None:
        async def work(ports: RegistryPorts) -> None:
            await ports.registry.create(a_spec(), actor="anna")

            async def scale(count: int) -> bool:
                try:
                    await ports.registry.update(
                        a_spec(desired_count=count),
                        status=AlgorithmStatus.PENDING,
                        based_on=1,
                        actor="x",
                        action="update",
                    )
                except StaleRevision:
                    return False
                return True

            won = await asyncio.gather(*(scale(count) for count in range(2, 10)))
            assert sum(won) == 1
            record = await ports.registry.get("liver")
            assert record is not None and record.revision == 2
            assert record.desired_count == 2 + won.index(True)

        self.run(work)

    def test_r3_a_status_leaves_the_revision_alone_and_comes_too_late_after_a_change(self) -> None:
        async def work(ports: RegistryPorts) -> None:
            await ports.registry.create(a_spec(), actor="anna")
            await set_status(ports.registry, AlgorithmStatus.ACTIVE)
            record = await ports.registry.get("liver")
            assert record is not None and (record.revision, record.status) == (1, AlgorithmStatus.ACTIVE)
            await ports.registry.update(
                a_spec(desired_count=3),
                status=AlgorithmStatus.ACTIVE,
                based_on=1,
                actor="anna",
                action="update",
            )
            late = set_status(ports.registry, AlgorithmStatus.FAILED)
            await refused(StaleRevision, "STALE_REVISION", late)

        self.run(work)

    def test_r4_a4_each_change_is_on_record_even_after_the_algorithm_is_gone(self) -> None:
        async def work(ports: RegistryPorts) -> None:
            await ports.registry.create(a_spec(env={"TOKEN": "hush"}), actor="anna")
            change = a_spec(desired_count=3)
            await ports.registry.update(
                change, status=AlgorithmStatus.DELETING, based_on=1, actor="bert", action="delete"
            )
            await ports.registry.remove("liver", revision=2, actor="provisioner")
            assert await ports.registry.get("liver") is None
            entries = ports.audit("liver")
            assert [entry.split()[:2] for entry in entries] == [
                ["anna", "register"],
                ["bert", "delete"],
                ["provisioner", "removed"],
            ]
            assert "hush" not in "".join(entries)

        self.run(work)

    def test_r5_a_listing_pages_through_every_record_once_in_order(self) -> None:
        async def work(ports: RegistryPorts) -> None:
            ids = sorted(f"algo-{number}" for number in range(25))
            for algo_id in reversed(ids):
                await ports.registry.create(a_spec(algo_id), actor="anna")
            found: list[str] = []
            cursor: str | None = None
            while True:
                page = await ports.registry.page(limit=10, cursor=cursor)
                found += [record.algorithm_id for record in page.items]
                if (cursor := page.next_cursor) is None:
                    break
            assert found == ids
            empty = await ports.registry.page(status=AlgorithmStatus.FAILED)
            assert empty.items == ()

        self.run(work)

    def test_k1_k2_a2_a_key_opens_until_it_is_removed_and_is_never_kept_itself(self) -> None:
        async def work(ports: RegistryPorts) -> None:
            await ports.keys.add("d" * 64, name="ct-room", role=KeyRole.CLIENT, client_ids=["c1"], actor="anna")
            again = ports.keys.add("e" * 64, name="ct-room", role=KeyRole.CLIENT, client_ids=[], actor="anna")
            await refused(Conflict, "KEY_NAME_TAKEN", again)
            await ports.keys.grant_client_id("ct-room", "c2")
            holder = await ports.keys.find("d" * 64)
            assert holder is not None and set(holder.client_ids) == {"c1", "c2"}
            await ports.keys.remove("ct-room", actor="anna")
            assert await ports.keys.find("d" * 64) is None
            await refused(NotFound, "UNKNOWN_KEY", ports.keys.remove("ct-room", actor="anna"))

        self.run(work)
