"""A folder of DICOM files as a PACS: finds what it is asked for, and notices what changes.

A study, series or image is named in one of two ways (CONTRACT.md, "PACS API"): by its DICOM UIDs, or, as
the earlier system's clients do, by its place below the folder: ``study_id`` and ``series_id`` are folders,
``image_id`` is the file's name with or without ``.dcm``. Both are looked up in the index and never in the
file system, so nothing that the scan did not find below the folder can be reached.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from medical_image_processing.errors import NotFound
from medical_image_processing.pacs.archive import Described
from medical_image_processing.pacs.catalogue import Catalogue, ImageFile
from medical_image_processing.pacs.watch import PATIENCE_S, FolderWatch


class FolderIndex:
    """The DICOM files below ``folder``; belongs to one event loop.

    ``cache_db`` keeps the index between runs, so that a start opens only files that changed; without it
    every start reads every file's header. The folder is scanned at the start, every ``rescan_s``, before
    a listing, and when something unknown is asked for, then at most every ``min_interval_s``.
    """

    def __init__(
        self,
        folder: Path,
        cache_db: Path | None = None,
        *,
        rescan_s: float = 10.0,
        min_interval_s: float = 1.0,
    ) -> None:
        self.folder = os.fsencode(folder.resolve())
        self._temporary = tempfile.TemporaryDirectory(prefix="mip-pacs-") if cache_db is None else None
        path = Path(self._temporary.name, "index.db") if self._temporary else cache_db
        assert path is not None
        self._catalogue = Catalogue(path, self.folder)
        self._watch = FolderWatch(self.folder, self._catalogue, rescan_s, min_interval_s)

    def start(self) -> None:
        """Begin to scan, in a thread. Until the first scan is through, listings wait for it."""
        self._watch.start()

    def close(self) -> None:
        """Stop scanning. Nothing may be asked afterwards."""
        self._watch.stop()
        self._catalogue.close()
        if self._temporary:
            self._temporary.cleanup()

    @property
    def is_complete(self) -> bool:
        """Whether the folder has been scanned through since the start."""
        return self._watch.is_complete

    async def studies(self) -> list[str]:
        """Study Instance UIDs, in the order of their paths.

        Raises Unavailable ``PACS_INDEXING`` or ``PACS_UNAVAILABLE`` before a first scan came through.
        """
        await self._watch.refresh()
        return self._catalogue.studies()

    async def describe(
        self, study_id: str | None, series_id: str | None, limit: int, search: str | None
    ) -> Described:
        """As :meth:`Catalogue.describe`. Raises as :meth:`studies`."""
        await self._watch.refresh()
        return await asyncio.to_thread(self._catalogue.describe, study_id, series_id, limit, search)

    async def image(self, study_id: str, series_id: str, image_id: str) -> ImageFile:
        """One image.

        Raises NotFound ``STUDY_NOT_FOUND``, ``SERIES_NOT_FOUND`` or ``IMAGE_NOT_FOUND``, after a scan; and
        Unavailable ``PACS_INDEXING``, ``PACS_UNAVAILABLE`` when there was none.
        """
        found = self._find(study_id, series_id, image_id)
        if found is None:
            await self._watch.rescan()
            found = self._find(study_id, series_id, image_id)
        if found is not None:
            return found
        if self._list(study_id, series_id):
            raise NotFound("IMAGE_NOT_FOUND", "the series asked for has no such image; check image_id")
        raise self._nothing(study_id, series_id)

    async def images(self, study_id: str, series_id: str | None) -> list[ImageFile]:
        """The images of a series, or of a whole study, series after series.

        A series is in geometric order where every image has a position, else in the order of its paths.
        Raises as :meth:`image`.
        """
        await self._watch.refresh()
        found = self._list(study_id, series_id)
        if not found:
            await self._watch.rescan()
            found = self._list(study_id, series_id)
        if not found:
            raise self._nothing(study_id, series_id)
        return _in_order(found)

    def copies(self, file: ImageFile) -> list[ImageFile]:
        """Other files with its UIDs."""
        found = self._catalogue.of_series(file.study_uid, file.series_uid)
        return [one for one in found if one.sop_uid == file.sop_uid and one.row != file.row]

    def knows(self, study_id: str, series_id: str | None, image_id: str | None) -> bool:
        """Whether the index has the image, or, without one, the study."""
        if series_id is None or image_id is None:
            return bool(self._list(study_id, None))
        return self._find(study_id, series_id, image_id) is not None

    def token(self, file: ImageFile) -> str:
        """A name for the file that tells nothing about it and is never given to another."""
        return f"{self._catalogue.epoch}-{file.row}"

    def by_token(self, token: str) -> ImageFile:
        """The file with that token. Raises NotFound ``IMAGE_NOT_FOUND`` when it is gone or was replaced."""
        epoch, _, row = token.partition("-")
        file = self._catalogue.by_row(int(row)) if epoch == self._catalogue.epoch else None
        if file is None:
            raise NotFound("IMAGE_NOT_FOUND", "the image behind this link is gone; ask for a new link")
        return file

    async def rescan(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for a scan that starts from now on. Unavailable ``PACS_INDEXING`` after ``patience_s``."""
        await self._watch.rescan(patience_s)

    def _find(self, study_id: str, series_id: str, image_id: str) -> ImageFile | None:
        path = os.fsencode(f"{study_id}/{series_id}/{image_id}")
        return (
            self._catalogue.by_uid(study_id, series_id, image_id)
            or self._catalogue.by_path(path)
            or self._catalogue.by_path(path + b".dcm")
        )

    def _list(self, study_id: str, series_id: str | None) -> list[ImageFile]:
        if series_id is None:
            found = self._catalogue.of_study(study_id)
        else:
            found = self._catalogue.of_series(study_id, series_id)
        if found:
            return _without_copies(found)
        return self._catalogue.under(os.fsencode(study_id if series_id is None else f"{study_id}/{series_id}"))

    def _nothing(self, study_id: str, series_id: str | None) -> NotFound:
        if series_id is not None and self._list(study_id, None):
            return NotFound("SERIES_NOT_FOUND", "the study asked for has no such series; check series_id")
        return NotFound("STUDY_NOT_FOUND", "the PACS has no such study; check study_id, or store it first")


def _without_copies(files: Iterable[ImageFile]) -> list[ImageFile]:
    """One file for each SOP instance; files that lack the UID all stay."""
    first: dict[str | bytes, ImageFile] = {}
    for file in files:
        first.setdefault(file.sop_uid or file.path, file)
    return list(first.values())


def _in_order(files: list[ImageFile]) -> list[ImageFile]:
    series: dict[str, list[ImageFile]] = {}
    for file in files:
        series.setdefault(file.series_uid, []).append(file)
    return [file for images in series.values() for file in _series_in_order(images)]


def _series_in_order(images: list[ImageFile]) -> list[ImageFile]:
    if any(file.position is None for file in images):
        return images
    return sorted(images, key=lambda file: (file.position, file.path))
