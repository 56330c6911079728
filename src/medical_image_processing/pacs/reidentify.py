"""Results of an algorithm that saw pseudonyms, as objects of the patient: the way back of ``deidentify``.

Patient and study come from the image in the PACS, and every UID that stands for another becomes that again, at any
depth. What an algorithm copied from its input, a dummy date say, is as in the source again. The result's own UIDs
stay. Either all of it can be mapped, or nothing is made. Pixels are not taken into memory: a new head is put
before them. Everything here blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Literal, NamedTuple

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from medical_image_processing.dicom import header
from medical_image_processing.errors import PermanentError
from medical_image_processing.pacs.deidentify import (
    MAX_HEAD_BYTES,
    UNDEFINED,
    Bounded,
    check_inflates,
    check_whole,
    is_registered,
    read_dataset,
    transfer_syntax,
    write_dataset,
)

_PIECE = 2**20
_STUDY = Tag(header.STUDY_INSTANCE_UID)
_SERIES = Tag(header.SERIES_INSTANCE_UID)
_INSTANCE = Tag(header.SOP_INSTANCE_UID)
_REFERENCED_INSTANCE = Tag(0x00081155)
_REFERRING = frozenset({_STUDY, _SERIES, _REFERENCED_INSTANCE})
_PATIENT_AND_STUDY = tuple(
    tag for tag in header.CARRIED_ON if tag <= 0x00200010 and tag != header.STUDY_INSTANCE_UID
)
_DEIDENTIFIED = (0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x04000500)
"""What says that: Patient Identity Removed, the method and its codes, changed dates, encrypted attributes."""
_REPLACED = frozenset({*_PATIENT_AND_STUDY, *_DEIDENTIFIED} - {header.SPECIFIC_CHARACTER_SET})


class Result(NamedTuple):
    """A DICOM object that an algorithm made: what comes before its pixels, and where in ``file`` these begin."""

    dataset: Dataset
    file: BinaryIO
    pixels_at: int

    @property
    def uids(self) -> set[str]:
        """Every UID in it that could be a pseudonym."""
        return {uid for _, _, uid in _uids(self.dataset) if not is_registered(uid)}


class Reidentified(NamedTuple):
    """The same object as one of the patient. Its file must stay open."""

    head: bytes
    file: BinaryIO
    pixels_at: int

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, from the start each time."""
        yield self.head
        self.file.seek(self.pixels_at)
        while piece := self.file.read(_PIECE):
            yield piece


