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
import pytest

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
from medical_image_processing.errors import Conflict, Unavailable
from medical_image_processing.model.algorithm import AlgorithmSpec, AlgorithmStatus
from medical_image_processing.model.job import (
    Job,
    JobError,
    JobMessage,
    JobResult,
    JobStatus,
    ProcessRequest,
    StoredObject,
)
from medical_image_processing.pacs.deidentify import deidentify
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.folder_archive import FolderArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.reidentifier import ArchiveReidentifier
from medical_image_processing.ports.jobs import DEAD_LETTERED, Report
from medical_image_processing.ports.queues import OutgoingMessage

ALGO, BUCKET, WAIT_S = "algo_1", "mip-output", 20.0
SPEC = {"algo_id": ALGO, "image_uri": "x", "cpu": 1024, "memory": 2048, "command": ["x"], "deidentify": True}
PACS = {"study_id": STUDY, "series_id": SERIES, "scope": "series"}


class ReplayedJobs(SqliteJobs):
    """Somebody replays a job between two looks at it."""

    replays_after_look = False

    async def get(self, job_id: str) -> Job | None:
        found = await super().get(job_id)
        if self.replays_after_look:
            self.replays_after_look = False
            await self.replay(job_id, actor="anna")
        return found


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
        self.jobs = ReplayedJobs(self.database, self.queues, clock=time.time)
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
            await self.register()

    async def register(self, *, deidentify: bool = True) -> None:
        """Register the algorithm, anew if there is one."""
        if (there := await self.registry.get(ALGO)) is not None:
            await self.registry.remove(ALGO, revision=there.revision, actor="anna")
        spec = AlgorithmSpec.model_validate(SPEC | {"deidentify": deidentify})
        record = await self.registry.create(spec, actor="anna")
        await self.registry.update(
            record.spec(), status=AlgorithmStatus.ACTIVE, based_on=record.revision, actor="anna", action="x"
        )

    async def give_up(self, job_id: str = "j1") -> None:
        """Its message is gone, and it is dead-lettered."""
        await self.queues.delete(naming.queue(ALGO), [self.receipt])
        error = JobError(code=DEAD_LETTERED, message="no")
        await self.jobs.apply([Report(job_id, ALGO, JobStatus.FAILED, error=error)])

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
        self.receipt = message.receipt_handle
        return JobMessage.model_validate_json(message.body)

    async def put(
        self, change: Callable[[Any], None] = lambda _: None, name: str = "r1", of: str = "0.dcm"
    ) -> str:
        """What the algorithm makes of an image; its key."""
        seen = deidentify((self.pacs / of).read_bytes(), self.pseudonyms.of)
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


OTHER_SERIES = f"{SERIES}.77"


def put_other_patient(pacs: Path) -> str:
    """A second patient in a series of the same study, behind the first; the image's UID."""
    other = identified.images(1)[0]
    other.PatientID, other.PatientName, other.SeriesInstanceUID = "ANOTHER-PATIENT", "Bertold^B", OTHER_SERIES
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = f"{OTHER_SERIES}.1"
    other.SeriesNumber = 77
    pacs.mkdir(exist_ok=True)
    (pacs / "other.dcm").write_bytes(identified.encoded(other))
    return str(other.SOPInstanceUID)


def test_v2_in_a_study_of_two_patients_a_result_is_of_whose_images_it_refers_to(tmp_path: Path) -> None:
    uid = put_other_patient(tmp_path / "pacs")

    async def work(world: World) -> None:
        await world.submit(series_id=None, scope="study")

        def refer(made: Any) -> None:
            source = pydicom.Dataset()
            source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = made.SOPClassUID, seen
            made.SourceImageSequence = [source]

        seen = world.pseudonyms.of(uid)
        await world.say(await world.put(refer, of="other.dcm"))
        job = await world.delivered()
        assert job.status == "SUCCEEDED" and job.result is not None
        made = world.read(job.result.dicom.key)
        assert (made.PatientID, made.PatientName) == ("ANOTHER-PATIENT", "Bertold^B")
        assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == uid

    run(tmp_path, work)


def test_v2_a_result_with_another_s_patient_id_and_no_image_of_theirs_is_refused(tmp_path: Path) -> None:
    """It would become one of the first patient."""
    put_other_patient(tmp_path / "pacs")

    async def work(world: World) -> None:
        await world.submit(series_id=None, scope="study")
        await world.say(await world.put(of="other.dcm"))
        job = await world.delivered()
        assert (job.status, job.error and job.error.code) == ("FAILED", "RESULT_OF_OTHER_STUDY")
        assert job.result is None and not (tmp_path / "output" / naming.REIDENTIFIED).exists()

    run(tmp_path, work)


