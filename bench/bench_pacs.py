"""A series from a real PACS, Orthanc, to an array in modality units, through the PACS API as a worker reads it.

python bench/bench_pacs.py

Beside it: the same bytes read over HTTP and then decoded on all cores, which is the least one could do, and
dicomweb-client's retrieve_series with a plain loop, which is what one would write. Each reader is a process of its
own, so that its memory is its own.
"""

from __future__ import annotations

import http.client
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from harness import Figure, Platform, chest_slices, cpu_s, run
from medical_image_processing.dicom.multipart import Kind, Parts
from medical_image_processing.dicom.read import drain_series, read_series
from medical_image_processing.memory import keep_freed_memory
from medical_image_processing.model.job import JobMessage
from medical_image_processing.worker.arriving import close_files
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.pacs import PacsClient
from orthanc import Orthanc, running_orthanc

ROUNDS, REPEATS = 4, 3
MANY = 2000
_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(frozen=True)
class Source:
    """Where a reader reads: the DICOMweb server, and the PACS API in front of it."""

    base: str
    authorization: str
    user: str
    password: str
    api: str
    key: str
    study: str
    series: str


def read_through_api(source: Source) -> tuple[int, ...]:
    """As a worker does."""
    pacs = {"study_id": source.study, "series_id": source.series, "scope": "series"}
    job = JobMessage.model_validate({"job_id": "bench", "client_id": "bench", "algo_id": "bench", "pacs": pacs})
    files = PacsClient(HttpClient(), base=source.api, key=source.key, max_bytes=2**33).fetch(job)
    shape = drain_series(files).pixels.shape
    close_files(files)
    return shape


def read_raw(source: Source) -> tuple[int, ...]:
    """The bytes over HTTP, then decoded on all cores."""
    parts = urlsplit(source.base)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    address = f"{parts.path}/studies/{source.study}/series/{source.series}"
    connection.request("GET", address, headers={"accept": _STORED, "authorization": source.authorization})
    answer = connection.getresponse()
    body = []
    while piece := answer.read1(2**20):
        body.append(piece)
    connection.close()
    split, files, held = Parts(answer.headers["content-type"]), [], []  # type: Parts, list[bytes], list[bytes]
    for piece in body:
        for kind, data in split.feed(piece):
            if kind is Kind.DATA:
                held.append(data)
            elif kind is Kind.END:
                files.append(b"".join(held))
                held = []
    return read_series(files).pixels.shape


def read_with_client(source: Source) -> tuple[int, ...]:
    """dicomweb-client, and a plain loop."""
    from dicomweb_client.api import DICOMwebClient
    from dicomweb_client.session_utils import create_session_from_user_pass

    session = create_session_from_user_pass(source.user, source.password)
    client = DICOMwebClient(source.base, session=session)
    # Without the media type it asks for a transfer syntax, and Orthanc transcodes.
    images = client.retrieve_series(source.study, source.series, media_types=(("application/dicom", "*"),))
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    slices = [image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept) for image in images]
    return np.stack(slices).astype(np.float32).shape


READERS: dict[str, Callable[[Source], tuple[int, ...]]] = {
    "api": read_through_api,
    "raw": read_raw,
    "client": read_with_client,
}


@dataclass(frozen=True)
class Reading:
    """Seconds of each repeat, CPU seconds of one, and the process's peak memory in MB."""

    seconds: list[float]
    cpu_s: float
    peak_mb: float


def read(name: str, source: Source, repeats: int) -> Reading:
    """In a process of its own."""
    command = [sys.executable, __file__, "read", name, str(repeats)]
    done = subprocess.run(command, input=json.dumps(vars(source)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the reader '{name}' failed: {done.stderr[-500:]}")
    return Reading(**json.loads(done.stdout))


def _read_here(name: str, repeats: int) -> None:
    source = Source(**json.loads(sys.stdin.read()))
    keep_freed_memory(block_mib=16, total_mib=64)  # as a worker does
    seconds = []
    before = time.process_time()
    for _ in range(repeats):
        begun = time.perf_counter()
        READERS[name](source)
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    cpu_s = (time.process_time() - before) / repeats
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak}))


