"""Which algorithm read which study (law A4): on record before the link is given, or there is no link."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from pacs_support import HEADERS, KEY, write_image

from medical_image_processing.engines.embedded.access_record import AccessRecord
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.pacs.app import create_app
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.ports.keys import digest
from medical_image_processing.testing.accesses_contract import AccessesContract, AccessPorts, six_jobs


def run(folder: Path, work: Callable[[Database, httpx.AsyncClient], Awaitable[None]]) -> None:
    """The PACS API of three images of one series, whose reads go on record in a database."""
    for number in range(3):
        write_image(folder / f"pacs/study-1/series-1/image-{number}.dcm", "1.2", "1.2.3", z=number)

    async def with_pacs() -> None:
        database = Database(folder / "mip.db")
        index = FolderIndex(folder / "pacs")
        index.start()
        record = AccessRecord(database, clock=time.time)
        app = create_app(index, HashedKeys({digest(KEY): "liver"}), LinkSigner(), record.note)
        transport = httpx.ASGITransport(app)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://pacs", headers=HEADERS) as client:
                await work(database, client)
        finally:
            index.close()
            await database.close()

    asyncio.run(with_pacs())


def reads(database: Database) -> list[str | None]:
    """The jobs that images of the study were read for."""
    rows = database.read("SELECT details FROM audit WHERE actor = 'liver' AND action = 'read' AND subject = '1.2'")
    return [json.loads(row["details"])["job_id"] for row in rows]


def test_a4_a_link_that_was_given_is_on_record(tmp_path: Path) -> None:
    async def work(database: Database, client: httpx.AsyncClient) -> None:
        async def read(number: int) -> None:
            path = f"/studies/study-1/images/series-1/image-{number % 3}"
            answer = await client.get(path, headers={"x-job-id": f"job-{number}"})
            assert answer.status_code == 200
            assert f"job-{number}" in reads(database)

        await asyncio.gather(*map(read, range(50)))
        assert len(reads(database)) == 50
        assert len((await client.get("/studies/study-1/images")).json()) == 3
        assert reads(database)[50:] == [None] * 3

    run(tmp_path, work)


def test_a4_what_cannot_go_on_record_is_not_given(tmp_path: Path) -> None:
    async def work(database: Database, client: httpx.AsyncClient) -> None:
        # SQLite raises SQLITE_FULL at its page limit exactly as at the end of a disk.
        await database.write(lambda c: c.execute("PRAGMA max_page_count = 1").fetchone() and None)
        pages = database.read("PRAGMA page_count")[0][0]
        given = 0
        for _ in range(40 * pages):
            answer = await client.get("/studies/study-1/images")
            if answer.status_code != 200:
                break
            given += 3
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_FULL")
        assert "url" not in answer.text
        await database.write(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchone() and None)
        assert (await client.get("/studies/study-1/images")).status_code == 200
        assert len(reads(database)) == given + 3

    run(tmp_path, work)


class TestEmbeddedAccesses(AccessesContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def run(self, work: Callable[[AccessPorts], Awaitable[None]]) -> None:
        async def with_record(database: Database, _: httpx.AsyncClient) -> None:
            record = AccessRecord(database, clock=time.time)
            await work(AccessPorts(record.note, record))

        run(self.folder, with_record)

    def test_i1_all_reads_are_listed_too_and_those_for_a_job_have_an_index(self) -> None:
        async def work(database: Database, _: httpx.AsyncClient) -> None:
            record = AccessRecord(database, clock=time.time)
            await six_jobs(AccessPorts(record.note, record))
            assert len((await record.page()).items) == 13
            plan = database.read(
                "EXPLAIN QUERY PLAN SELECT * FROM audit WHERE action = 'read'"
                " AND json_extract(details, '$.job_id') = ? ORDER BY seq DESC LIMIT 9",
                "job-2",
            )
            assert "audit_reads_by_job" in plan[0]["detail"]

        run(self.folder, work)
