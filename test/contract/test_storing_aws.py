"""Results on their way back into the PACS: the contract on the AWS engine, and what only it must see to."""

from __future__ import annotations

import asyncio
import base64
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aws_engine import AwsStores, create_queues

from aws_emulator import REGION, AwsEmulator
from aws_tables import AUDIT, JOBS, KEYS, create_tables
from fault_proxy import Answer, Call, Trouble, fault_proxy, first_tries
from free_ports import free_port
from medical_image_processing import naming
from medical_image_processing.engines.aws.storing import S3ResultFiles
from medical_image_processing.errors import NotFound, Unavailable
from medical_image_processing.model.job import Stored, StoreStatus
from medical_image_processing.testing.registry_contract import refused
from medical_image_processing.testing.storing_contract import (
    ALGO,
    RESULTS,
    StoringContract,
    StoringPlace,
    due,
    end,
    stored,
    succeed,
)
from orthanc import PASSWORD, USER, Orthanc, running_orthanc
from platform_process import clean_environment


class StillStores(AwsStores):
    """Stores whose clock stands still."""

    def __init__(self, account: AwsEmulator, now: float, endpoint: str | None) -> None:
        self._now = now
        super().__init__(account, endpoint=endpoint)

    def clock(self) -> float:
        return self._now + self.ahead_s


class Place:
    """Jobs in DynamoDB, their results in a bucket. ``endpoint`` stands before the emulator."""

    def __init__(self, emulator: AwsEmulator, folder: Path, endpoint: str | None = None) -> None:
        self._endpoint = endpoint
        self.account = emulator.fresh_account()
        self.bucket = naming.output_bucket(self.account.account, REGION)
        self.folder = folder
        self._now = float(int(time.time()))
        self._open()
        create_tables(self.account, self.stores.clients)
        create_queues(self.stores.clients, ALGO)
        self.s3.create_bucket(Bucket=self.bucket)

    def _open(self) -> None:
        self.stores = stores = StillStores(self.account, self._now, self._endpoint)
        self.s3 = stores.clients.client("s3").boto
        self.jobs = stores.jobs
        self.to_store = stores.to_store
        self.files = S3ResultFiles(stores.clients.client("s3"), self.bucket, self.folder)

    def close(self) -> None:
        self.stores.clients.close()

    async def restart(self) -> None:
        self._now = self.stores.clock()
        self.close()
        await asyncio.to_thread(self._open)

    def pass_time(self, seconds: float) -> None:
        self.stores.ahead_s += seconds

    async def put_result(self, key: str, content: bytes) -> None:
        await asyncio.to_thread(self.s3.put_object, Bucket=self.bucket, Key=key, Body=content)

    async def remove_result(self, key: str) -> None:
        await asyncio.to_thread(self.s3.delete_object, Bucket=self.bucket, Key=key)


@pytest.fixture
def place(aws_emulator: AwsEmulator, tmp_path: Path) -> Place:
    return Place(aws_emulator, tmp_path)


def on(place: Place, work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(), 60)

    try:
        asyncio.run(limited())
    finally:
        place.close()


class TestAwsStoring(StoringContract):
    @pytest.fixture(autouse=True)
    def _place(self, place: Place) -> None:
        self.place = place

    def run(self, work: Callable[[StoringPlace], Awaitable[None]]) -> None:
        on(self.place, lambda: work(self.place))


class TestStoringWhoseAnswersAreLost(StoringContract):
    """The SDK repeats a call whose answer did not come, and AWS does the work again."""

    def run(self, work: Callable[[StoringPlace], Awaitable[None]]) -> None:
        with fault_proxy(self.emulator.port) as proxy:
            place = Place(self.emulator, self.folder, proxy.endpoint)
            proxy.fault = first_tries(lambda _: Trouble.ANSWER_LOST)
            on(place, lambda: work(place))

    @pytest.fixture(autouse=True)
    def _emulator(self, aws_emulator: AwsEmulator, tmp_path: Path) -> None:
        self.emulator, self.folder = aws_emulator, tmp_path


