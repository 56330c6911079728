"""Fetches a job's input through the PACS API (CONTRACT.md, "PACS API").

What is not there, or refused, fails the job at once; a PACS that is down, slow or in trouble is a
TransientError. Messages never hold ids or addresses of images.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from medical_image_processing.dicom import study
from medical_image_processing.dicom.read import read_header
from medical_image_processing.errors import InputRejected, MipError, TransientError, Unavailable
from medical_image_processing.model.job import JobMessage, Scope
from medical_image_processing.worker import log
from medical_image_processing.worker.arriving import ArrivingFiles, Unwanted
from medical_image_processing.worker.aws import retried
from medical_image_processing.worker.bundle import Arrival
from medical_image_processing.worker.http import ConnectionFailed, HttpClient, Response, Streamed, origin_of
from medical_image_processing.worker.pacs_answers import (
    MAX_ERROR_BYTES,
    MAX_LISTING_BYTES,
    NO_IMAGE,
    UID,
    check_status,
    check_uids,
    checked,
    nonsense,
    not_found,
    read_whole,
    url_of,
)

_PARALLEL = 4
INPUT_TIMEOUT_S = 300.0
"""For all that one job needs of the PACS."""
_ATTEMPTS = 3
_MOST_FILES = 100_000
DAMAGED = ("NOT_DICOM", "BAD_HEADER", "NO_PIXELS", "UNDECODABLE_PIXELS")
"""Why an input can't be used where a fault on its way may be the cause: :meth:`PacsClient.fetch_again`."""
T = TypeVar("T")
_AS_USUAL: Mapping[str, str] = {}
_PAST_CACHE: Mapping[str, str] = {"cache-control": "no-cache"}
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

        Of a study, those of its largest series of images. Those of a series may still arrive while they are read,
        and what is raised here may be raised there. Raises PermanentError ``IMAGE_NOT_FOUND``,
        ``SERIES_NOT_FOUND``, ``STUDY_NOT_FOUND``, ``PACS_DENIED``, ``PACS_REFUSED``; InputRejected
        ``TOO_LARGE``, ``NO_PIXELS``, ``BURNED_IN_ANNOTATION``, ``NOT_DEIDENTIFIABLE``, ``NOT_AN_IMAGE``;
        TransientError ``PACS_UNAVAILABLE``, and ``PACS_WRONG_IMAGE`` for what is of another study, series or image
        than ``job`` names by UID; or what the PACS API states.
        """
        deadline = time.monotonic() + INPUT_TIMEOUT_S
        try:
            return self._fetch(job, deadline)
        except _LinkGone:
            return self._fetch(
                job, deadline
            )  # moved or replaced just now; and what is gone for good gets no new link

    def fetch_again(self, job: JobMessage) -> list[bytes]:
        """As :meth:`fetch`, image by image and past what is kept on the way, which may be damaged."""
        return self._fetch(job, time.monotonic() + INPUT_TIMEOUT_S, _PAST_CACHE)

    def _fetch(self, job: JobMessage, deadline: float, how: Mapping[str, str] = _AS_USUAL) -> list[bytes]:
        where = job.pacs
        images = f"{self._path}/studies/{quote(where.study_id)}/images"
        if where.scope is Scope.IMAGE:
            link = self._get_json(
                job, f"{images}/{quote(where.series_id or '')}/{quote(where.image_id or '')}", deadline
            )
            return [self._get_file(job, url_of(link), self._max_bytes, deadline, how)]
        if where.scope is Scope.SERIES:
            return self._fetch_whole(job, images, where.series_id or "", deadline, how)
        return self._fetch_study(job, images, deadline, how)

    def _fetch_study(self, job: JobMessage, images: str, deadline: float, how: Mapping[str, str]) -> list[bytes]:
        """Its largest series of inputs, told by the first image of each where the listing says which these are."""
        links = self._get_json(job, images, deadline)
        if (series := by_series(links, job.pacs.study_id)) is None:
            return largest_series(self._fetch_listed(job, links, deadline, how))
        for series_id, its in sorted(series.items(), key=lambda item: (-len(item[1]), item[0])):
            if self._is_input(job, its[0], deadline, how):
                return self._fetch_whole(job, images, series_id, deadline, how)
        raise _no_input()

    def _is_input(self, job: JobMessage, link: Any, deadline: float, how: Mapping[str, str]) -> bool:
        try:
            data = self._get_file(job, url_of(link), self._max_bytes, deadline, how)
        except InputRejected as error:
            if error.code != NO_IMAGE:
                raise
            return False  # a report, which is not given to those who may not know the patient
        return study.is_input(read_header(data))

    def _fetch_whole(
        self, job: JobMessage, images: str, series_id: str, deadline: float, how: Mapping[str, str]
    ) -> list[bytes]:
        listing = f"{images}?series_id={quote(series_id, safe='')}"
        if how is _AS_USUAL:
            return self._fetch_series(job, listing, deadline)
        return self._fetch_listed(job, self._get_json(job, listing, deadline), deadline, how)

    def _fetch_series(self, job: JobMessage, listing: str, deadline: float) -> list[bytes]:
        """As one download that goes on while its first files are read; where there are only links, by these."""
        headers = self._headers(job) | {"accept": "multipart/related, application/json"}
        with ExitStack() as stack:

            def ask() -> Streamed:
                left = _left(deadline)
                call = self._http.stream(self._origin, f"{listing}&bundle=1", headers, total_s=left)
                answer = stack.enter_context(call)
                if answer.status >= 300:
                    check_status(answer.status, read_whole(answer, MAX_ERROR_BYTES), job)
                return answer

            try:
                answer = _from_pacs(ask)
            except Unavailable as error:
                # Some servers don't send a series whole; and where all of it is down, this says so.
                log.event(f"a series did not come whole: {error}", level=logging.WARNING, job_id=job.job_id)
                return self._fetch_listed(job, self._get_json(job, listing, deadline), deadline)
            content_type = answer.headers.get("content-type", "")
            count = answer.headers.get("x-image-count", "")
            if content_type.startswith("multipart/") and count.isdecimal() and 0 < int(count) <= _MOST_FILES:
                files = ArrivingFiles(int(count))
                going_on = stack.pop_all()
                arrival = Thread(
                    target=self._arrive,
                    args=(job, listing, deadline, answer, files, going_on),
                    name="arrival",
                    daemon=True,
                )
                arrival.start()
                return files
            try:
                links = json.loads(read_whole(answer))
            except ValueError as error:
                raise nonsense() from error
        return self._fetch_listed(job, links, deadline)

    def _arrive(
        self,
        job: JobMessage,
        listing: str,
        deadline: float,
        answer: Streamed,
        files: ArrivingFiles,
        connection: ExitStack,
    ) -> None:
        """Put the answer's files into ``files``; those that it lacks in the end by their own links."""
        arrival = Arrival(files, self._max_bytes, deadline, partial(check_uids, job))
        try:
            try:
                with connection:
                    arrival.take(answer)
            except Unavailable as error:
                log.event(
                    f"a series broke off and is completed: {error}", level=logging.WARNING, job_id=job.job_id
                )
            if not files.has_all:
                self._complete(job, self._get_json(job, listing, arrival.deadline), arrival)
        except Unwanted:
            pass
        except MipError as error:
            files.fail(error)
        except Exception as error:
            log.event("a download failed", level=logging.ERROR, error=error, job_id=job.job_id)
            reason = f"fetching the input failed: {type(error).__name__}"
            files.fail(TransientError("FETCH_FAILED", reason))

    def _complete(self, job: JobMessage, links: Any, arrival: Arrival) -> None:
        if not isinstance(links, list):
            raise nonsense()
        missing = [link for link in links if isinstance(link, dict) and link.get("key") not in arrival.keys]
        if len(links) != len(arrival.files) or len(arrival.keys) + len(missing) != len(links):
            raise Unavailable("PACS_UNAVAILABLE", "the series changed while it was read")
        for link in missing:
            most = max(0, self._max_bytes - arrival.size)
            arrival.put(link["key"], self._get_file(job, url_of(link), most, arrival.deadline))

    def _fetch_listed(
        self, job: JobMessage, links: Any, deadline: float, how: Mapping[str, str] = _AS_USUAL
    ) -> list[bytes]:
        if not isinstance(links, list):
            raise nonsense()
        return self._get_files(job, [url_of(link) for link in links], deadline, how)

    def _headers(self, job: JobMessage) -> dict[str, str]:
        return {"x-api-key": self._key, "x-job-id": job.job_id}

    def _get_json(self, job: JobMessage, target: str, deadline: float) -> Any:
        headers = self._headers(job) | {"accept": "application/json"}

        def ask() -> Response:
            response = self._http.request(
                "GET", self._origin, target, headers, max_bytes=MAX_LISTING_BYTES, total_s=_left(deadline)
            )
            return checked(response, job)

        response = _from_pacs(ask)
        try:
            return json.loads(response.body)
        except ValueError as error:
            raise nonsense() from error

    def _get_file(
        self, job: JobMessage, url: str, max_bytes: int, deadline: float, how: Mapping[str, str] = _AS_USUAL
    ) -> bytes:
        absolute = urljoin(f"{self._base}/", url)
        parts = urlsplit(absolute)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

        def ask() -> Response:
            left = _left(deadline)
            origin = origin_of(f"{parts.scheme}://{parts.netloc}")
            response = self._http.request("GET", origin, target, how, max_bytes=max_bytes, total_s=left)
            return response if response.status in _LINK_GONE else checked(response, job)

        response = _from_pacs(ask)
        if response.status in _LINK_GONE:
            raise _LinkGone(
                "PACS_UNAVAILABLE", "the PACS lists an image that it does not give; was it removed just now?"
            )
        check_uids(job, response.body)
        return response.body

    def _get_files(self, job: JobMessage, urls: list[str], deadline: float, how: Mapping[str, str]) -> list[bytes]:
        if not urls:
            raise not_found(job)
        total = 0
        reports: list[InputRejected] = []

        def get(url: str) -> bytes | None:
            nonlocal total
            # Several threads may pass the limit together by a few files; what matters is that it ends there.
            try:
                data = self._get_file(job, url, max(0, self._max_bytes - total), deadline, how)
            except InputRejected as error:
                if error.code != NO_IMAGE or job.pacs.scope is not Scope.STUDY:
                    raise
                reports.append(error)  # a study has them beside its images
                return None
            total += len(data)
            return data

        with ThreadPoolExecutor(min(_PARALLEL, len(urls))) as pool:
            futures = [pool.submit(get, url) for url in urls]
            try:
                files = [data for future in futures if (data := future.result()) is not None]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if not files:
            raise reports[0]
        return files


