"""Multipart uploads: parts in files, put together at the end. They end with the platform's life.

Source: Amazon S3 user guide, "Uploading and copying objects using multipart upload".
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.objects import ObjectStore, Stored, Upload

MAX_PARTS = 10_000
_IDLE_S = 24 * 3600.0


@dataclass
class _Multipart:
    key: str
    headers: Mapping[str, str]
    touched: float
    parts: dict[int, tuple[str, Upload]] = field(default_factory=dict)


class MultipartUploads:
    """Unfinished multipart uploads by id. Methods that touch files block; none runs twice at once for an id."""

    def __init__(self, store: ObjectStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._open: dict[str, _Multipart] = {}

    def create(self, key: str, headers: Mapping[str, str]) -> str:
        """The id of a new upload; uploads that nobody has touched for a day are dropped."""
        now = self._clock()
        for idle in [i for i, multipart in self._open.items() if now - multipart.touched > _IDLE_S]:
            self._drop(self._open.pop(idle))
        upload_id = secrets.token_urlsafe(24)
        self._open[upload_id] = _Multipart(key, headers, now)
        return upload_id

    def check(self, upload_id: str, key: str) -> None:
        """AwsError ``NoSuchUpload`` unless ``upload_id`` is open and for ``key``."""
        self._find(upload_id, key)

    def add_part(self, upload_id: str, key: str, number: int, content: Upload) -> str:
        """The part's ETag. A part sent again replaces the first."""
        multipart = self._find(upload_id, key)
        content.pause()
        etag = f'"{secrets.token_hex(16)}"'
        before = multipart.parts.get(number)
        multipart.parts[number] = (etag, content)
        multipart.touched = self._clock()
        if before is not None:
            before[1].abort()
        return etag

    def complete(self, upload_id: str, key: str, named: Sequence[tuple[int, str]]) -> Stored:
        """The object made of the named parts. AwsError ``InvalidPart``, ``InvalidPartOrder``."""
        multipart = self._find(upload_id, key)
        numbers = [number for number, _ in named]
        if numbers != sorted(set(numbers)):
            raise AwsError("InvalidPartOrder", "list the parts in ascending order, each once")
        if not named or any(
            number not in multipart.parts or multipart.parts[number][0].strip('"') != etag.strip('"')
            for number, etag in named
        ):
            raise AwsError("InvalidPart", "a listed part was not uploaded, or has another ETag")
        del self._open[upload_id]
        try:
            whole = multipart.parts[numbers[0]][1]
            whole.resume()
            for number in numbers[1:]:
                whole.append(multipart.parts[number][1])
            return whole.commit(key, multipart.headers)
        finally:
            self._drop(multipart)

    def abort(self, upload_id: str, key: str) -> None:
        """Forget the upload and its parts."""
        multipart = self._find(upload_id, key)
        del self._open[upload_id]
        self._drop(multipart)

    def _find(self, upload_id: str, key: str) -> _Multipart:
        multipart = self._open.get(upload_id)
        if multipart is None or multipart.key != key:
            raise AwsError(
                "NoSuchUpload", "the upload was completed, aborted, or ended with the platform", status=404
            )
        return multipart

    def _drop(self, multipart: _Multipart) -> None:
        for _, content in multipart.parts.values():
            content.abort()
