"""Results of algorithms that knew no patient: ports.reidentification on the embedded engine, and what control and
delivery make of it. The PACS is a folder, the results are files, and the queue is the real one."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

import identified
from identified import SERIES, STUDY, sop_uid
from medical_image_processing import naming
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.control.reidentification import Reidentification
from medical_image_processing.control.router import Router
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.pseudonyms import SqlitePseudonyms
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.registry import SqliteRegistry
from medical_image_processing.engines.embedded.storing import OutputFiles
from medical_image_processing.errors import Unavailable
from medical_image_processing.model.algorithm import AlgorithmSpec, AlgorithmStatus
from medical_image_processing.model.job import Job, JobMessage, JobResult, ProcessRequest, StoredObject
from medical_image_processing.pacs.deidentify import deidentify
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.folder_archive import FolderArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.reidentifier import ArchiveReidentifier
from medical_image_processing.ports.queues import OutgoingMessage

ALGO, BUCKET, WAIT_S = "algo_1", "mip-output", 20.0
SPEC = {"algo_id": ALGO, "image_uri": "x", "cpu": 1024, "memory": 2048, "command": ["x"], "deidentify": True}
PACS = {"study_id": STUDY, "series_id": SERIES, "scope": "series"}


class Archive(FolderArchive):
    """A folder that can be away for a while."""

    is_away = False

    async def images(self, study_id: str, series_id: str | None) -> list[Any]:
        if self.is_away:
            raise Unavailable("PACS_UNAVAILABLE", "it is away")
        return await super().images(study_id, series_id)


@dataclass
class Pushed:
    jobs: list[Job] = field(default_factory=list)

    async def push(self, job: Job) -> None:
        self.jobs.append(job)


class World:
    """A platform's parts over ``folder``; opened again it is what a restart finds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pacs = folder, folder / "pacs"
        self.pushed = Pushed()

    async def open(self) -> None:
        self.pacs.mkdir(exist_ok=True)
        for number, image in enumerate(identified.images(2)):
            (self.pacs / f"{number}.dcm").write_bytes(identified.encoded(image))
        self.database = Database(self.folder / "mip.db")
        self.queues = FifoQueues(self.database)
        self.jobs = SqliteJobs(self.database, self.queues, clock=time.time)
        self.registry = SqliteRegistry(self.database, clock=time.time)
        self.pseudonyms = SqlitePseudonyms(self.database, secret=bytes(32))
        self.files = OutputFiles(ObjectStore(self.folder / "output", bucket=BUCKET))
        self.index = FolderIndex(self.pacs, min_interval_s=0.01)
        self.index.start()
        self.archive = Archive(self.index, LinkSigner())
        self.reidentification = Reidentification(
            self.jobs, self.files, self.files, ArchiveReidentifier(self.archive, self.pseudonyms)
        )
        self.delivery = Delivery(
            self.queues,
            self.jobs,
            self.registry,
            self.pushed,
            output_bucket=BUCKET,
            reidentification=self.reidentification,
        )
        dead = naming.dead_letter_queue(ALGO)
        for name, redrive_to in ((naming.RESULTS_QUEUE, None), (dead, None), (naming.queue(ALGO), dead)):
            await self.queues.create(name, redrive_to=redrive_to, visibility_s=0.2)
        if await self.registry.get(ALGO) is None:
            record = await self.registry.create(AlgorithmSpec.model_validate(SPEC), actor="anna")
            await self.registry.update(
                record.spec(), status=AlgorithmStatus.ACTIVE, based_on=record.revision, actor="anna", action="x"
            )

    async def close(self) -> None:
        self.queues.close()
        self.index.close()
        await self.database.close()

    async def submit(self, job_id: str = "j1", **pacs: Any) -> JobMessage:
        """A job; the message as the algorithm gets it."""
        router = Router(self.registry, self.jobs, self.queues, queue_limit=10, pseudonyms=self.pseudonyms)
        request = ProcessRequest.model_validate({"job_id": job_id, "client_id": "c", "pacs": {**PACS, **pacs}})
        await router.submit(ALGO, request)
        [message] = await self.queues.receive(naming.queue(ALGO), limit=1)
        return JobMessage.model_validate_json(message.body)

    async def put(self, change: Callable[[Any], None] = lambda _: None, name: str = "r1") -> str:
        """What the algorithm makes of the first image; its key."""
        seen = deidentify((self.pacs / "0.dcm").read_bytes(), self.pseudonyms.of)
        await self.pseudonyms.keep(seen.uids)
        made = pydicom.dcmread(pydicom.filebase.DicomBytesIO(seen.data))
        made.SOPInstanceUID, made.SeriesInstanceUID = "2.25.7", "2.25.8"
        change(made)
        return await self.put_bytes(identified.encoded(made), name)

    async def put_bytes(self, data: bytes, name: str) -> str:
        key = f"{ALGO}/{name}.dcm"
        file = self.folder / "output" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return key

    async def say(self, key: str, job_id: str = "j1", number: int = 1, **more: Any) -> None:
        """The algorithm's result message."""
        body = {"job_id": job_id, "algo_id": ALGO, "dicom": {"bucket": BUCKET, "key": key}, **more}
        message = OutgoingMessage(
            body=json.dumps(body), group_id=job_id, dedup_id=f"{job_id}-{number}", sender=ALGO
        )
        await self.queues.send(naming.RESULTS_QUEUE, [message])

    async def delivered(self, job_id: str = "j1", *, whole: bool = True) -> Job:
        """Deliver until the job has ended and, unless others may wait, the results queue is empty."""
        async with asyncio.timeout(WAIT_S):
            while True:
                await self.delivery.deliver(await self.queues.receive(naming.RESULTS_QUEUE, limit=9, wait_s=0.1))
                job = await self.jobs.get(job_id)
                assert job is not None
                if job.finished_at is not None and not (whole and await self.queues.depth(naming.RESULTS_QUEUE)):
                    return job

    def read(self, key: str) -> Any:
        return pydicom.dcmread(self.folder / "output" / key)