def by_series(links: Any, study_id: str) -> dict[str, list[Any]] | None:
    """A study's links by their Series Instance UIDs.

    None where the keys don't tell: only those of ``STUDY/SERIES/IMAGE`` by UIDs do. A folder's name is no UID, and
    the files in it may be of several series.
    """
    series: dict[str, list[Any]] = defaultdict(list)
    for link in links if isinstance(links, list) else []:
        key = link.get("key") if isinstance(link, dict) else None
        study_uid, _, rest = key.partition("/") if isinstance(key, str) else ("", "", "")
        series_uid, _, image = rest.partition("/")
        if study_uid != study_id or not image or not all(map(UID.fullmatch, (study_uid, series_uid))):
            return None
        series[series_uid].append(link)
    return series or None


def largest_series(files: list[bytes]) -> list[bytes]:
    """The inputs in a study's largest series of them; :class:`InputRejected` ``NO_PIXELS`` without any."""
    chosen = study.largest_series([read_header(data) for data in files])
    if not chosen:
        raise _no_input()
    return [files[index] for index in chosen]


def _no_input() -> InputRejected:
    return InputRejected(
        "NO_PIXELS", "The study holds no images but segmentations and results of this platform; send images."
    )


def _from_pacs(ask: Callable[[], T]) -> T:
    """Asked again a little later, since most trouble is short; then the job goes back to its queue."""
    try:
        return retried(ask, attempts=_ATTEMPTS, first_delay_s=0.2)
    except ConnectionFailed as error:
        raise Unavailable("PACS_UNAVAILABLE", f"the PACS API: {error.message}") from error
    except ValueError as error:  # a link that is no http address
        raise nonsense() from error


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise Unavailable("PACS_UNAVAILABLE", f"the input did not arrive within {INPUT_TIMEOUT_S:.0f} s")
    return left
