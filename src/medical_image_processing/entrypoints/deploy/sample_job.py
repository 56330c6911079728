"""One job from end to end: an image of the PACS, a client's key of its own, the result over the WebSocket."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pydicom
from pydicom.errors import InvalidDicomError

from medical_image_processing.entrypoints.client import Client, results_address
from medical_image_processing.entrypoints.waiting import SUCCEEDED, failure
from medical_image_processing.errors import NotFound, Unavailable
from medical_image_processing.naming import PACS_ID_PATTERN

_RESULT_S = 600.0
"""The first job of a new service waits for its task's image to be pulled."""
_PACS_S = 60.0
_MOST_STUDIES = 50
_DICOM = {"accept": "application/dicom"}
"""API Gateway passes bytes on as they are only to who asks for that type."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """A job that came back."""

    job_id: str
    passed_s: float
    size: int


def run_sample_job(admin: Client, env: Mapping[str, str], algo_id: str, tell: Tell) -> Done:
    """Send the PACS's first image to ``algo_id``. NotFound ``PACS_EMPTY``; the job's own failure."""
    tell("looking for an image in the PACS")
    reference = find_image(env["PACS_API_BASE"], env["PACS_API_KEY"])
    with client_of_its_own(admin, env) as client:
        client_id = client.call("POST", "provision", body={})["client_id"]
        with client.results(client_id) as results:
            began = time.monotonic()
            body = {"client_id": client_id, "pacs": reference}
            job_id = client.call("POST", "process", algo_id, body=body)["job_id"]
            tell(f"{algo_id}: waiting for the result of {job_id}")
            while True:
                left = began + _RESULT_S - time.monotonic()
                if left <= 0:
                    raise Unavailable("NO_RESULT", f"no result came; `mip jobs show {job_id}` says how it goes on")
                message = results.receive(left)
                if message is not None and message.get("job_id") == job_id:
                    break
        passed = time.monotonic() - began
        job: dict[str, Any] = client.call("GET", "jobs", job_id)
        if job["status"] != SUCCEEDED:
            raise failure(job)
        with tempfile.TemporaryDirectory(prefix="mip-deploy-") as folder:
            size = client.download(message["dicom"]["url"], Path(folder) / "result.dcm")
            pydicom.dcmread(Path(folder) / "result.dcm", stop_before_pixels=True)
        return Done(job_id, passed, size)


@contextmanager
def client_of_its_own(admin: Client, env: Mapping[str, str]) -> Iterator[Client]:
    """A client with a key that is made for it and opens nothing afterwards."""
    name = f"mip-deploy-{secrets.token_hex(4)}"
    key = admin.call("POST", "admin", "keys", body={"name": name, "role": "client", "client_ids": []})["key"]
    try:
        with Client(admin.base, client_key=key, ws_endpoint=results_address(env)) as client:
            yield client
    finally:
        admin.call("DELETE", "admin", "keys", name)


def find_image(pacs_base: str, pacs_key: str) -> dict[str, str]:
    """A reference to the first image that has one. NotFound ``PACS_EMPTY``, Unavailable."""
    try:
        with httpx.Client(headers={"x-api-key": pacs_key}, timeout=30, follow_redirects=False) as pacs:
            for study in _answer(pacs.get(f"{pacs_base}/studies")).json()[:_MOST_STUDIES]:
                images = pacs.get(f"{pacs_base}/studies/{quote(study)}/images")
                if images.status_code == httpx.codes.NOT_FOUND:  # a folder of a bucket that holds no image
                    continue
                shown = _answer(images).json()
                if (found := next(filter(None, (by_key(image["key"]) for image in shown)), None)) is not None:
                    return found
                found = _by_header(_answer(httpx.get(shown[0]["url"], headers=_DICOM, timeout=60)).content)
                if found is not None and pacs.get(f"{pacs_base}{_path(found)}").is_success:
                    return found
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise Unavailable("PACS_UNAVAILABLE", f"the PACS API at {pacs_base} does not answer; try again") from error
    raise NotFound(
        "PACS_EMPTY",
        f"the PACS at {pacs_base} has no study with an image that a job can name; put one in (into a bucket as "
        "study/series/image.dcm), and run it again",
    )


def by_key(key: str) -> dict[str, str] | None:
    """What a job calls the image with that key; None where the key has too few parts, or other characters.

    A bucket knows no other ids, and those of a DICOMweb server's keys are UIDs.
    """
    parts = key.split("/")
    if len(parts) < 3:
        return None
    ids = ("/".join(parts[:-2]), *parts[-2:])
    return _reference(*ids) if all(re.fullmatch(PACS_ID_PATTERN, one) for one in ids) else None


def _by_header(content: bytes) -> dict[str, str] | None:
    """A folder's images have their header's UIDs, too."""
    try:
        header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
    except InvalidDicomError:
        return None
    return _reference(*(str(header.get(f"{uid}InstanceUID")) for uid in ("Study", "Series", "SOP")))


def _reference(study_id: str, series_id: str, image_id: str) -> dict[str, str]:
    return {"study_id": study_id, "series_id": series_id, "image_id": image_id, "scope": "image"}


def _path(found: dict[str, str]) -> str:
    return "/studies/{study_id}/images/{series_id}/{image_id}".format_map(found)


def await_image(pacs_base: str, pacs_key: str) -> None:
    """Until the PACS shows what was just put into it. NotFound ``PACS_EMPTY``."""
    deadline = time.monotonic() + _PACS_S
    while True:
        try:
            find_image(pacs_base, pacs_key)
        except NotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def _answer(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        # Its address names a study.
        raise Unavailable("PACS_UNAVAILABLE", f"the PACS API answered {answer.status_code}; its log says why")
    return answer
