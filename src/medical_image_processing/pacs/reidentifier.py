"""Gives results their patient back: :class:`ports.reidentification.Reidentifier` over an archive."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from medical_image_processing.errors import NotFound, PermanentError
from medical_image_processing.model.job import JobMessage, Scope
from medical_image_processing.pacs.deidentified import ReadableArchive
from medical_image_processing.pacs.deidentify import deidentify
from medical_image_processing.pacs.reidentify import Reidentified, read_result, reidentify
from medical_image_processing.ports.pseudonyms import Pseudonyms

_UID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # as dicom.identity reads them


class ArchiveReidentifier:
    """Implements the port; ``archive`` is the PACS as it is. One job at a time."""

    def __init__(self, archive: ReadableArchive, pseudonyms: Pseudonyms) -> None:
        self._archive = archive
        self._pseudonyms = pseudonyms
        self._room = asyncio.Semaphore(1)

    @asynccontextmanager
    async def reidentified(self, job: JobMessage, files: Sequence[Path]) -> AsyncIterator[Sequence[Reidentified]]:
        """As the port says."""
        async with self._room:
            with ExitStack() as stack:
                # Opened once: what an algorithm writes in their place meanwhile is another file.
                opened = [stack.enter_context(file.open("rb")) for file in files]
                yield await self._made(opened, job)

    async def _made(self, files: Sequence[BinaryIO], job: JobMessage) -> Sequence[Reidentified]:
        results = await asyncio.to_thread(lambda: [read_result(file) for file in files])
        uids = await asyncio.to_thread(lambda: set[str]().union(*(result.uids for result in results)))
        known = await self._pseudonyms.real(uids)
        real = {one: name for one, name in known.items() if _UID.fullmatch(name)}  # no path
        source = await self._source(job, set(real.values()))
        seen = await asyncio.to_thread(deidentify, source, self._pseudonyms.of)
        return await asyncio.to_thread(reidentify, results, source, seen.data, real)

    async def real_uids(self, uids: Sequence[str]) -> list[str]:
        """As the port says."""
        known = await self._pseudonyms.real(uids)
        if any(uid not in known for uid in uids):
            raise PermanentError(
                "RESULT_UNKNOWN_UID", "the result's provenance names images that were not given out"
            )
        return [known[uid] for uid in uids]

    async def _source(self, job: JobMessage, named: set[str]) -> bytes:
        """An image that the job is about, one of ``named`` if there is one: a study may be of two patients."""
        place = job.pacs
        below = {Scope.STUDY: [], Scope.SERIES: [place.series_id], Scope.IMAGE: [place.series_id, place.image_id]}
        ids = [place.study_id, *(one for one in below[place.scope] if one is not None)]
        known = await self._pseudonyms.real(ids)
        if any(one not in known for one in ids):
            raise _gone()
        study, *rest = (known[one] for one in ids)
        try:
            if place.scope is Scope.IMAGE:
                found = await self._archive.image(study, *rest)
            else:
                images = await self._archive.images(study, rest[0] if rest else None)
                found = next((one for one in images if one.sop_uid in named), images[0])
            return await self._archive.content(found.study_uid, found.series_uid, found.sop_uid)
        except (NotFound, IndexError) as error:
            raise _gone() from error


def _gone() -> PermanentError:
    return PermanentError(
        "SOURCE_GONE",
        "the images of the job are no longer in the PACS, so its result can't be given its patient back",
    )
