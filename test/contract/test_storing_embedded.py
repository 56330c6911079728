"""Results on their way back into the PACS: the contract on the embedded engine, and what only it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from medical_image_processing import naming
from medical_image_processing.control.storing import Storing
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.storing import OutputFiles, SqliteResultsToStore
from medical_image_processing.errors import MipError, PermanentError, Unavailable
from medical_image_processing.pacs.store import FolderWriter
from medical_image_processing.testing.storing_contract import ALGO, Pacs, StoringContract, StoringPlace, succeed


class Place:
    """Jobs in a database, their results in a folder."""

    bucket = "mip-output"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now = 1000.0

    async def open(self) -> None:
        self._database = Database(self._folder / "mip.db")
        queues = FifoQueues(self._database)
        self.jobs = SqliteJobs(self._database, queues, clock=lambda: self._now)
        self.to_store = SqliteResultsToStore(self._database, clock=lambda: self._now)
        self.files = OutputFiles(ObjectStore(self._folder / "output", bucket=self.bucket))
        dead = naming.dead_letter_queue(ALGO)
        await queues.create(dead, redrive_to=None)
        await queues.create(naming.queue(ALGO), redrive_to=dead)

    async def close(self) -> None:
        await self._database.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    async def put_result(self, key: str, content: bytes) -> None:
        path = self._folder / "output" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    async def remove_result(self, key: str) -> None:
        (self._folder / "output" / key).unlink()


class TestEmbeddedStoring(StoringContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = Place(tmp_path)

    def run(self, work: Callable[[StoringPlace], Awaitable[None]]) -> None:
        async def go() -> None:
            await self.place.open()
            try:
                await work(self.place)
            finally:
                await self.place.close()

        asyncio.run(go())

    def test_it_wakes_when_a_job_ends(self) -> None:
        async def work(_: StoringPlace) -> None:
            pacs = Pacs()
            self.place.jobs.on_finish = lambda *_: self.place.to_store.wake()
            running = asyncio.create_task(Storing(self.place.to_store, self.place.files, lambda _: pacs).run())
            await asyncio.sleep(0.1)
            await succeed(self.place, "asked")
            async with asyncio.timeout(4):  # sooner than it looks by itself
                while len(pacs.taken) < 2:
                    await asyncio.sleep(0.01)
            running.cancel()

        self.run(work)


def test_t3_a_folder_gets_each_instance_once_and_whole(tmp_path: Path) -> None:
    source = Path(str(get_testdata_file("CT_small.dcm")))
    writer = FolderWriter(tmp_path)
    for _ in range(2):
        asyncio.run(writer.store(source, "1.2"))
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    image = pydicom.dcmread(source)
    where = Path("mip-results", image.StudyInstanceUID, image.SeriesInstanceUID, f"{image.SOPInstanceUID}.dcm")
    assert found == [tmp_path / where] and found[0].read_bytes() == source.read_bytes()


def test_a_folder_takes_instances_alone_and_states_its_trouble(tmp_path: Path) -> None:
    text = tmp_path / "text.dcm"
    text.write_text("no DICOM")
    with pytest.raises(PermanentError) as refused:
        asyncio.run(FolderWriter(tmp_path / "pacs").store(text, "1.2"))
    assert refused.value.code == "NOT_DICOM"
    (tmp_path / "pacs").write_text("a file where the folder should be")
    with pytest.raises(MipError) as troubled:
        asyncio.run(FolderWriter(tmp_path / "pacs").store(Path(str(get_testdata_file("CT_small.dcm"))), "1.2"))
    assert isinstance(troubled.value, Unavailable) and str(tmp_path) not in troubled.value.message