def test_t2_an_index_that_lags_hands_out_nothing_that_is_done(aws_emulator: AwsEmulator, tmp_path: Path) -> None:
    with fault_proxy(aws_emulator.port) as proxy:
        place = Place(aws_emulator, tmp_path, proxy.endpoint)
        old: list[Answer] = []

        def tell(call: Call) -> Answer | None:
            return old[0] if old and "IndexName" in call.given else None

        def keep(call: Call, answer: Answer) -> None:
            if "IndexName" in call.given:
                old.append(answer)

        async def work() -> None:
            for job_id in ("done", "later", "due"):
                await succeed(place, job_id)
            proxy.answered, proxy.fault = keep, tell
            assert set(await due(place)) == {"done", "later", "due"}
            await place.to_store.note("done", StoreStatus.DONE)
            await place.to_store.note("later", StoreStatus.PENDING, again_in_s=60)
            assert await due(place) == ["due"]

        on(place, work)


def test_a_copy_of_a_result_is_there_while_it_is_needed_and_no_longer(place: Place) -> None:
    async def work() -> None:
        content = bytes(3 * 2**20) + b"end"
        await place.put_result("liver/large.dcm", content)
        async with place.files.local(place.bucket, "liver/large.dcm") as file:
            assert file.read_bytes() == content
        assert list(place.folder.iterdir()) == []

        async def open_it(bucket: str, key: str) -> None:
            async with place.files.local(bucket, key):
                raise AssertionError("it was there")

        await refused(NotFound, "RESULT_GONE", open_it(place.bucket, "liver/other.dcm"))
        await refused(NotFound, "RESULT_GONE", open_it("anothers", "liver/large.dcm"))
        assert list(place.folder.iterdir()) == []

    on(place, work)


def test_a_disk_that_can_not_be_written_is_a_passing_trouble(place: Place) -> None:
    async def work() -> None:
        await place.put_result("liver/one.dcm", b"DICM")
        files = S3ResultFiles(place.stores.clients.client("s3"), place.bucket, place.folder / "not-there")

        async def open_it() -> None:
            async with files.local(place.bucket, "liver/one.dcm"):
                raise AssertionError("it was there")

        error = await refused(Unavailable, "STORAGE_FULL", open_it())
        assert str(place.folder) not in str(error)

    on(place, work)


@contextmanager
def service(place: Place, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The PACS API as a process of its own, as its container runs it."""
    folder = place.folder / secrets.token_hex(4)
    folder.mkdir()
    environment = {
        **clean_environment(),
        **place.account.environment,
        "MIP_DICOMWEB_URL": f"http://127.0.0.1:{port}/dicom-web",
        "MIP_DICOMWEB_AUTHORIZATION": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
        "MIP_KEYS_TABLE": KEYS,
        "MIP_AUDIT_TABLE": AUDIT,
        "MIP_JOBS_TABLE": JOBS,
        "OUTPUT_BUCKET": place.bucket,
        "MIP_PACS_PORT": "0",
        "MIP_PACS_FOLDER": str(folder),
        "MIP_PACS_CACHE_MIB": "16",
    }
    command = [sys.executable, "-m", "medical_image_processing.entrypoints.pacs_service"]
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def in_orthanc(orthanc: Orthanc) -> list[str]:
    """The instances that it has, each as often as it has it."""
    found = orthanc.client.get("/dicom-web/instances", params={"includefield": "00080018"})
    return sorted(item["00080018"]["Value"][0] for item in found.json()) if found.content else []


async def until_stored(place: Place, job_id: str, status: StoreStatus) -> Stored:
    async with asyncio.timeout(40):
        while True:
            now = await stored(place, job_id)
            if now is not None and now.status is status and (now.attempts or status is not StoreStatus.PENDING):
                return now
            await asyncio.sleep(0.1)


@pytest.mark.needs("Orthanc", "setpriv")
def test_t1_t3_tasks_of_the_pacs_api_store_side_by_side_and_die_and_orthanc_has_each_instance_once(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def work() -> None:
        port = free_port()
        await succeed(place, "before")
        with service(place, port) as first, service(place, port):
            waits = await until_stored(place, "before", StoreStatus.PENDING)
            assert waits.error is not None and waits.error.code == "PACS_UNAVAILABLE"
            first.kill()
            with running_orthanc(tmp_path_factory.mktemp("orthanc"), port=port) as orthanc, service(place, port):
                await asyncio.gather(*(succeed(place, f"j{number}") for number in range(6)))
                for job_id in ("before", *(f"j{number}" for number in range(6))):
                    await until_stored(place, job_id, StoreStatus.DONE)
                assert in_orthanc(orthanc) == ["1.2.0", "1.2.1"]
                await place.remove_result(RESULTS[0])
                await end(place, "gone")
                gone = await until_stored(place, "gone", StoreStatus.FAILED)
                assert gone.error is not None and gone.error.code == "RESULT_GONE"

    on(place, work)
