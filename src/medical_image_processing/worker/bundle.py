"""A series as one download: its files are put into :class:`ArrivingFiles` as they come."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from medical_image_processing.dicom.multipart import Kind, Parts, location
from medical_image_processing.errors import InputRejected, Unavailable
from medical_image_processing.worker.arriving import ArrivingFiles
from medical_image_processing.worker.http import Streamed


class Arrival:
    """Files of a series on their way into ``files``; ``keys`` are those that are there."""

    def __init__(
        self, files: ArrivingFiles, max_bytes: int, deadline: float, check: Callable[[bytes], None]
    ) -> None:
        self.files = files
        self._check = check
        self.keys: set[str] = set()
        self.size = 0
        self.deadline = deadline
        self._max_bytes = max_bytes

    def take(self, answer: Streamed) -> None:
        """The files of a bundle. Unavailable where it is broken or ends too early."""
        key, content = "", []  # type: str, list[bytes]
        try:
            parts = Parts(answer.headers.get("content-type", ""))
            for piece in answer.pieces:
                for kind, data in parts.feed(piece):
                    if kind is Kind.BEGIN:
                        key, content = unquote(location(data)), []
                    elif kind is Kind.DATA:
                        self._count(len(data))
                        content.append(data)
                    else:
                        self.put(key, b"".join(content), answer.postpone, counted=True)
                        content = []
            parts.finish()
        except ValueError as error:
            raise Unavailable("PACS_UNAVAILABLE", f"the PACS API: its answer {error}") from error

    def put(
        self,
        key: str,
        data: bytes,
        postpone: Callable[[float], None] = lambda _: None,
        *,
        counted: bool = False,
    ) -> None:
        """One file that is here."""
        if key in self.keys or self.files.has_all:
            raise Unavailable("PACS_UNAVAILABLE", "the PACS API sent an image twice, or too many of them")
        if not counted:
            self._count(len(data))
        self._check(data)

        def postpone_all(seconds: float) -> None:
            self.deadline += seconds
            postpone(seconds)

        self.files.put(data, postpone_all)
        self.keys.add(key)

    def _count(self, size: int) -> None:
        self.size += size
        if self.size > self._max_bytes:
            raise InputRejected(
                "TOO_LARGE", f"the series is larger than {self._max_bytes} bytes; ask for less at once"
            )
