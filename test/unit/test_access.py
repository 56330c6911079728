"""Who may call: keys against real key records."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from medical_image_processing.api.access import Access, fixed_digests
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.keys import SqliteKeys
from medical_image_processing.errors import Forbidden, Unauthorized
from medical_image_processing.ports.keys import KeyRole, digest

ROOT = "mip-admin-root"


def run(
    folder: Path, work: Callable[[SqliteKeys, Access], Awaitable[None]], *, open_clients: bool = False
) -> None:
    async def with_keys() -> None:
        database = Database(folder / "mip.db")
        keys = SqliteKeys(database, clock=time.time)
        for name, role in (("anna", KeyRole.ADMIN), ("ct-room", KeyRole.CLIENT)):
            await keys.add(digest(f"key of {name}"), name=name, role=role, client_ids=["c1"], actor="root")
        try:
            await work(
                keys, Access(keys, root_admin_digests=fixed_digests(digest(ROOT)), open_clients=open_clients)
            )
        finally:
            await database.close()

    asyncio.run(with_keys())


def test_an_admin_is_named_by_the_key(tmp_path: Path) -> None:
    async def work(keys: SqliteKeys, access: Access) -> None:
        assert await access.admin(ROOT) == "root"
        assert await access.admin("key of anna") == "anna"
        await keys.remove("anna", actor="root")
        with pytest.raises(Unauthorized):
            await access.admin("key of anna")

    run(tmp_path, work)


@pytest.mark.parametrize("key", [None, "", "wrong", "key of ct-room", digest(ROOT), "\udcff", "x" * 100_000])
def test_no_other_key_makes_an_admin(tmp_path: Path, key: str | None) -> None:
    async def work(_: SqliteKeys, access: Access) -> None:
        with pytest.raises(Unauthorized) as caught:
            await access.admin(key)
        assert caught.value.code == "ADMIN_KEY_REQUIRED"
        assert not key or key not in str(caught.value)

    run(tmp_path, work)


def test_a_client_sees_only_its_own_client_ids(tmp_path: Path) -> None:
    async def work(_: SqliteKeys, access: Access) -> None:
        caller = await access.client("key of ct-room")
        assert caller.client_ids == ("c1",)
        caller.check("c1")
        with pytest.raises(Forbidden):
            caller.check("c2")
        for key in (None, "wrong", "key of anna", ROOT):
            with pytest.raises(Unauthorized):
                await access.client(key)

    run(tmp_path, work)


def test_where_clients_are_open_no_key_is_asked_for(tmp_path: Path) -> None:
    async def work(_: SqliteKeys, access: Access) -> None:
        caller = await access.client(None)
        assert caller.client_ids is None and caller.may_use("anybody")

    run(tmp_path, work, open_clients=True)
