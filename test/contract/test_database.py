"""The SQLite file itself: groups, failures, versions."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import read_job
from medical_image_processing.engines.embedded.schema import MIGRATIONS
from medical_image_processing.errors import Conflict, Unavailable
from medical_image_processing.model.job import JobMessage, PacsRef, Scope


def run(path: Path, work: Callable[[Database], Awaitable[None]]) -> None:
    async def with_database() -> None:
        database = Database(path)
        try:
            await work(database)
        finally:
            await database.close()

    asyncio.run(with_database())


def insert(subject: str) -> Callable[[sqlite3.Connection], None]:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO audit (at, actor, action, subject) VALUES (0, 'a', 'b', ?)", (subject,))

    return write


def subjects(database: Database) -> set[str]:
    return {row["subject"] for row in database.read("SELECT subject FROM audit")}


def test_what_write_returned_for_is_in_the_file_and_outlives_a_close(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        await asyncio.gather(*(database.write(insert(str(number))) for number in range(1000)))

    run(tmp_path / "mip.db", work)
    with sqlite3.connect(tmp_path / "mip.db") as file:
        assert file.execute("SELECT COUNT(*) FROM audit").fetchone()[0] == 1000
        assert file.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_one_that_raises_undoes_only_itself(tmp_path: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        insert("half")(connection)
        raise Conflict("NO", "no")

    async def work(database: Database) -> None:
        results = await asyncio.gather(
            database.write(insert("before")),
            database.write(fail),
            database.write(insert("after")),
            return_exceptions=True,
        )
        assert isinstance(results[1], Conflict)
        assert subjects(database) == {"before", "after"}

    run(tmp_path / "mip.db", work)


def test_a_cancelled_caller_neither_stops_the_group_nor_the_writer(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        first = asyncio.create_task(database.write(insert("cancelled")))
        second = asyncio.create_task(database.write(insert("kept")))
        await asyncio.sleep(0)
        first.cancel()
        await second
        await database.write(insert("later"))
        assert {"kept", "later"} <= subjects(database)

    run(tmp_path / "mip.db", work)


def test_a_full_disk_is_a_stated_error_and_writing_goes_on_once_there_is_room(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        # SQLite raises SQLITE_FULL at its page limit exactly as at the end of a disk.
        await database.write(lambda c: c.execute("PRAGMA max_page_count = 60").fetchone() and None)
        with pytest.raises(Unavailable) as caught:
            for _ in range(100):
                await database.write(insert("x" * 10_000))
        assert caught.value.code == "STORAGE_FULL"
        await database.write(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone() and None)
        await database.write(insert("room again"))
        assert "room again" in subjects(database)

    run(tmp_path / "mip.db", work)


def test_whatever_breaks_in_a_group_everybody_in_it_hears_of_it(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        async def hear(*writes: Callable[[sqlite3.Connection], None]) -> list[BaseException | None]:
            calls = (database.write(write) for write in writes)
            async with asyncio.timeout(5):
                return await asyncio.gather(*calls, return_exceptions=True)

        def roll_back(connection: sqlite3.Connection) -> None:
            connection.execute("ROLLBACK")  # as SQLite itself does on some errors

        assert all(isinstance(said, Unavailable) for said in await hear(insert("a"), roll_back, insert("b")))
        assert await hear(insert("c")) == [None]
        assert subjects(database) == {"c"}
        heard = await hear(insert("d"), sqlite3.Connection.close, insert("e"))
        assert all(isinstance(said, Unavailable) for said in heard)
        assert all(isinstance(said, Unavailable) for said in await hear(insert("f")))

    run(tmp_path / "mip.db", work)


def test_what_is_to_follow_a_write_and_fails_hurts_neither_the_write_nor_its_neighbours(tmp_path: Path) -> None:
    def fail(_: None) -> None:
        raise KeyError("no such queue")

    async def work(database: Database) -> None:
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(
                database.write(insert("its own"), then=fail),
                database.write(insert("its neighbour")),
                return_exceptions=True,
            )
        assert isinstance(outcomes[0], KeyError) and outcomes[1] is None
        assert subjects(database) == {"its own", "its neighbour"}

    run(tmp_path / "mip.db", work)


def test_jobs_from_before_their_owners_ids_were_kept_never_tell_a_pseudonym(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mip.db") as file:
        for script in MIGRATIONS[:7]:
            file.executescript(script)
        file.execute("PRAGMA user_version = 7")
        file.execute("INSERT INTO pseudonyms VALUES ('2.25.1', '1.2.3')")
        for job_id, study_id in (("plain", "1.2.3"), ("hidden", "2.25.1")):
            message = JobMessage.model_validate(
                {
                    "job_id": job_id,
                    "client_id": "c",
                    "algo_id": "a",
                    "pacs": {"study_id": study_id, "scope": "study"},
                }
            )
            file.execute(
                "INSERT INTO jobs (job_id, algo_id, client_id, fingerprint, message_id, body, status, created_at)"
                " VALUES (?, 'a', 'c', 'f', 'm', ?, 'QUEUED', 0)",
                (job_id, message.model_dump_json(exclude_none=True)),
            )

    async def work(database: Database) -> None:
        told = {row["job_id"]: read_job(row).asked_pacs() for row in database.read("SELECT * FROM jobs")}
        assert told == {"plain": PacsRef(study_id="1.2.3", scope=Scope.STUDY), "hidden": None}

    run(tmp_path / "mip.db", work)


def test_a_file_of_a_newer_platform_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mip.db") as file:
        file.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(Conflict) as caught:
        Database(tmp_path / "mip.db")
    assert caught.value.code == "DATABASE_TOO_NEW"