@pytest.mark.parametrize(("said", "status"), [("", "SUCCEEDED"), ("ANONYMOUS", "FAILED")], ids=["none", "own"])
def test_v2_a_result_may_have_no_patient_id_but_none_of_its_own(tmp_path: Path, said: str, status: str) -> None:
    async def work(world: World) -> None:
        def change(made: Any) -> None:
            made.PatientID = said

        await world.submit()
        await world.say(await world.put(change))
        assert (await world.delivered()).status == status

    run(tmp_path, work)


def test_images_of_a_folder_whose_uids_have_letters_are_mapped_back(tmp_path: Path) -> None:
    """As a folder's index takes them."""
    image = identified.images(1)[0]
    image.StudyInstanceUID, image.SeriesInstanceUID = "study.a", "study.a.1"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "study.a.1.i_1-x"
    (tmp_path / "pacs").mkdir()
    (tmp_path / "pacs" / "letters.dcm").write_bytes(identified.encoded(image))

    async def work(world: World) -> None:
        await world.submit(study_id="study.a", series_id="study.a.1")
        await world.say(await world.put(of="letters.dcm"))
        job = await world.delivered()
        assert job.status == "SUCCEEDED" and job.result is not None
        assert world.read(job.result.dicom.key).StudyInstanceUID == "study.a"

    run(tmp_path, work)


@pytest.mark.parametrize("is_same", [True, False], ids=["the same", "another"])
def test_v2_a_result_from_files_that_share_their_uids_is_of_nobody(tmp_path: Path, is_same: bool) -> None:
    """An earlier system's path tells them apart, their UIDs don't: nobody knows whose the result is."""
    for folder, patient in (("a", identified.PATIENT_ID), ("b", identified.PATIENT_ID if is_same else "PID-2")):
        image = identified.images(1)[0]
        image.PatientID, image.StudyInstanceUID, image.SeriesInstanceUID = patient, "1.2.3.9", "1.2.3.9.1"
        (tmp_path / "pacs" / folder).mkdir(parents=True)
        (tmp_path / "pacs" / folder / "i.dcm").write_bytes(identified.encoded(image))

    async def work(world: World) -> None:
        await world.submit(study_id="1.2.3.9", series_id="1.2.3.9.1")
        await world.say(await world.put(of="b/i.dcm"))
        job = await world.delivered()
        expected = ("SUCCEEDED", None) if is_same else ("FAILED", "NOT_DEIDENTIFIABLE")
        assert (job.status, job.error and job.error.code) == expected
        assert (tmp_path / "output" / naming.REIDENTIFIED).exists() == is_same

    run(tmp_path, work)


def test_n1_a_job_of_before_deidentify_is_not_replayed_to_an_algorithm_that_has_it(tmp_path: Path) -> None:
    """Its message has the real ids, and goes out as it was written."""

    async def work(world: World) -> None:
        await world.register(deidentify=False)
        message = await world.submit()
        assert message.pacs.study_id == STUDY
        await world.give_up()
        await world.register(deidentify=True)
        with pytest.raises(Conflict) as raised:
            await world.jobs.replay("j1", actor="anna")
        assert raised.value.code == "NOT_REPLAYABLE"
        assert await world.queues.depth(naming.queue(ALGO)) == 0
        job = await world.jobs.get("j1")
        assert job is not None and job.finished_at is not None

    run(tmp_path, work)


def test_a_job_of_an_algorithm_with_deidentify_is_replayed_with_its_pseudonyms(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        message = await world.submit()
        await world.give_up()
        await world.jobs.replay("j1", actor="anna")
        [again] = await world.queues.receive(naming.queue(ALGO), limit=1)
        assert JobMessage.model_validate_json(again.body) == message

    run(tmp_path, work)


def test_v1_j2_a_result_that_came_too_late_ends_no_replayed_job_without_its_patient(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await world.submit()
        await world.give_up()
        world.jobs.replays_after_look = True
        await world.say(await world.put())
        async with asyncio.timeout(WAIT_S):
            while await world.queues.depth(naming.RESULTS_QUEUE):
                await world.delivery.deliver(await world.queues.receive(naming.RESULTS_QUEUE, limit=9, wait_s=0.1))
        job = await world.jobs.get("j1")
        assert job is not None and not world.jobs.replays_after_look
        assert (job.status, job.result) == ("QUEUED", None)
        assert world.pushed.jobs == []

    run(tmp_path, work)


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