def read_result(file: BinaryIO) -> Result:
    """PermanentError ``NOT_DICOM``."""
    try:
        dataset, pixels_at = _read_head(file)
        if all(dataset.get(keyword) for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")):
            return Result(dataset, file, pixels_at)
    except Exception as error:  # pydicom raises whatever a broken file leads it to, and quotes it
        raise _not_dicom(type(error).__name__) from None
    raise _not_dicom("it lacks its UIDs")


def reidentify(
    results: Sequence[Result], source: bytes, seen: bytes, real: Mapping[str, str]
) -> list[Reidentified]:
    """The results as the patient's, in order. ``source`` is an image of the patient, ``seen`` the same as the
    algorithm saw it, ``real`` what is known behind pseudonyms.

    PermanentError ``RESULT_OF_OTHER_STUDY`` where a result says it is of another study than the source, or refers
    to one; ``RESULT_UNKNOWN_UID`` where it refers to what is neither an image that went out nor another of
    ``results``; ``NOT_DICOM``.
    """
    original, shown = read_dataset(source), read_dataset(seen)
    own = {str(result.dataset.get(tag).value) for result in results for tag in (_SERIES, _INSTANCE)}
    study = str(original.get("StudyInstanceUID", ""))
    try:
        for result in results:
            _check(result.dataset, study, real, own)
            said = header.raw(result.dataset, header.PATIENT_ID).strip()
            if said and said != header.raw(shown, header.PATIENT_ID).strip():
                raise _other_study()
        heads = [_of_patient(result.dataset, original, shown, real) for result in results]
    except PermanentError:
        raise
    except Exception as error:
        raise _not_dicom(type(error).__name__) from None
    return [Reidentified(head, one.file, one.pixels_at) for head, one in zip(heads, results, strict=True)]


def _read_head(file: BinaryIO) -> tuple[Dataset, int]:
    """What comes before the pixels, and where these begin: the file's end where there are none."""
    size = file.seek(0, os.SEEK_END)
    check_inflates(file)
    dataset = pydicom.dcmread(Bounded(file), force=True, stop_before_pixels=True)
    syntax = transfer_syntax(dataset)
    if syntax.is_deflated:
        file.seek(0)
        return read_dataset(file.read(MAX_HEAD_BYTES)), size
    if dataset.original_encoding != (syntax.is_implicit_VR, syntax.is_little_endian):
        raise ValueError("the encoding is not that of the transfer syntax")
    check_whole(dataset)
    pixels_at = file.tell()
    order: Literal["little", "big"] = "little" if syntax.is_little_endian else "big"
    start = file.read(8 if syntax.is_implicit_VR else 12)  # the element's tag, VR and length (PS3.5, 7.1)
    length = int.from_bytes(start[-4:], order)
    if start and length != UNDEFINED and pixels_at + len(start) + length > size:
        raise ValueError("the file ends too early")
    return dataset, pixels_at


def _check(dataset: Dataset, study: str, real: Mapping[str, str], own: set[str]) -> None:
    if not dataset.get("StudyInstanceUID"):
        raise _other_study()
    for _, tag, uid in _uids(dataset):
        if tag == _STUDY and real.get(uid) != study:
            raise _other_study()
        if tag in _REFERRING and uid not in real and uid not in own:
            raise PermanentError(
                "RESULT_UNKNOWN_UID",
                "a result refers to an instance or a series that the algorithm was not given; it can't be mapped "
                "back to the patient's images",
            )


def _of_patient(dataset: Dataset, original: Dataset, shown: Dataset, real: Mapping[str, str]) -> bytes:
    for holder, tag, uid in list(_uids(dataset)):
        if uid in real:
            _replace(holder, tag, uid, real[uid])
    for tag in list(dataset.keys()):
        if tag.group == 0x0010 or int(tag) in _REPLACED:
            del dataset[tag]
    if header.raw(dataset, header.SPECIFIC_CHARACTER_SET) == header.raw(original, header.SPECIFIC_CHARACTER_SET):
        _carry_bytes(dataset, original)
    else:
        _carry_text(dataset, original)
    _restore_copied(dataset, original, shown)
    return write_dataset(dataset)


def _carry_bytes(dataset: Dataset, original: Dataset) -> None:
    for tag in _carried(original):
        value, vr = header.raw(original, int(tag)), header.CARRIED_ON[int(tag)]
        value += b" " * (len(value) % 2)
        dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def _carry_text(dataset: Dataset, original: Dataset) -> None:
    """Where the result has other characters than the source: both as UTF-8 (PS3.3 C.12.1.1.2)."""
    dataset.decode()
    original.decode()
    for tag in _carried(original):
        dataset[tag] = original[tag]
    dataset.SpecificCharacterSet = "ISO_IR 192"


def _restore_copied(dataset: Dataset, original: Dataset, shown: Dataset) -> None:
    """What has the value that only the algorithm's input had."""
    for tag in set(dataset.keys()) & set(original.keys()) & set(shown.keys()):
        was = shown[tag]
        if was.VR not in ("SQ", "UI") and dataset[tag].value == was.value != original[tag].value:
            dataset[tag] = original[tag]


def _carried(original: Dataset) -> list[BaseTag]:
    return [Tag(tag) for tag in _PATIENT_AND_STUDY if tag in original]


def _uids(dataset: Dataset) -> Iterator[tuple[Dataset, BaseTag, str]]:
    """Each UID, with its data set and tag."""
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                yield from _uids(item)
        elif element.VR == "UI" and element.value:
            for value in element.value if element.VM > 1 else [element.value]:
                yield dataset, tag, str(value)


def _replace(holder: Dataset, tag: BaseTag, pseudonym: str, uid: str) -> None:
    element = holder[tag]
    if element.VM > 1:
        element.value = [uid if value == pseudonym else value for value in element.value]
    else:
        element.value = uid


def _other_study() -> PermanentError:
    return PermanentError(
        "RESULT_OF_OTHER_STUDY",
        "a result says that it belongs to, or refers to, another study than the one the job is about",
    )


def _not_dicom(why: str) -> PermanentError:
    return PermanentError(
        "NOT_DICOM",
        f"a result is no DICOM object ({why}), so it can't be given its patient back; with deidentify an "
        "algorithm's outputs are DICOM",
    )
