"""Fetches a job's input through the PACS API (CONTRACT.md, "PACS API").

What is not there, or refused, fails the job at once; a PACS that is down, slow or in trouble is a
TransientError. Messages never hold ids or addresses of images.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from medical_image_processing.dicom.read import parse
from medical_image_processing.errors import InputRejected, MipError, PermanentError, Unavailable
from medical_image_processing.model.job import JobMessage, Scope
from medical_image_processing.worker.aws import retried
from medical_image_processing.worker.http import HttpClient, Response, origin_of

_PARALLEL = 4
INPUT_TIMEOUT_S = 300.0
"""For all that one job needs of the PACS."""
_MAX_LISTING_BYTES = 2**26
_ATTEMPTS = 3
_LINK_GONE = (401, 403, 404, 409, 410)


class _LinkGone(Unavailable):
    """A link that was given just now does not open its image."""


class PacsClient:
    """One PACS API, with the algorithm's key."""

    def __init__(self, http: HttpClient, *, base: str, key: str, max_bytes: int) -> None:
        self._http = http
        self._base = base
        self._origin = origin_of(base)
        self._path = urlsplit(base).path.rstrip("/")
        self._key = key
        self._max_bytes = max_bytes

    def fetch(self, job: JobMessage) -> list[bytes]:
        """The DICOM files that ``job`` is about: one for an image, else all of a series.

        Of a study, those of its largest series. Raises PermanentError ``IMAGE_NOT_FOUND``,
        ``SERIES_NOT_FOUND``, ``STUDY_NOT_FOUND``, ``PACS_DENIED``, ``PACS_REFUSED``; InputRejected
        ``TOO_LARGE``; TransientError ``PACS_UNAVAILABLE``.
        """
        deadline = time.monotonic() + INPUT_TIMEOUT_S
        try:
            return self._fetch(job, deadline)
        except _LinkGone:
            return self._fetch(
                job, deadline
            )  # moved or replaced just now; and what is gone for good gets no new link

    def _fetch(self, job: JobMessage, deadline: float) -> list[bytes]:
        where = job.pacs
        study = f"{self._path}/studies/{quote(where.study_id)}/images"
        if where.scope is Scope.IMAGE:
            link = self._get_json(
                job, f"{study}/{quote(where.series_id or '')}/{quote(where.image_id or '')}", deadline
            )
            return [self._get_file(job, _url(link), self._max_bytes, deadline)]
        query = f"?series_id={quote(where.series_id or '', safe='')}" if where.scope is Scope.SERIES else ""
        links = self._get_json(job, study + query, deadline)
        if not isinstance(links, list):
            raise _nonsense()
        files = self._get_files(job, [_url(link) for link in links], deadline)
        return largest_series(files) if where.scope is Scope.STUDY else files

    def _get_json(self, job: JobMessage, target: str, deadline: float) -> Any:
        headers = {"x-api-key": self._key, "x-job-id": job.job_id, "accept": "application/json"}

        def ask() -> Response:
            response = self._http.request(
                "GET", self._origin, target, headers, max_bytes=_MAX_LISTING_BYTES, total_s=_left(deadline)
            )
            return _checked(response, job)

        response = _from_pacs(ask)
        try:
            return json.loads(response.body)
        except ValueError as error:
            raise _nonsense() from error

    def _get_file(self, job: JobMessage, url: str, max_bytes: int, deadline: float) -> bytes:
        absolute = urljoin(f"{self._base}/", url)
        parts = urlsplit(absolute)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

        def ask() -> Response:
            left = _left(deadline)
            origin = origin_of(f"{parts.scheme}://{parts.netloc}")
            response = self._http.request("GET", origin, target, {}, max_bytes=max_bytes, total_s=left)
            return response if response.status in _LINK_GONE else _checked(response, job)

        response = _from_pacs(ask)
        if response.status in _LINK_GONE:
            raise _LinkGone("PACS_UNAVAILABLE", "the PACS API gave a link that is refused")
        return response.body

    def _get_files(self, job: JobMessage, urls: list[str], deadline: float) -> list[bytes]:
        if not urls:
            raise _not_found(job)
        total = 0

        def get(url: str) -> bytes:
            nonlocal total
            # Several threads may pass the limit together by a few files; what matters is that it ends there.
            data = self._get_file(job, url, max(0, self._max_bytes - total), deadline)
            total += len(data)
            return data

        with ThreadPoolExecutor(min(_PARALLEL, len(urls))) as pool:
            futures = [pool.submit(get, url) for url in urls]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def largest_series(files: list[bytes]) -> list[bytes]:
    """The files of the series that has most of them; of several such, the one that comes first."""
    series: dict[str, list[bytes]] = defaultdict(list)
    for data in files:
        series[str(parse(data).get("SeriesInstanceUID", ""))].append(data)
    return max(series.values(), key=len)


def _from_pacs(ask: Callable[[], Response]) -> Response:
    """Asked again a little later, since most trouble is short; then the job goes back to its queue."""
    try:
        return retried(ask, attempts=_ATTEMPTS, first_delay_s=0.2)
    except Unavailable as error:
        message = error.message if error.code == "PACS_UNAVAILABLE" else f"the PACS API: {error.message}"
        raise Unavailable("PACS_UNAVAILABLE", message) from error
    except ValueError as error:  # a link that is no http address
        raise _nonsense() from error


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise Unavailable("PACS_UNAVAILABLE", f"the input did not arrive within {INPUT_TIMEOUT_S:.0f} s")
    return left


def _url(link: Any) -> str:
    if not isinstance(link, dict) or not isinstance(url := link.get("url"), str):
        raise _nonsense()
    return url


def _nonsense() -> Unavailable:
    return Unavailable("PACS_UNAVAILABLE", "the PACS API's answer is not as its contract says")


def _checked(response: Response, job: JobMessage) -> Response:
    if response.status < 300:
        return response
    if response.status == 404:
        raise _not_found(job)
    if response.status in (401, 403):
        raise PermanentError("PACS_DENIED", "the PACS API refuses the algorithm's key; check PACS_API_KEY")
    if response.status >= 500 or response.status in (408, 429):
        raise Unavailable("PACS_UNAVAILABLE", f"the PACS API answers {response.status}")
    raise PermanentError("PACS_REFUSED", f"the PACS API refuses the request with {response.status}; check the ids")


def _not_found(job: JobMessage) -> MipError:
    scope = job.pacs.scope.value
    named = {
        "image": "study_id, series_id and image_id",
        "series": "study_id and series_id",
        "study": "study_id",
    }
    return InputRejected(f"{scope.upper()}_NOT_FOUND", f"the PACS has no such {scope}; check {named[scope]}")