def run(folder: Path, *works: Callable[[World], Awaitable[None]]) -> None:
    """Each in a world of its own over the same folder."""

    async def go(work: Callable[[World], Awaitable[None]]) -> None:
        world = World(folder)
        await world.open()
        try:
            await work(world)
        finally:
            await world.close()

    for work in works:
        asyncio.run(go(work))


def fails(folder: Path, code: str, act: Callable[[World], Awaitable[str]], **more: Any) -> None:
    """The job ends with ``code``, and nothing with the patient was made."""

    async def work(world: World) -> None:
        await world.submit()
        await world.say(await act(world), **more)
        job = await world.delivered()
        assert (job.status, job.error and job.error.code) == ("FAILED", code)
        assert job.result is None and not (folder / "output" / naming.REIDENTIFIED).exists()
        assert identified.found_in(job.model_dump_json().encode()) == set()

    run(folder, work)


def test_a_result_is_of_the_patient_before_anybody_sees_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        message = await world.submit()
        assert identified.found_in(message.model_dump_json().encode()) == set()
        seen = world.pseudonyms.of(sop_uid(0))
        await world.say(await world.put(), provenance={"input": {"count": 1, "sop_instance_uids": [seen]}})
        job = await world.delivered()
        assert job.status == "SUCCEEDED" and job.result is not None
        assert world.pushed.jobs == [job]
        key = job.result.dicom.key
        assert not naming.is_output_key(ALGO, key, legacy=True)
        made = world.read(key)
        assert (made.PatientID, made.StudyInstanceUID) == (identified.PATIENT_ID, STUDY)
        assert job.result.provenance == {"input": {"count": 1, "sop_instance_uids": [sop_uid(0)]}}

    run(tmp_path, work)


def test_v1_j2_made_again_after_a_kill_it_is_the_same_object(tmp_path: Path) -> None:
    """The platform dies between the object and the job's end; the message comes again."""
    keys: list[str] = []

    async def die(world: World) -> None:
        await world.submit()
        key = await world.put()
        await world.say(key)
        result = JobResult(dicom=StoredObject(bucket=BUCKET, key=key))
        keys.append((await world.reidentification.of_patient("j1", ALGO, result)).dicom.key)

    async def live_again(world: World) -> None:
        before = (tmp_path / "output" / keys[0]).read_bytes()
        job = await world.delivered()
        assert job.result is not None and job.result.dicom.key == keys[0]
        assert (tmp_path / "output" / keys[0]).read_bytes() == before
        assert len(list((tmp_path / "output" / naming.REIDENTIFIED).rglob("*.dcm"))) == 1

    run(tmp_path, die, live_again)


