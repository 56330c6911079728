"""What a worker makes of a PACS API: its own with a server behind it that lies, and others."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pacs_support import KEY, Pacs, serve, write_image
from test_pacs_liars import (
    IMAGES,
    MULTIPART,
    SERIES,
    STUDY,
    UIDS,
    Handler,
    Liar,
    behind,
    image,
    says,
    sends,
    serving,
)

from medical_image_processing.errors import InputRejected, MipError, PermanentError, TransientError, Unavailable
from medical_image_processing.model.job import JobMessage
from medical_image_processing.pacs.cache import InstanceCache
from medical_image_processing.worker.arriving import ArrivingFiles, Unwanted
from medical_image_processing.worker.backlog import Backlog, Prepared
from medical_image_processing.worker.fetcher import Fetcher
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.leases import Attempt, Leases
from medical_image_processing.worker.pacs import PacsClient
from medical_image_processing.worker.runner import Runner


def job(scope: str = "series", study: str = STUDY, series: str = SERIES, uid: str = UIDS[0]) -> JobMessage:
    named = {"study_id": study, "series_id": series, "image_id": uid, "scope": scope}
    wanted = {"image": 4, "series": 2, "study": 1}[scope]
    pacs = {name: value for name, value in list(named.items())[:wanted]} | {"scope": scope}
    return JobMessage.model_validate({"job_id": "j", "client_id": "c", "algo_id": "algo_1", "pacs": pacs})


def client(base: str) -> PacsClient:
    return PacsClient(HttpClient(), base=base, key=KEY, max_bytes=2**30)


def of(pacs: Pacs) -> PacsClient:
    return client(f"http://127.0.0.1:{pacs.port}{pacs.mount}")


def trouble(asked: PacsClient, of_job: JobMessage) -> MipError:
    with pytest.raises(MipError) as caught:
        list(asked.fetch(of_job))
    return caught.value


# What stands behind the PACS API is told as it is


@pytest.mark.parametrize("scope", ["image", "series", "study"])
def test_a_wrong_password_is_told_to_whoever_reads_the_job(scope: str) -> None:
    refused = says(401)
    with behind(Liar(series=refused, single=refused, search=lambda request, _: refused(request))) as pacs:
        error = trouble(of(pacs), job(scope))
    assert isinstance(error, TransientError) and error.code == "PACS_UNAVAILABLE"
    assert "its user and password, or token, must be corrected" in error.message


@pytest.mark.parametrize("status", [302, 400])
@pytest.mark.parametrize("scope", ["image", "series"])
def test_j5_a_server_that_refuses_is_not_asked_again(scope: str, status: int) -> None:
    refused = says(status)
    liar = Liar(series=refused, single=refused)
    with behind(liar) as pacs:
        error = trouble(of(pacs), job(scope, uid=UIDS[0]))
    assert isinstance(error, PermanentError) and error.code == "PACS_REFUSED"
    assert f"answers {status}" in error.message
    singles = [path for _, path, _ in liar.asked if "/instances/" in path]
    assert len(singles) == len(set(singles))


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            b'{"error": {"code": "DISK_FULL", "message": "its disk is full\\u001b[2J"}}',
            "DISK_FULL",
            "its disk is full[2J",
        ),
        (b'{"error": {"code": "DISK_FULL", "message": "' + b"x" * 9000 + b'"}}', "DISK_FULL", "x" * 500),
        (b'{"error": {"code": "<b>", "message": "PATIENT"}}', "PACS_UNAVAILABLE", "the PACS API answers 503"),
        (b'{"error": "PATIENT"}', "PACS_UNAVAILABLE", "the PACS API answers 503"),
        (b"[" * 60_000, "PACS_UNAVAILABLE", "the PACS API answers 503"),
        (b"", "PACS_UNAVAILABLE", "the PACS API answers 503"),
    ],
    ids=list("abcdef"),
)
def test_an_error_s_body_is_taken_where_it_is_one(body: bytes, code: str, message: str) -> None:
    answer = says(503, body)
    with serving(_Api(lambda request: answer(request))) as api:
        error = trouble(client(api.base), job("image"))
    assert isinstance(error, Unavailable)
    assert (error.code, error.message) == (code, message)


# What is of another patient


class _Api(Liar):
    """Not a DICOMweb server but a PACS API, of whoever: answers everything alike."""

    def __init__(self, every: Any) -> None:
        super().__init__()
        self.every = every

    def answer(self, request: Handler) -> None:
        self.every(request)


def _gives(content: bytes) -> Any:
    def every(request: Handler) -> None:
        link = {"url": "/file", "key": "k"}
        if request.path == "/file":
            return says(200, content)(request)
        listed = "?series_id=" in request.path or request.path.endswith("/images")
        return says(200, json.dumps([link] if listed else link).encode())(request)

    return every


@pytest.mark.parametrize("scope", ["image", "series", "study"])
@pytest.mark.parametrize(
    ("content", "scopes"),
    [
        (image(UIDS[0], study="6.6.6"), ("image", "series", "study")),
        (image(UIDS[0], series="6.6.6.6"), ("image", "series")),
        (image("6.6.6.6.6"), ("image",)),
    ],
    ids=["study", "series", "instance"],
)
def test_an_image_of_another_patient_is_not_processed(content: bytes, scopes: tuple[str, ...], scope: str) -> None:
    with serving(_Api(_gives(content))) as api:
        if scope not in scopes:
            assert list(client(api.base).fetch(job(scope))) == [content]
            return
        error = trouble(client(api.base), job(scope))
    assert isinstance(error, TransientError) and error.code == "PACS_WRONG_IMAGE"


def test_paths_are_no_uids_and_not_compared(tmp_path: Path) -> None:
    uid = write_image(tmp_path / "study-1" / "series-1" / "image-1.dcm", "1.2", "1.2.3")
    with serve(tmp_path) as pacs:
        for scope in ("image", "series", "study"):
            assert len(of(pacs).fetch(job(scope, "study-1", "series-1", "image-1"))) == 1
        assert len(of(pacs).fetch(job("image", "1.2", "1.2.3", uid))) == 1


@pytest.mark.parametrize(
    "ids",
    [("2.10.2024", "1.1", "1"), ("study-1", "2.5", "i"), ("0.1", "1.2", "2.5"), ("1.2.24", "1.12.1999", "1")],
)
def test_folders_named_by_date_or_section_are_no_uids_and_not_compared(
    ids: tuple[str, str, str], tmp_path: Path
) -> None:
    write_image(tmp_path / ids[0] / ids[1] / f"{ids[2]}.dcm", "1.2.276.1", "1.2.276.1.3")
    with serve(tmp_path) as pacs:
        for scope in ("image", "series", "study"):
            assert len(list(of(pacs).fetch(job(scope, *ids)))) == 1


# What is damaged on the way


def test_a_series_that_is_damaged_in_the_cache_is_healed_by_fetching_it_again(tmp_path: Path) -> None:
    half = IMAGES[0][: len(IMAGES[0]) // 2]
    liar = Liar(series=sends(half, *IMAGES[1:]))

    def single(request: Handler) -> None:
        sends(IMAGES[UIDS.index(request.path.rpartition("/")[2])])(request)

    liar.single = single
    with behind(liar, InstanceCache(tmp_path, 10_000_000)) as pacs:
        for _ in range(2):
            assert half in list(of(pacs).fetch(job()))
        assert sorted(of(pacs).fetch_again(job())) == sorted(IMAGES)
        again = list(of(pacs).fetch(job()))
    assert sorted(again) == sorted(IMAGES)


def _damaged(tmp_path: Path) -> Any:
    """A server that first sent half of an image; that half is kept."""
    half = IMAGES[0][: len(IMAGES[0]) // 2]
    liar = Liar(series=sends(half), single=sends(half), count=1)
    return liar, half, behind(liar, InstanceCache(tmp_path, 10_000_000))


def test_a_worker_that_can_t_read_an_image_has_it_fetched_past_the_cache(tmp_path: Path) -> None:
    liar, half, running = _damaged(tmp_path)
    unused: Any = None
    attempt: Any = SimpleNamespace(job=job("image"))
    with running as pacs:
        [fetched] = of(pacs).fetch(job("image"))
        assert fetched == half
        fetcher = Fetcher("a", unused, of(pacs), unused, unused, unused, decode_limit_s=60, max_volume_bytes=2**30)
        with pytest.raises(InputRejected):  # it is as damaged in the PACS itself
            fetcher._decoded(attempt, half)
        liar.single = sends(IMAGES[0])
        assert fetcher._decoded(attempt, half).pixels.shape == (128, 128)


def test_a_worker_that_can_t_read_a_series_has_it_fetched_past_the_cache(tmp_path: Path) -> None:
    liar, _, running = _damaged(tmp_path)
    unused: Any = None
    config: Any = SimpleNamespace(max_volume_bytes=2**30)
    processor: Any = SimpleNamespace(allocate=np.empty)
    runner = Runner(config, processor, unused, unused, unused, unused)
    liar.search = lambda request, items: says(200, json.dumps(items[:1]).encode())(request)
    with running as pacs:
        files = of(pacs).fetch(job())
        liar.single = sends(IMAGES[0])
        prepared = Prepared(unused, None, files, {}, lambda: of(pacs).fetch_again(job()))
        assert runner._drained(prepared).pixels.shape[-2:] == (128, 128)


def test_a_series_that_is_fetched_again_is_not_held_twice(tmp_path: Path) -> None:
    liar, half, running = _damaged(tmp_path)
    unused: Any = None
    config: Any = SimpleNamespace(max_volume_bytes=2**30)
    processor: Any = SimpleNamespace(allocate=np.empty)
    runner = Runner(config, processor, unused, unused, unused, unused)
    liar.search = lambda request, items: says(200, json.dumps(items[:1]).encode())(request)
    with running as pacs:
        files = of(pacs).fetch(job())
        assert files[0] == half
        held: list[int] = []

        def fetch_again() -> list[bytes]:
            held.append(sum(map(len, list.__iter__(files))))  # of those that arrive, it would wait for the rest
            liar.single = sends(IMAGES[0])
            return of(pacs).fetch_again(job())

        assert runner._drained(Prepared(unused, None, files, {}, fetch_again)).pixels.shape[-2:] == (128, 128)
    assert held == [0]
    assert getattr(files, "has_all", True), "or whoever brings them asks for what seems to lack"


def test_a_series_whose_lease_is_lost_while_it_waits_comes_no_further() -> None:
    unused: Any = None
    files, ended = ArrivingFiles(20), threading.Event()
    piece = bytes(8_000_000)  # several of them are more than wait for a reader

    def arrive() -> None:
        try:
            for _ in range(20):
                files.put(piece, lambda _: None)
        except Unwanted:
            ended.set()

    arrival, backlog = threading.Thread(target=arrive, daemon=True), Backlog()
    attempt = Attempt(job(), "receipt", 1)
    backlog.expect([attempt])
    backlog.put(Prepared(attempt, None, files, {}))
    runner = Runner(unused, unused, Leases(unused, limit_s=900), backlog, unused, unused)
    arrival.start()
    runner.start()
    try:
        assert ended.wait(20)
    finally:
        backlog.close()
        files.close()
        runner.join(20)
        arrival.join(20)
    assert not runner.is_alive() and not arrival.is_alive()


def test_a_series_with_an_image_of_another_patient_is_not_processed() -> None:
    other = image("1.2.9.9", study="6.6.6")

    def every(request: Handler) -> None:
        if "bundle=1" in request.path:
            head = "--edge\r\nContent-Location: {}\r\n\r\n"
            parts = [head.format(at).encode() + one + b"\r\n" for at, one in enumerate((IMAGES[0], other))]
            body = b"".join(parts) + b"--edge--"
            return says(200, body, content_type=MULTIPART, x_image_count="2")(request)
        if request.path.startswith("/file"):
            return says(200, other)(request)
        links = [{"url": f"/file{number}", "key": str(number)} for number in range(2)]
        return says(200, json.dumps(links).encode())(request)

    with serving(_Api(every)) as api:
        error = trouble(client(api.base), job())
    assert isinstance(error, TransientError) and error.code == "PACS_WRONG_IMAGE"
    with serving(_Api(lambda request: (every if "bundle=1" in request.path else says(500))(request))) as api:
        files = client(api.base).fetch(job())
        assert files[0] == IMAGES[0]
        with pytest.raises(TransientError):
            _ = files[1]
