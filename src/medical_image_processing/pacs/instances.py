"""Instances of a DICOMweb server, from the cache where they are there. Everything here blocks.

What arrives is looked at before it is passed on: each image says itself that it is of the study and the series
asked for, and the one asked for. A series has as many as the server said. Nothing is kept before the whole answer
has come, as it should.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import NamedTuple

from medical_image_processing.dicom.identity import read_uids
from medical_image_processing.dicom.multipart import Event, Kind, Parts
from medical_image_processing.errors import PermanentError, Unavailable
from medical_image_processing.pacs.bundle import Packer, Piece
from medical_image_processing.pacs.cache import Entry, InstanceCache
from medical_image_processing.pacs.retrieve import DicomwebServer, Download, Line, Retriever, unavailable

_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_HEAD_BYTES = 4096
_MOST_HEAD_BYTES = 2**22
"""Private elements before the UIDs may be large."""
_MOST_EPILOGUE_BYTES = 65_536
_MOST_SINGLES = 8
"""A few that are missing from the cache are fetched one by one; more of them with the whole series."""


class Instance(NamedTuple):
    """One SOP instance, and where it lies along its series' normal, in mm; None where the server doesn't say."""

    study_uid: str
    series_uid: str
    sop_uid: str
    position: float | None = None

    @property
    def key(self) -> str:
        """Its path below the server's ``/studies/``."""
        return f"{self.study_uid}/{self.series_uid}/{self.sop_uid}"


class Series(NamedTuple):
    """A series as the server tells of it now; ``version`` changes with what it tells."""

    study_uid: str
    series_uid: str
    images: int
    version: str