@contextmanager
def place(images: Sequence[bytes], study: str, series: str, cache_mib: int) -> Iterator[tuple[Source, int]]:
    """Orthanc with the images, the platform in front of it, and that one's process id."""
    with tempfile.TemporaryDirectory(prefix="mip-bench-") as folder, running_orthanc(Path(folder)) as orthanc:
        for image in images:
            assert orthanc.client.post("/instances", content=image).status_code == 200
        password = Path(folder) / "password"
        password.write_text(orthanc.password)
        options = ["--pacs-user", orthanc.user, "--pacs-password-file", str(password)]
        options += ["--pacs-cache-mib", str(cache_mib)]
        with Platform(Path(folder) / "home", pacs=orthanc.base, options=options) as platform:
            yield _source(orthanc, platform, study, series), platform.pid


def _source(orthanc: Orthanc, platform: Platform, study: str, series: str) -> Source:
    api = platform.env["PACS_API_BASE"]
    return Source(
        base=orthanc.base,
        authorization=orthanc.authorization(),
        user=orthanc.user,
        password=orthanc.password,
        api=api,
        key=platform.env["PACS_API_KEY"],
        study=study,
        series=series,
    )


def many_slices(count: int, study: str, series: str) -> Iterator[bytes]:
    """Real slices under new UIDs, one above the other."""
    files = chest_slices(236)
    for number in range(count):
        image: Any = pydicom.dcmread(files[number % len(files)])
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.ImagePositionPatient, image.InstanceNumber = [0, 0, 1.5 * number], number + 1
        buffer = BytesIO()
        image.save_as(buffer)
        yield buffer.getvalue()


def bench() -> list[Figure]:
    """Every figure."""
    images = [file.read_bytes() for file in chest_slices(236)]
    first: Any = pydicom.dcmread(BytesIO(images[0]), stop_before_pixels=True)
    array_mb = len(images) * 512 * 512 * 2 / 1e6
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    peaks: list[float] = []
    platform_cpu: list[float] = []

    def take(label: str, reader: str, source: Source, pid: int) -> None:
        before = cpu_s(pid)
        reading = read(reader, source, REPEATS)
        seconds.setdefault(label, []).extend(reading.seconds)
        cpu.setdefault(label, []).append(reading.cpu_s)
        if label == "api":
            platform_cpu.append((cpu_s(pid) - before) / REPEATS)
            peaks.append(reading.peak_mb)

    where = (str(first.StudyInstanceUID), str(first.SeriesInstanceUID))
    with place(images, *where, cache_mib=0) as (source, pid):
        for _ in range(ROUNDS):
            for reader in READERS:
                take(reader, reader, source, pid)
        api_mb = _peak_mb(pid)
    with place(images, *where, cache_mib=1024) as (source, pid):
        read("api", source, 1)
        for _ in range(ROUNDS):
            take("cache", "api", source, pid)
    raw, client = statistics.median(seconds["raw"]), statistics.median(seconds["client"])
    figures = [
        Figure("236 slices, bytes over HTTP, then decoded on all cores", "s", seconds["raw"]),
        Figure("236 slices, dicomweb-client and a plain loop", "s", seconds["client"]),
        Figure("236 slices through the PACS API", "s", seconds["api"]),
        Figure("236 slices through the PACS API, from its cache", "s", seconds["cache"]),
        Figure("through the PACS API against bytes and decoding", "×", [t / raw for t in seconds["api"]], 1.5),
        Figure("faster than dicomweb-client", "×", [client / t for t in seconds["api"]], 3, at_least=True),
        Figure("a worker's peak memory against the array", "×", [mb / array_mb for mb in peaks], 2.5),
        Figure("the platform's peak memory", "MB", [api_mb]),
        Figure("CPU of bytes and decoding", "s", cpu["raw"]),
        Figure("CPU of a worker's reading through the PACS API", "s", cpu["api"]),
        Figure("CPU of the platform for it", "s", platform_cpu),
    ]
    return figures + _bench_many()


def _bench_many() -> list[Figure]:
    study, series = generate_uid(), generate_uid()
    array_mb = MANY * 512 * 512 * 2 / 1e6
    with place(list(many_slices(MANY, study, series)), study, series, cache_mib=512) as (source, pid):
        reading = read("api", source, 1)
        api_mb = _peak_mb(pid)
    return [
        Figure(f"{MANY} slices through the PACS API", "s", reading.seconds),
        Figure(f"{MANY} slices, a worker's peak memory beside the array", "MB", [reading.peak_mb - array_mb]),
        Figure(f"{MANY} slices, the platform's peak memory", "MB", [api_mb]),
    ]


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        _read_here(sys.argv[2], int(sys.argv[3]))
    else:
        run(bench, "A series from Orthanc to an array")