def test_j2_a_second_result_replaces_nothing(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.submit()
        await world.say(await world.put())
        job = await world.delivered()
        assert job.result is not None
        before = (tmp_path / "output" / job.result.dicom.key).read_bytes()

        def other(made: Any) -> None:
            made.SeriesDescription = "another"

        await world.say(await world.put(other, "r2"), number=2)
        assert (await world.delivered()).result == job.result
        assert (tmp_path / "output" / job.result.dicom.key).read_bytes() == before
        assert len(list((tmp_path / "output" / naming.REIDENTIFIED).rglob("*.dcm"))) == 1, "nor is it made"
        assert len(world.pushed.jobs) == 1

    run(tmp_path, work)


def test_v2_a_result_that_claims_another_study_is_refused(tmp_path: Path) -> None:
    """It may name any pseudonym that it has seen; the job says whose result it is."""

    async def act(world: World) -> str:
        other = identified.images(1)[0]
        other.StudyInstanceUID, other.PatientID = "1.2.3.99", "ANOTHER-PATIENT"
        other.SOPInstanceUID = "1.2.3.99.1"
        (world.pacs / "other.dcm").write_bytes(identified.encoded(other))
        await world.pseudonyms.keep(["1.2.3.99"])

        def claim(made: Any) -> None:
            made.StudyInstanceUID = world.pseudonyms.of("1.2.3.99")

        return await world.put(claim)

    fails(tmp_path, "RESULT_OF_OTHER_STUDY", act)


def test_a_result_that_is_no_dicom_fails_the_job(tmp_path: Path) -> None:
    async def act(world: World) -> str:
        return await world.put_bytes(b"Gruenwaldt", "r1")

    fails(tmp_path, "NOT_DICOM", act)


def test_an_output_of_another_kind_fails_the_job(tmp_path: Path) -> None:
    table = {"kind": "other", "bucket": BUCKET, "key": f"{ALGO}/t.csv", "media_type": "text/csv"}
    fails(tmp_path, "NOT_DICOM", lambda world: world.put(), outputs=[table])


def test_provenance_that_names_other_images_fails_the_job(tmp_path: Path) -> None:
    said = {"input": {"sop_instance_uids": ["1.2.3.4"]}}
    fails(tmp_path, "RESULT_UNKNOWN_UID", lambda world: world.put(), provenance=said)


def test_a_result_that_was_never_written_fails_the_job(tmp_path: Path) -> None:
    async def act(world: World) -> str:
        return f"{ALGO}/nothing.dcm"

    fails(tmp_path, "RESULT_GONE", act)


def test_images_that_are_gone_fail_the_job(tmp_path: Path) -> None:
    async def act(world: World) -> str:
        key = await world.put()
        shutil.rmtree(world.pacs)
        world.pacs.mkdir()
        return key

    fails(tmp_path, "SOURCE_GONE", act)


def test_j1_a_pacs_that_is_away_only_delays_and_holds_up_nobody(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.submit("j1")
        await world.submit("j2", series_id=None, scope="study")
        world.archive.is_away = True
        await world.say(await world.put(), "j1")
        await world.say("elsewhere/r.dcm", "j2")
        job = await world.delivered("j2", whole=False)
        assert job.error is not None and job.error.code == "OUTPUT_NOT_ALLOWED"
        async with asyncio.timeout(WAIT_S):
            while (first := await world.jobs.get("j1")) is None or first.error is None:
                await asyncio.sleep(0.01)
        assert first.finished_at is None and first.error.code == "PACS_UNAVAILABLE", "it says what it waits for"
        world.archive.is_away = False
        assert (await world.delivered("j1")).status == "SUCCEEDED"

    run(tmp_path, work)
