"""What the PACS API's answers mean for a job (CONTRACT.md, "PACS API").

Messages never hold ids or addresses of images.
"""

from __future__ import annotations

import json
import re
from typing import Any

from medical_image_processing.dicom.identity import are_uids, read_uids
from medical_image_processing.errors import InputRejected, MipError, PermanentError, Unavailable
from medical_image_processing.model.job import JobMessage, Scope
from medical_image_processing.worker.http import Response, Streamed

MAX_LISTING_BYTES = 2**26
MAX_ERROR_BYTES = 65_536
_CODE = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
UID = re.compile(r"(?![0-9]\.[0-9]{1,2}\.(?:19|20)?[0-9]{2}$)[0-2](?:\.[0-9]+){2,}")
"""As no other id is likely to be written (PS3.5, section 9.1): folders are named 2.5, or 2.10.2024."""
_PATHS = (
    ". Where the PACS is a DICOMweb server, ids are DICOM UIDs (digits and dots), not paths: see `mip studies`"
)
NO_IMAGE = "NOT_AN_IMAGE"
_REASONS = frozenset({"BURNED_IN_ANNOTATION", "NOT_DEIDENTIFIABLE", NO_IMAGE})
"""Why the PACS API gives an algorithm that may not know the patient no image."""
_MOST_MESSAGE = 500
_IDS_OF = {Scope.STUDY: 1, Scope.SERIES: 2, Scope.IMAGE: 3}
"""How many of a job's ids name its input; what it says beyond them is of no account."""


def read_whole(answer: Streamed, most: int = MAX_LISTING_BYTES) -> bytes:
    """The body of an answer that comes in pieces. Unavailable where it is longer than ``most`` bytes."""
    body = bytearray()
    for piece in answer.pieces:
        body += piece
        if len(body) > most:
            raise nonsense()
    return bytes(body)


def url_of(link: Any) -> str:
    """Where the image lies that an entry of a listing is about."""
    if not isinstance(link, dict) or not isinstance(url := link.get("url"), str):
        raise nonsense()
    return url


def nonsense() -> Unavailable:
    """The error for an answer that no PACS API gives; another may come next time."""
    return Unavailable("PACS_UNAVAILABLE", "the PACS API's answer is not as its contract says")


def checked(response: Response, job: JobMessage) -> Response:
    """``response``, unless it states an error, which is raised as :func:`check_status` says."""
    check_status(response.status, response.body, job)
    return response


def check_status(status: int, body: bytes, job: JobMessage) -> None:
    """Raises what the PACS API says is wrong; where it is another that says nothing, what its status means.

    PermanentError ``PACS_DENIED``, ``PACS_REFUSED``; InputRejected, also for what is not there; Unavailable.
    """
    if status < 300:
        return
    if status == 404:
        raise not_found(job)
    if status in (401, 403):
        raise PermanentError("PACS_DENIED", "the PACS API refuses the algorithm's key; check PACS_API_KEY")
    code, message = _said(body)
    if status >= 500 or status in (408, 429):
        raise Unavailable(code or "PACS_UNAVAILABLE", message or f"the PACS API answers {status}")
    if code in _REASONS:
        raise InputRejected(code, message)
    refused = f"the PACS API refuses the request with {status}; check the ids"
    raise PermanentError(code or "PACS_REFUSED", message or refused)


def _said(body: bytes) -> tuple[str, str]:
    """Code and message of an error; "" for what is none."""
    try:
        error = json.loads(body[:MAX_ERROR_BYTES])["error"]
        code, message = error["code"], error["message"]
    except (ValueError, RecursionError, KeyError, TypeError, IndexError):
        return "", ""
    if not isinstance(code, str) or not isinstance(message, str) or not _CODE.fullmatch(code):
        return "", ""
    return code, "".join(filter(str.isprintable, message))[:_MOST_MESSAGE]


def check_uids(job: JobMessage, data: bytes) -> None:
    """Unavailable when the file says to be of another study, series or image than the job names by UID.

    A file that says nothing is left to its reader, which states what is wrong with it.
    """
    if (uids := read_uids(data)) is None:
        return
    ids = (job.pacs.study_id, job.pacs.series_id, job.pacs.image_id)[: _IDS_OF[job.pacs.scope]]
    if any(asked and UID.fullmatch(asked) and asked != said for asked, said in zip(ids, uids, strict=False)):
        raise Unavailable(
            "PACS_WRONG_IMAGE",
            "the PACS gave an image of another Study, Series or SOP Instance UID than the job's; nothing of it "
            "was used",
        )


def not_found(job: JobMessage) -> MipError:
    """The error for a job whose image, series or study is not in the PACS."""
    where, scope = job.pacs, job.pacs.scope.value
    ids = [text for text in (where.study_id, where.series_id, where.image_id) if text is not None]
    hint = "" if are_uids(*ids) else _PATHS
    named = {
        "image": "study_id, series_id and image_id",
        "series": "study_id and series_id",
        "study": "study_id",
    }
    return InputRejected(f"{scope.upper()}_NOT_FOUND", f"the PACS has no such {scope}; check {named[scope]}{hint}")
