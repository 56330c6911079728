"""Names that stand for UIDs and PACS ids: ports.pseudonyms on the embedded engine."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.pseudonyms import SqlitePseudonyms

SECRET = bytes(range(32))
UID, PATH = "1.2.276.0.7230010.3.1", "DOE_JANE/ct/one.dcm"


def test_n1_a_pseudonym_is_the_same_after_a_restart_and_another_with_another_secret(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        database = Database(tmp_path / "mip.db")
        try:
            first, second, other = (
                SqlitePseudonyms(database, secret=secret) for secret in (SECRET, SECRET, bytes(32))
            )
            for name in (UID, PATH):
                assert first.of(name) == second.of(name) != other.of(name)
                assert name not in first.of(name)
            assert re.fullmatch(r"2\.25\.[1-9][0-9]{30,38}", first.of(UID))
            assert re.fullmatch(r"[0-9a-f-]{36}", first.of(PATH)), "one that looks like a UID is compared with one"
            assert first.of(UID) != first.of(PATH)
        finally:
            await database.close()

    asyncio.run(run())


def test_n2_what_was_kept_is_found_again_by_another_process(tmp_path: Path) -> None:
    async def keep() -> list[str]:
        database = Database(tmp_path / "mip.db")
        pseudonyms = SqlitePseudonyms(database, secret=SECRET)
        await pseudonyms.keep([UID, PATH])
        await pseudonyms.keep([UID, PATH])
        # Not closed: as after kill -9, nothing more is written.
        return [pseudonyms.of(UID), pseudonyms.of(PATH)]

    async def find(asked: list[str]) -> dict[str, str]:
        database = Database(tmp_path / "mip.db")
        try:
            # The way back needs the table alone: a new secret changes nothing about what went out.
            return await SqlitePseudonyms(database, secret=bytes(32)).real(asked)
        finally:
            await database.close()

    asked = asyncio.run(keep())
    assert asyncio.run(find(asked)) == dict(zip(asked, [UID, PATH], strict=True))


def test_n3_what_was_never_kept_is_not_found(tmp_path: Path) -> None:
    async def run() -> None:
        database = Database(tmp_path / "mip.db")
        try:
            pseudonyms = SqlitePseudonyms(database, secret=SECRET)
            await pseudonyms.keep([UID])
            assert await pseudonyms.real([pseudonyms.of(PATH), UID, "", "2.25.1"]) == {}
            assert await pseudonyms.real([]) == {}
        finally:
            await database.close()

    asyncio.run(run())
