"""Results on their way back into the PACS: ports.storing on the embedded engine, and what control decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from medical_image_processing import naming
from medical_image_processing.control.storing import Storing
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.storing import OutputFiles, SqliteResultsToStore
from medical_image_processing.errors import MipError, PermanentError, Unavailable
from medical_image_processing.model.job import JobMessage, JobResult, JobStatus, Output, Stored, StoredObject
from medical_image_processing.pacs.store import FolderWriter
from medical_image_processing.ports.jobs import Report

ALGO, BUCKET = "algo_1", "mip-output"
KEYS = [f"{ALGO}/s/{kind}.dcm" for kind in ("one", "two")]


class Place:
    """Jobs in a database, their results in a folder, and a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        self.output = folder / "output"

    async def open(self) -> None:
        self.database = Database(self.folder / "mip.db")
        queues = FifoQueues(self.database)
        self.jobs = SqliteJobs(self.database, queues, clock=lambda: self.now)
        self.to_store = SqliteResultsToStore(self.database, clock=lambda: self.now)
        self.files = OutputFiles(self.output, bucket=BUCKET)
        dead = naming.dead_letter_queue(ALGO)
        await queues.create(dead, redrive_to=None)
        await queues.create(naming.queue(ALGO), redrive_to=dead)

    async def succeed(self, job_id: str, *, store: bool = True, status: JobStatus = JobStatus.SUCCEEDED) -> None:
        """A job that ended; its results are two instances."""
        for key in KEYS:
            path = self.output / key
            path.parent.mkdir(parents=True, exist_ok=True)
            image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.{KEYS.index(key)}"
            image.save_as(path)
        said: dict[str, Any] = {"study_id": "s", "scope": "study"}
        message = {"job_id": job_id, "client_id": "c", "algo_id": ALGO, "pacs": said, "store": store or None}
        await self.jobs.accept(JobMessage.model_validate(message), "fingerprint")
        outputs = tuple(Output(kind="SC", bucket=BUCKET, key=key) for key in KEYS)
        table = Output(kind="other", bucket=BUCKET, key="no/such/table", media_type="text/csv")
        result = JobResult(dicom=StoredObject(bucket=BUCKET, key=KEYS[0]), outputs=(*outputs, table))
        done = status is JobStatus.SUCCEEDED
        await self.jobs.apply([Report(job_id, ALGO, status, result=result if done else None)])

    async def stored(self, job_id: str) -> Stored | None:
        job = await self.jobs.get(job_id)
        assert job is not None
        return job.stored


class Writer:
    """Takes files, or raises ``fault``."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.fault: Exception | None = None

    async def store(self, file: Path, study_id: str) -> None:
        assert study_id == "s", "the job's own"
        if self.fault is not None:
            raise self.fault
        self.taken.append(file.name)


def run(folder: Path, work: Callable[[Place, Writer, Storing], Awaitable[None]]) -> None:
    async def go() -> None:
        place, writer = Place(folder), Writer()
        await place.open()
        try:
            await work(place, writer, Storing(place.to_store, place.files, writer))
        finally:
            await place.database.close()

    asyncio.run(go())


def test_t1_each_instance_of_a_job_that_asked_for_it_is_stored_once(tmp_path: Path) -> None:
    async def work(place: Place, writer: Writer, storing: Storing) -> None:
        await place.succeed("asked")
        await place.succeed("not-asked", store=False)
        await place.succeed("failed", status=JobStatus.FAILED)
        assert await storing.store_due() == 1
        assert writer.taken == ["one.dcm", "two.dcm"]
        stored = await place.stored("asked")
        assert stored is not None and (stored.status, stored.attempts, stored.error) == ("done", 1, None)
        assert await place.stored("not-asked") is None and await place.stored("failed") is None
        assert await storing.store_due() == 0

    run(tmp_path, work)


def test_t1_what_is_to_be_stored_outlives_the_process(tmp_path: Path) -> None:
    async def die(place: Place, writer: Writer, storing: Storing) -> None:
        await place.succeed("asked")

    async def live_again(place: Place, writer: Writer, storing: Storing) -> None:
        assert await storing.store_due() == 1 and len(writer.taken) == 2

    run(tmp_path, die)
    run(tmp_path, live_again)


def test_t2_a_pacs_in_trouble_is_tried_again_ever_later_and_the_reason_is_there(tmp_path: Path) -> None:
    async def work(place: Place, writer: Writer, storing: Storing) -> None:
        await place.succeed("asked")
        writer.fault = Unavailable("PACS_UNAVAILABLE", "it is down", retry_after_s=1)
        pauses = []
        for attempt in range(1, 12):
            assert await storing.store_due() == 1
            stored = await place.stored("asked")
            assert stored is not None and stored.error is not None
            assert (stored.status, stored.attempts, stored.error.code) == ("pending", attempt, "PACS_UNAVAILABLE")
            begun = place.now
            while not await place.to_store.due(limit=1):
                assert await storing.store_due() == 0
                place.now += 0.5
            pauses.append(place.now - begun)
        assert pauses[:4] == [1, 2, 4, 8] and pauses[-1] == 300
        writer.fault = None
        assert await storing.store_due() == 1
        stored = await place.stored("asked")
        assert stored is not None and (stored.status, stored.error) == ("done", None)

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (PermanentError("STORE_REFUSED", "it takes no such thing"), "STORE_REFUSED"),
        (ZeroDivisionError("PATIENT^NAME"), "STORE_FAILED"),
    ],
)
def test_t2_what_can_not_be_stored_is_stated_and_left(tmp_path: Path, fault: Exception, code: str) -> None:
    async def work(place: Place, writer: Writer, storing: Storing) -> None:
        await place.succeed("asked")
        writer.fault = fault
        await storing.store_due()
        stored = await place.stored("asked")
        assert stored is not None and stored.error is not None
        assert (stored.status, stored.error.code) == ("failed", code)
        assert "PATIENT" not in stored.error.message
        place.now += 10_000
        assert await storing.store_due() == 0

    run(tmp_path, work)


def test_a_result_that_is_gone_is_said_to_be_so(tmp_path: Path) -> None:
    async def work(place: Place, writer: Writer, storing: Storing) -> None:
        await place.succeed("asked")
        (place.output / KEYS[1]).unlink()
        await storing.store_due()
        stored = await place.stored("asked")
        assert stored is not None and stored.error is not None and stored.error.code == "RESULT_GONE"

    run(tmp_path, work)


def test_it_wakes_when_a_job_ends(tmp_path: Path) -> None:
    async def work(place: Place, writer: Writer, storing: Storing) -> None:
        place.jobs.on_finish = lambda *_: place.to_store.wake()
        running = asyncio.create_task(storing.run())
        await asyncio.sleep(0.1)
        await place.succeed("asked")
        async with asyncio.timeout(2):
            while len(writer.taken) < 2:
                await asyncio.sleep(0.01)
        running.cancel()

    run(tmp_path, work)


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
