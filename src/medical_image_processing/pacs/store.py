"""Instances into the PACS (ports.storing): STOW-RS (DICOM PS3.18, section 10.5), or files in a folder."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from medical_image_processing.dicom.identity import Identity, read_identity
from medical_image_processing.errors import MipError, PermanentError, Unavailable
from medical_image_processing.pacs.dicomweb import DicomwebArchive
from medical_image_processing.pacs.instances import Instance
from medical_image_processing.pacs.retrieve import problem, unavailable

RESULTS_FOLDER = "mip-results"
RECEIVED_FOLDER = "mip-received"
"""Where results go in a PACS folder, and what nodes send by C-STORE."""
_STORED, _SOP_INSTANCE_UID = "00081199", "00081155"
_FAILED, _OTHER_FAILURES, _REASON = "00081198", "0008119A", "00081197"
_DUPLICATE = 0x0111
_PASSING = (0x0110, *range(0xA700, 0xA800))
"""Processing failure and out of resources (PS3.18, table I.2-2; PS3.4, table B.2-1)."""
_PIECE = 2**20


class DicomwebWriter:
    """Stores in a DICOMweb server."""

    def __init__(self, archive: DicomwebArchive) -> None:
        self._archive = archive

    async def store(self, file: Path, study_id: str) -> None:
        """Send the instance, unless the server has it."""
        found = await asyncio.to_thread(_identify, file)
        if study_id and found.study_uid != study_id:
            raise PermanentError(
                "STORE_REFUSED", "the result is not of the study that its job was given; nothing was sent"
            )
        instance = Instance(found.study_uid, found.series_uid, found.sop_uid)
        if await self._archive.has(instance):
            return
        boundary = secrets.token_hex(16)
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        status, body = await self._archive.post("/studies", _multipart(file, boundary), content_type)
        fault = _fault(status, body)
        if fault is not None:
            raise fault
        # Something on the way may answer 200 to anything, and a sender deletes what is said to be stored.
        is_said = _names(body, found.sop_uid) or _DUPLICATE in _reasons(body)
        if not is_said and not await self._archive.has(instance):
            raise unavailable("it did not say that it stored the instance")


class FolderWriter:
    """Stores in a folder: ``mip-results/STUDY/SERIES/INSTANCE.dcm``, each file whole or not there."""

    def __init__(self, folder: Path, below: str = RESULTS_FOLDER) -> None:
        self._folder = folder / below

    async def store(self, file: Path, study_id: str) -> None:
        """Copy the instance, unless it is there."""
        found = await asyncio.to_thread(_identify, file)
        try:
            await asyncio.to_thread(self._copy, file, found)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            raise Unavailable(
                "PACS_UNAVAILABLE", f"the PACS folder can't be written: {reason}; check its disk and rights"
            ) from error

    def _copy(self, file: Path, found: Identity) -> None:
        target = self._folder / found.study_uid / found.series_uid / f"{found.sop_uid}.dcm"
        folders = (target.parent, target.parent.parent, self._folder, self._folder.parent)
        if target.exists():
            self._flush(folders)  # who put it there may have been killed before this
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # Hidden, so that no scan takes it for an image.
        unfinished = target.with_name(f".{secrets.token_hex(8)}")
        try:
            with file.open("rb") as source, unfinished.open("xb") as copy:
                while piece := source.read(_PIECE):
                    copy.write(piece)
                copy.flush()
                os.fsync(copy.fileno())
            unfinished.replace(target)
            self._flush(folders)
        finally:
            unfinished.unlink(missing_ok=True)

    def _flush(self, folders: Sequence[Path]) -> None:
        """Each may be new, and a name lasts only once the folder that has it is on disk."""
        for folder in folders:
            _flush_folder(folder)


class NoWriter:
    """Where results have no PACS to go back into."""

    async def store(self, file: Path, study_id: str) -> None:
        """It can't."""
        raise PermanentError(
            "STORE_REFUSED", "the sample images are no PACS: start `mip up` with --pacs to store results"
        )


def _identify(file: Path) -> Identity:
    with file.open("rb") as stream:
        found = read_identity(stream)
    uids = () if found is None else (found.study_uid, found.series_uid, found.sop_uid)
    # One that begins with a dot would be a hidden file, which no scan finds.
    if found is None or not all(uid and not uid.startswith(".") for uid in uids):
        raise PermanentError("NOT_DICOM", "the result is no DICOM instance with its UIDs, so no PACS can take it")
    return found


async def _multipart(file: Path, boundary: str) -> AsyncIterator[bytes]:
    yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    stream = await asyncio.to_thread(file.open, "rb")
    with stream:
        while piece := await asyncio.to_thread(stream.read, _PIECE):
            yield piece
    yield f"\r\n--{boundary}--\r\n".encode()


def _fault(status: int, body: bytes) -> MipError | None:
    """What is wrong with the answer to a store; a PACS that has the instance already has it."""
    reasons = _reasons(body)
    if reasons and set(reasons) <= {_DUPLICATE}:
        return None
    if any(reason in _PASSING for reason in reasons):
        return unavailable("it could not store the result now")
    if reasons or status in (400, 404, 405, 406, 409, 410, 411, 413, 415, 501):
        why = f"reason {reasons[0]:#06x}" if reasons else f"status {status}"
        return PermanentError(
            "STORE_REFUSED", f"the DICOMweb server does not take the result: {why} (PS3.18, 10.5)"
        )
    if status == 202:
        return None  # stored, with warnings
    return problem(status)


def _reasons(body: bytes) -> list[int]:
    """Failure reasons of a Store Instances Response Module (PS3.18, section I.2)."""
    try:
        items = [*_items(body, _FAILED), *_items(body, _OTHER_FAILURES)]
        return [int(item.get(_REASON, {}).get("Value", [0])[0]) for item in items]
    except (ValueError, AttributeError, IndexError, TypeError):
        return []


def _names(body: bytes, sop_uid: str) -> bool:
    """Whether the answer's Referenced SOP Sequence has the instance."""
    try:
        return any(item[_SOP_INSTANCE_UID]["Value"] == [sop_uid] for item in _items(body, _STORED))
    except (LookupError, TypeError):
        return False


def _items(body: bytes, sequence: str) -> list[Any]:
    try:
        answer: Any = json.loads(body or b"{}")
        answer = answer[0] if isinstance(answer, list) and answer else answer
        return list(answer.get(sequence, {}).get("Value", []))
    except (ValueError, RecursionError, AttributeError, TypeError):
        return []


def _flush_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
