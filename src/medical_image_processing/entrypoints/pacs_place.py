"""Where the platform's images are: the archive of `mip up`, and whether it can be used."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from medical_image_processing.entrypoints.settings import Settings
from medical_image_processing.errors import Unavailable
from medical_image_processing.pacs.cache import InstanceCache
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.folder_archive import FolderArchive
from medical_image_processing.pacs.links import LinkSigner
from medical_image_processing.pacs.retrieve import DicomwebServer
from medical_image_processing.pacs.store import RECEIVED_FOLDER, DicomwebWriter, FolderWriter, NoWriter
from medical_image_processing.ports.storing import PacsWriter

_LOOK_EVERY_S = 30.0
_SCAN_S = 900.0
"""A large folder on a slow disk is read through in this time; who waits so long is nobody who asks."""


class PacsPlace(Protocol):
    """An open PACS."""

    @property
    def archive(self) -> DicomwebArchive | FolderArchive:
        """What the PACS API serves."""

    @property
    def writer(self) -> PacsWriter:
        """Where results are stored."""

    @property
    def intake(self) -> PacsWriter:
        """Where what nodes send is stored."""

    async def index(self) -> None:
        """Return once what was stored before is found. Unavailable when that takes long."""

    def state(self) -> str | None:
        """``ok``, or why it can't be used."""

    async def watch(self) -> None:
        """Look after it until cancelled."""

    async def close(self) -> None:
        """Let go of it."""


class FolderPlace:
    """A folder."""

    def __init__(self, folder: Path, settings: Settings, links: LinkSigner) -> None:
        self._index = FolderIndex(folder, settings.home / "pacs-index.db")
        self._index.start()
        self.archive = FolderArchive(self._index, links)
        self.writer: PacsWriter = FolderWriter(folder) if settings.may_store else NoWriter()
        self.intake: PacsWriter = FolderWriter(folder, RECEIVED_FOLDER) if settings.may_store else NoWriter()

    async def index(self) -> None:
        """Scan it once more."""
        await self._index.rescan(_SCAN_S)

    def state(self) -> str | None:
        """Whether it was read through."""
        return "ok" if self._index.is_complete else "the folder is being indexed"

    async def watch(self) -> None:
        """It has a thread for that."""

    async def close(self) -> None:
        """Stop scanning."""
        self._index.close()


class ServerPlace:
    """A DICOMweb server. One that is down is asked again and again; the log says when it goes and comes."""

    def __init__(self, server: DicomwebServer, settings: Settings, links: LinkSigner) -> None:
        self.archive = DicomwebArchive(server, links, cache=_open_cache(settings))
        self.writer: PacsWriter = DicomwebWriter(self.archive)
        self.intake = self.writer

    async def index(self) -> None:
        """It has its own."""

    def state(self) -> str | None:
        """How it answered the last time."""
        return "ok" if self.archive.trouble is None else str(self.archive.trouble)

    async def watch(self) -> None:
        """Ask it something small, now and then."""
        while True:
            await self.archive.check()
            await asyncio.sleep(_LOOK_EVERY_S if self.archive.trouble is None else _LOOK_EVERY_S / 6)

    async def close(self) -> None:
        """Let connections go."""
        await self.archive.close()


def open_pacs(settings: Settings, links: LinkSigner) -> PacsPlace:
    """The PACS of these settings; one that is down is no reason not to."""
    if isinstance(settings.pacs, DicomwebServer):
        return ServerPlace(settings.pacs, settings, links)
    return FolderPlace(settings.pacs, settings, links)


def _open_cache(settings: Settings) -> InstanceCache | None:
    if settings.pacs_cache_mib == 0:
        return None
    folder = settings.home / "pacs-cache"
    try:
        return InstanceCache(folder, settings.pacs_cache_mib * 2**20)
    except OSError as error:
        raise Unavailable(
            "CACHE_UNUSABLE",
            f"{folder} can't be used: {error.strerror}; free it, or give --pacs-cache-mib 0",
        ) from error