class Instances:
    """Over one server; ``cache`` may be None."""

    def __init__(self, server: DicomwebServer, retriever: Retriever, cache: InstanceCache | None) -> None:
        self._base = server.base
        self._retriever = retriever
        self._cache = cache

    def one(self, asked: Instance, line: Line, *, past_cache: bool = False) -> Iterator[bytes]:
        """An instance's bytes; with ``past_cache`` they are the server's, and replace what is kept."""
        yield from (None if past_cache else self._cached(asked)) or self._fetched(asked, line)

    def series(self, asked: Series, line: Line) -> Iterator[Piece]:
        """All of a series."""
        known = self._known(asked)
        images = self._of_server(asked, line) if known is None else self._one_by_one(known, line)
        packer = Packer()
        with closing(images):
            for image, data in images:
                if image is not None:
                    packer.begin(image)
                if (piece := packer.add(data)) is not None:
                    yield piece
        yield packer.end()

    def _one_by_one(
        self, known: list[Instance], line: Line
    ) -> Generator[tuple[Instance | None, bytes], None, None]:
        for instance in known:
            image: Instance | None = instance
            for data in self.one(instance, line):
                yield image, data
                image = None

    def _of_server(self, asked: Series, line: Line) -> Generator[tuple[Instance | None, bytes], None, None]:
        """Each image's first bytes come with its name."""
        seen: dict[str, None] = {}
        address = f"/studies/{asked.study_uid}/series/{asked.series_uid}"
        try:
            download = self._retriever.get(address, _STORED, line)
        except PermanentError as error:
            raise unavailable("it sends no series whole, or has this one no more") from error
        with closing(download), closing(_Keeping(self._cache, download.length)) as keeping:
            for kind, data, uids in _named(_events(download)):
                if kind is Kind.BEGIN:
                    instance = _checked(uids, asked.study_uid, asked.series_uid)
                    if instance.sop_uid in seen:
                        raise unavailable("it sent an image twice in a series")
                    if len(seen) == asked.images:
                        raise _changed()
                    seen[instance.sop_uid] = None
                    keeping.begin(self._name(instance))
                    yield instance, data
                elif data:
                    yield None, data
                keeping.take(kind, data)
            if len(seen) != asked.images:
                raise _changed()
            if self._cache is not None:
                keeping.commit()
                listed = json.dumps({"version": asked.version, "images": list(seen)})
                self._cache.put(self._list_name(asked), listed.encode())

    def _cached(self, asked: Instance) -> Iterator[bytes] | None:
        return None if self._cache is None else self._cache.read(self._name(asked))

    def _fetched(self, asked: Instance, line: Line) -> Iterator[bytes]:
        address = f"/studies/{asked.study_uid}/series/{asked.series_uid}/instances/{asked.sop_uid}"
        has_begun = False
        with (
            closing(self._retriever.get(address, _STORED, line)) as download,
            closing(_Keeping(self._cache, download.length)) as keeping,
        ):
            for kind, data, uids in _named(_events(download)):
                if kind is Kind.BEGIN:
                    if has_begun:
                        raise unavailable("it sent more than the image asked for")
                    _checked(uids, asked.study_uid, asked.series_uid, asked.sop_uid)
                    has_begun = True
                    keeping.begin(self._name(asked))
                if data:
                    yield data
                keeping.take(kind, data)
            if not has_begun:
                raise unavailable("its answer holds no image")
            keeping.commit()

    def _known(self, asked: Series) -> list[Instance] | None:
        """The series' images where they were listed under this version, and nearly all of them are at hand."""
        if self._cache is None or (listed := self._cache.read(self._list_name(asked))) is None:
            return None
        said = json.loads(b"".join(listed))
        if said["version"] != asked.version or len(said["images"]) != asked.images:
            return None
        images = [Instance(asked.study_uid, asked.series_uid, uid) for uid in said["images"]]
        missing = sum(self._name(image) not in self._cache for image in images)
        return images if missing <= min(_MOST_SINGLES, len(images) // 4) else None

    def _name(self, instance: Instance) -> str:
        return f"image {self._base} {instance.key}"

    def _list_name(self, series: Series) -> str:
        return f"series {self._base} {series.study_uid}/{series.series_uid}"


class _Keeping:
    """What an answer holds, on its way into the cache: nothing is kept before all of it was seen to be whole.

    ``length`` is the answer's, where it is known.
    """

    def __init__(self, cache: InstanceCache | None, length: int | None) -> None:
        self._cache = cache
        self._length = length
        self._entries: list[Entry] = []

    def begin(self, name: str) -> None:
        """An instance follows."""
        if self._cache is not None:
            self._entries.append(self._cache.begin(name, self._length))

    def take(self, kind: Kind, data: bytes) -> None:
        """Some of it, or its end."""
        if not self._entries:
            return
        if data:
            self._entries[-1].write(data)
        if kind is Kind.END:
            self._entries[-1].finish()

    def commit(self) -> None:
        """All was as it should be."""
        for entry in self._entries:
            entry.commit()

    def close(self) -> None:
        """What was not committed goes."""
        for entry in self._entries:
            entry.close()


def _events(download: Download) -> Iterator[Event]:
    """The parts of the answer; one that is ``application/dicom`` itself is a single part."""
    if download.content_type.partition(";")[0].strip().lower() == "application/dicom":
        if not download.is_framed:
            raise unavailable("its image has neither a length nor chunks: one that broke off would look whole")
        yield Event(Kind.BEGIN, b"")
        for data in download.pieces():
            yield Event(Kind.DATA, data)
        yield Event(Kind.END, b"")
        return
    try:
        parts, silent = Parts(download.content_type), 0
        for data in download.pieces():
            events = parts.feed(data)
            silent = 0 if events else silent + len(data)
            if silent > _MOST_EPILOGUE_BYTES:
                raise unavailable("its answer goes on behind its end")
            yield from events
        parts.finish()
    except ValueError as error:
        raise unavailable(f"its answer {error}") from error


class _Named(NamedTuple):
    """As :class:`Event`; ``uids`` are said where an instance begins, None where it doesn't say them itself."""

    kind: Kind
    data: bytes
    uids: tuple[str, str, str] | None = None


def _named(events: Iterator[Event]) -> Iterator[_Named]:
    """With BEGIN come the first bytes of the content, as many as name it, not the part's headers."""
    head: bytes | None = None
    enough = _HEAD_BYTES
    for kind, data in events:
        if kind is Kind.BEGIN:
            head, enough = b"", _HEAD_BYTES
        elif head is None:
            yield _Named(kind, data)
        elif kind is Kind.DATA:
            head = head + data if head else data
            if len(head) < enough:
                continue
            uids = read_uids(head)
            if uids is not None or len(head) >= _MOST_HEAD_BYTES:
                yield _Named(Kind.BEGIN, head, uids)
                head = None
            else:
                enough = 2 * len(head)
        else:
            yield _Named(Kind.BEGIN, head, read_uids(head))
            yield _Named(kind, data)
            head = None


def _checked(uids: tuple[str, str, str] | None, *asked: str) -> Instance:
    """The instance that a file says to be. Unavailable unless it is of the study, and the series, asked for."""
    if uids is None:
        raise unavailable("it sent something without a Study, Series and SOP Instance UID")
    if uids[: len(asked)] != asked:
        raise Unavailable(
            "PACS_WRONG_IMAGE",
            "the DICOMweb server: it sent an image of another Study, Series or SOP Instance UID than was asked "
            "for; nothing of it was used",
        )
    return Instance(*uids)


def _changed() -> Exception:
    return unavailable("the series changed while it was read: the number of its images is not what it said before")
