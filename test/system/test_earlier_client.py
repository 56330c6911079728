"""The earlier system's client, a page on port 3000 that knows nothing of this one, works without a change.

Its traffic, in its order: /provision, a WebSocket with its client_id, the image by the PACS API, without a key; a
job, for which it opens its WebSocket anew; the result by the link in the message. Each answer is read as that
client reads it, and as its browser lets it: with the origin on each request, and preflights where there are some.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pydicom
import pytest
from websockets.sync.client import ClientConnection, connect

from api_calls import Api, error_of, receive
from medical_image_processing import samples
from platform_process import Platform

ORIGIN = "http://localhost:3000"
# Its ids are paths in the bucket of its PACS, which its page encodes.
STUDY, SERIES = "liver/abdomen_dataset/D55-01", "300/SHARP_300_172938.900"
IMAGES = ("IM-0135-0001.dcm", "IM-0135-0095.dcm")
ALGORITHMS = ("processing_1", "processing_6")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, samples_cache: Path) -> Iterator[Platform]:
    """One with nothing configured, over a real abdominal CT in folders such as that client names."""
    folder = tmp_path_factory.mktemp("earlier-client")
    series = folder / "pacs" / STUDY / SERIES
    series.mkdir(parents=True)
    files = sorted(samples.abdominal_ct(samples_cache).glob("*.dcm"))
    for name, file in zip(IMAGES, (files[5], files[10]), strict=True):
        shutil.copy(file, series / name)
    with Platform(folder / "home", pacs=folder / "pacs") as running:
        for algo_id in ALGORITHMS:
            Api(running).register(algo_id)
        yield running


class Page:
    """What that client's page may do in a browser: only what the answers' headers allow."""

    def __init__(self, platform: Platform, origin: str = ORIGIN) -> None:
        self.platform = platform
        self.origin = origin
        self.http = httpx.Client(trust_env=False, timeout=30, headers={"origin": origin, "accept": "*/*"})

    def fetch(self, url: str, **headers: str) -> httpx.Response:
        """A simple request: the browser sends it without asking, and shows the answer where it may."""
        return self.shown(self.http.get(url, headers=headers))

    def post(self, path: str, body: Any) -> httpx.Response:
        """JSON is none of the simple types, so the browser asks first (Fetch, section 4.9)."""
        url = f"{self.platform.base}{path}"
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        leave = self.shown(self.http.options(url, headers=asked))
        assert leave.is_success, leave.text
        assert "POST" in leave.headers["access-control-allow-methods"]
        assert "content-type" in leave.headers["access-control-allow-headers"].lower()
        text = json.dumps(body)
        return self.shown(self.http.post(url, content=text, headers={"content-type": "application/json"}))

    def shown(self, answer: httpx.Response) -> httpx.Response:
        assert answer.headers.get("access-control-allow-origin") in ("*", self.origin), answer.request.url
        return answer

    def image_url(self, image: str) -> str:
        """As its page writes it: encodeURIComponent leaves no slash in an id."""
        study, series, name = (quote(part, safe="") for part in (STUDY, SERIES, image))
        return f"{self.platform.env['PACS_API_BASE']}/studies/{study}/images/{series}/{name}"

    def connect(self, client_id: str) -> ClientConnection:
        address = f"{self.platform.env['WS_ENDPOINT']}?client_id={quote(client_id, safe='')}"
        return connect(address, origin=self.origin, proxy=None, open_timeout=10)  # type: ignore[arg-type]


@pytest.fixture
def page(platform: Platform) -> Page:
    return Page(platform)


@pytest.mark.parametrize("algo_id", ALGORITHMS)
def test_its_traffic_from_provision_to_result(page: Page, algo_id: str) -> None:
    # The id it proposes need not be taken: it goes on with the one it is answered.
    answer = page.post("/provision", {"client_id": str(uuid.uuid4())})
    assert answer.status_code == 200
    client_id = answer.json()["client_id"]
    assert isinstance(client_id, str) and client_id
    job_id = str(uuid.uuid4())
    with page.connect(client_id):
        original = page.fetch(page.image_url(IMAGES[1]), accept="application/json")
        assert original.status_code == 200 and original.headers["content-type"] == "application/json"
        assert {"url", "expires"} <= set(original.json())
        source = read(page.fetch(original.json()["url"]))
    # Its page opens the connection anew for each job.
    with page.connect(client_id) as socket:
        pacs = {"study_id": STUDY, "series_id": SERIES, "image_id": IMAGES[1], "scope": "image"}
        accepted = page.post(f"/process/{algo_id}", {"job_id": job_id, "pacs": pacs, "client_id": client_id})
        assert accepted.status_code == 202
        assert accepted.json()["message"] == "Enqueued" and accepted.json()["job_id"] == job_id
        # The first message that names its job is the result to it, whatever else stands in there.
        [message] = receive(socket)
    assert (message["job_id"], message["algo_id"], message["client_id"]) == (job_id, algo_id, client_id)
    assert {"bucket", "key", "url"} <= set(message["dicom"])
    result = read(page.fetch(message["dicom"]["url"]))
    assert result.StudyInstanceUID == source.StudyInstanceUID and result.PatientID == source.PatientID
    assert result.SOPInstanceUID != source.SOPInstanceUID


def test_a_client_that_never_provisions_takes_an_id_of_its_own(page: Page) -> None:
    client_id, job_id = str(uuid.uuid4()), str(uuid.uuid4())
    with page.connect(client_id) as socket:
        socket.send(json.dumps({"type": "ping"}))
        assert "job_id" not in receive(socket)[0], "that would be a result to it"
        pacs = {"study_id": STUDY, "series_id": SERIES, "image_id": IMAGES[0], "scope": "image"}
        page.post("/process/processing_1", {"job_id": job_id, "pacs": pacs, "client_id": client_id})
        [message] = receive(socket)
        assert message["job_id"] == job_id and read(page.fetch(message["dicom"]["url"])).Modality


def test_the_studies_and_images_of_the_pacs_are_listed_as_before(page: Page) -> None:
    base = page.platform.env["PACS_API_BASE"]
    studies = page.fetch(f"{base}/studies", accept="application/json").json()
    assert isinstance(studies, list) and len(studies) == 1 and isinstance(studies[0], str)
    of_series = f"?series_id={quote(SERIES, safe='')}"
    encoded = quote(STUDY, safe="")
    for named in (f"{STUDY}/images", f"{STUDY}/images{of_series}", f"{encoded}/images{of_series}"):
        images = page.fetch(f"{base}/studies/{named}").json()
        assert {image["key"] for image in images} == {f"{STUDY}/{SERIES}/{name}" for name in IMAGES}
        assert all(read(page.fetch(image["url"])).Modality == "CT" for image in images)
    assert page.fetch(f"{base}/studies/{studies[0]}/images").json()[0]["key"] == images[0]["key"]


def test_a_job_that_fails_ends_its_waiting_too(page: Page) -> None:
    client_id, job_id = str(uuid.uuid4()), str(uuid.uuid4())
    with page.connect(client_id) as socket:
        pacs = {"study_id": STUDY, "series_id": SERIES, "image_id": "no-such.dcm", "scope": "image"}
        page.post("/process/processing_1", {"job_id": job_id, "pacs": pacs, "client_id": client_id})
        [message] = receive(socket)
    assert message["job_id"] == job_id and "dicom" not in message


def test_keys_are_asked_of_everybody_but_that_page(page: Page) -> None:
    url = page.image_url(IMAGES[0])
    for headers in (
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"{ORIGIN}.evil.example"},
    ):
        answer = httpx.get(url, headers=headers, trust_env=False)
        assert (answer.status_code, error_of(answer)) == (401, "UNAUTHORIZED")
        assert "access-control-allow-origin" not in answer.headers
    # Its own mistake is told, not mended.
    assert page.fetch(url, **{"x-api-key": "wrong"}).status_code == 401
    # Where workers call, pages have no privilege.
    workers = url.replace(page.platform.env["API_BASE"], page.platform.env["AWS_ENDPOINT_URL"])
    assert httpx.get(workers, headers={"origin": ORIGIN}, trust_env=False).status_code == 401


def test_off_loopback_that_page_needs_the_key(tmp_path: Path, platform: Platform) -> None:
    pacs = tmp_path / "pacs" / STUDY / SERIES
    pacs.mkdir(parents=True)
    options = ["--host", "0.0.0.0", "--open-clients"]
    with Platform(tmp_path / "home", pacs=tmp_path / "pacs", options=options) as guarded:
        url = Page(guarded).image_url(IMAGES[0])
        assert httpx.get(url, headers={"origin": ORIGIN}, trust_env=False).status_code == 401
    options = ["--cors-origin", "*"]
    with Platform(tmp_path / "any", pacs=tmp_path / "pacs", options=options) as any_page:
        url = Page(any_page).image_url(IMAGES[0])
        assert httpx.get(url, headers={"origin": "https://evil.example"}, trust_env=False).status_code == 401


def read(answer: httpx.Response) -> pydicom.Dataset:
    assert answer.status_code == 200, answer.text
    return pydicom.dcmread(BytesIO(answer.content))
