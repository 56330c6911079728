"""Instances of a DICOMweb server, from the cache where they are there. Everything here blocks.

What arrives is looked at before it is passed on: an image is the one asked for, a series has as many as the
server said, and only whole instances are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from typing import NamedTuple

from medical_image_processing.dicom.multipart import Event, Kind, Parts
from medical_image_processing.errors import NotFound
from medical_image_processing.pacs.bundle import Packer, Piece
from medical_image_processing.pacs.cache import Entry, InstanceCache
from medical_image_processing.pacs.header import read_identity, read_stored_uid
from medical_image_processing.pacs.retrieve import DicomwebServer, Download, Retriever, unavailable

_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_HEAD_BYTES = 4096
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

    def one(self, asked: Instance) -> Iterator[bytes]:
        """An instance's bytes."""
        yield from self._cached(asked) or self._fetched(asked)

    def series(self, asked: Series) -> Iterator[Piece]:
        """All of a series."""
        known = self._known(asked)
        images = self._of_server(asked) if known is None else self._one_by_one(known)
        packer = Packer()
        for image, data in images:
            if image is not None:
                packer.begin(image)
            if (piece := packer.add(data)) is not None:
                yield piece
        yield packer.end()

    def _one_by_one(self, known: list[Instance]) -> Iterator[tuple[Instance | None, bytes]]:
        for instance in known:
            image: Instance | None = instance
            for data in self.one(instance):
                yield image, data
                image = None

    def _of_server(self, asked: Series) -> Iterator[tuple[Instance | None, bytes]]:
        """Each image's first bytes come with its name."""
        seen: dict[str, None] = {}
        entry: Entry | None = None
        address = f"/studies/{asked.study_uid}/series/{asked.series_uid}"
        try:
            download = self._retriever.get(address, _STORED)
        except NotFound as error:
            raise unavailable("it sends no series whole, or has this one no more") from error
        with closing(download):
            try:
                for kind, data in _from_heads(_events(download)):
                    if kind is Kind.BEGIN:
                        uid = _uid(data)
                        if not uid or uid in seen:
                            raise unavailable("it sent an image twice, or one without its UID, in a series")
                        if len(seen) == asked.images:
                            raise _changed()
                        seen[uid] = None
                        instance = Instance(asked.study_uid, asked.series_uid, uid)
                        entry = self._cache.begin(self._name(instance)) if self._cache is not None else None
                        yield instance, data
                    elif data:
                        yield None, data
                    if entry is not None:
                        _keep(entry, kind, data)
            finally:
                if entry is not None:
                    entry.close()
        if len(seen) != asked.images:
            raise _changed()
        if self._cache is not None:
            listed = json.dumps({"version": asked.version, "images": list(seen)})
            self._cache.put(self._list_name(asked), listed.encode())

    def _cached(self, asked: Instance) -> Iterator[bytes] | None:
        return None if self._cache is None else self._cache.read(self._name(asked))

    def _fetched(self, asked: Instance) -> Iterator[bytes]:
        address = f"/studies/{asked.study_uid}/series/{asked.series_uid}/instances/{asked.sop_uid}"
        entry: Entry | None = None
        with closing(self._retriever.get(address, _STORED)) as download:
            try:
                for kind, data in _from_heads(_events(download)):
                    if kind is Kind.BEGIN:
                        uid = _uid(data, asked.sop_uid)
                        if uid and uid != asked.sop_uid:
                            raise unavailable("it sent another image than the one asked for")
                        # What can't be named is passed on, for its reader to say what is wrong, and not kept.
                        if uid and self._cache is not None:
                            entry = self._cache.begin(self._name(asked))
                    if data:
                        yield data
                    if entry is not None:
                        _keep(entry, kind, data)
                    if kind is Kind.END:
                        return
                raise unavailable("its answer holds no image")
            finally:
                if entry is not None:
                    entry.close()

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


def _keep(entry: Entry, kind: Kind, data: bytes) -> None:
    if data:
        entry.write(data)
    if kind is Kind.END:
        entry.commit()


def _events(download: Download) -> Iterator[Event]:
    """The parts of the answer; one that is ``application/dicom`` itself is a single part."""
    if download.content_type.partition(";")[0].strip().lower() == "application/dicom":
        yield Event(Kind.BEGIN, b"")
        for data in download.pieces():
            yield Event(Kind.DATA, data)
        yield Event(Kind.END, b"")
        return
    try:
        parts = Parts(download.content_type)
        for data in download.pieces():
            yield from parts.feed(data)
        parts.finish()
    except ValueError as error:
        raise unavailable(f"its answer {error}") from error


def _from_heads(events: Iterator[Event]) -> Iterator[Event]:
    """As ``events``; with BEGIN come the first bytes of the content, enough to name it, not the part's headers."""
    head: bytes | None = None
    for event in events:
        if event.kind is Kind.BEGIN:
            head = b""
        elif head is None:
            yield event
        elif event.kind is Kind.DATA:
            head += event.data
            if len(head) >= _HEAD_BYTES:
                yield Event(Kind.BEGIN, head)
                head = None
        else:
            yield Event(Kind.BEGIN, head)
            yield event
            head = None


def _uid(head: bytes, expected: str = "") -> str:
    """The SOP Instance UID that a file says, in its meta information or else in its data set; "" for none."""
    uid = read_stored_uid(BytesIO(head))
    if uid and uid == (expected or uid):
        return uid
    identity = read_identity(BytesIO(head))
    return (identity.sop_uid if identity else "") or uid


def _changed() -> Exception:
    return unavailable("the series changed while it was read: the number of its images is not what it said before")
