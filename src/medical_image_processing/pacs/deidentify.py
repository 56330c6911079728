"""One DICOM instance without what identifies the patient: the Basic Application Level Confidentiality Profile
(DICOM PS3.15, annex E).

What becomes of which attribute is the table E.1-1 as dicom-anonymizer keeps it, and so are the dummy values. Going
through the data set is done here: that library takes the top level alone, and draws UIDs at random.

Beyond the table goes what it has no row for and may well tell who it is: private and unknown elements, whole
overlays and curves, names, dates, addresses and long texts, what is said of the patient in words, and any text
that repeats what the patient is called by. Pixels are handed on as they are, so an instance whose pixels may show
a name is refused. Everything here blocks.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import pydicom
from dicomanonymizer import simpledicomanonymizer as library
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset as read_elements
from pydicom.filereader import read_preamble
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medical_image_processing.dicom import header, read  # noqa: F401 - it keeps pydicom from quoting values (A3)
from medical_image_processing.dicom.encode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from medical_image_processing.errors import InputRejected

NOT_DEIDENTIFIABLE = "NOT_DEIDENTIFIABLE"
NOT_AN_IMAGE = "NOT_AN_IMAGE"
BURNED_IN = "BURNED_IN_ANNOTATION"

_TABLE = "dicomfields_2026c"
_REGISTERED = "1.2.840.10008."
"""UIDs of the standard itself (PS3.6, annex A); no instance has one."""
_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_FREE_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"})
_LONG_TEXT = frozenset({"LT", "PN", "ST", "UC", "UR", "UT"})
_CODE_VALUES = (0x00080119, 0x00080120)
"""Long Code Value and URN Code Value, of a coding scheme."""
_ORDERS = (0x00401006, 0x00401007, 0x00402006, 0x00402007, 0x00181003)
"""Retired numbers of orders, and of a device: the table has only those that took their place."""
_DUMMY_TIMES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
_OFTEN_BURNED_IN = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.3",  # Ultrasound Multi-frame
    "1.2.840.10008.5.1.4.1.1.6",  # Ultrasound
    "1.2.840.10008.5.1.4.1.1.77.1",  # Visible Light: photographs, video, slides with their labels
)
"""SOP classes whose pixels show names unless their header says that they don't."""
MAX_HEAD_BYTES = 2**28
MAX_INSTANCE_BYTES = 2**30
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()
UNDEFINED = 0xFFFFFFFF
_SHORTEST_IDENTIFIER = 4
_METHOD = "PS3.15 Basic Application Level Confidentiality Profile"

Pseudonym = Callable[[str], str]
_DELETING = frozenset(
    {library.delete, library.delete_or_empty, library.delete_or_replace, library.delete_or_empty_or_replace}
)
_EMPTYING = frozenset({library.empty, library.empty_or_replace})


class Deidentified(NamedTuple):
    """The file, and the UIDs that it has pseudonyms of: they must be on record before it leaves."""

    data: bytes
    uids: frozenset[str]


def deidentify(data: bytes, pseudonym: Pseudonym) -> Deidentified:
    """The instance with the profile applied, in its own transfer syntax.

    InputRejected ``BURNED_IN_ANNOTATION`` where its pixels show, or may well show, who it is; ``NOT_AN_IMAGE``;
    ``NOT_DEIDENTIFIABLE`` for what lacks its UIDs, or can't be read through.
    """
    check_size(len(data))
    try:
        dataset = read_dataset(data)
        _check(dataset)
        cleaning = _Cleaning(pseudonym, _identifiers(dataset))
        patient = _patient(dataset)
        cleaning.clean(dataset)
        _say_so(dataset)
        dataset.PatientID = pseudonym(f"patient {patient}") if patient else ""
        return Deidentified(write_dataset(dataset), frozenset(cleaning.uids))
    except InputRejected:
        raise
    except Exception as error:
        # pydicom raises whatever a broken header leads it to, and quotes the header.
        raise InputRejected(
            NOT_DEIDENTIFIABLE,
            f"an image can't be de-identified: its header can't be read ({type(error).__name__})",
        ) from None


def check_size(size: int) -> None:
    """Raise InputRejected ``NOT_DEIDENTIFIABLE`` for an instance that takes too much memory."""
    if size > MAX_INSTANCE_BYTES:
        raise InputRejected(
            NOT_DEIDENTIFIABLE, f"an image can't be de-identified: it is over {MAX_INSTANCE_BYTES >> 20} MiB"
        )


def read_dataset(data: bytes) -> Dataset:
    """The whole data set, its elements raw until they are asked for. ValueError where the file was cut, or would
    inflate without bounds."""
    if _DEFLATED in data:
        check_inflates(io.BytesIO(data))
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    check_whole(dataset)
    return dataset


def check_inflates(file: BinaryIO) -> None:
    """Raise ValueError for a deflated file (PS3.5, A.5) of over 256 MiB: pydicom inflates in one go."""
    file.seek(0)
    bounded: Any = Bounded(file)
    read_preamble(bounded, force=True)
    meta = read_elements(bounded, False, True, stop_when=lambda tag, vr, length: tag.group != 0x0002)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        if len(inflate.decompress(file.read(MAX_HEAD_BYTES), MAX_HEAD_BYTES)) == MAX_HEAD_BYTES:
            raise ValueError("the file inflates to too much")
    file.seek(0)


class Bounded:
    """A file of which only so much is read: an algorithm may put anything before the pixels of its result."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_HEAD_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As of a file. ValueError once it is too much."""
        if size < 0 or size > self._left:
            size = self._left
        data = self._file.read(size)
        self._left -= len(data)
        if self._left <= 0:
            raise ValueError("too much comes before the pixels")
        return data


def check_whole(dataset: Dataset) -> None:
    """Raise ValueError where the file ended within a value."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and element.length not in (len(element.value or b""), UNDEFINED):
            raise ValueError("the file ends too early")


def write_dataset(dataset: Dataset) -> bytes:
    """The file, with an empty preamble and meta information of our own (PS3.10, 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    meta.TransferSyntaxUID = transfer_syntax(dataset)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    dataset.preamble = None
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def is_registered(uid: str) -> bool:
    """Whether the standard itself gave the UID out."""
    return uid.startswith(_REGISTERED)


class _Cleaning:
    """One instance; ``uids`` are the real ones that were replaced."""

    def __init__(self, pseudonym: Pseudonym, identifiers: tuple[bytes, ...]) -> None:
        self._pseudonym = pseudonym
        self._identifiers = identifiers
        self.uids: set[str] = set()

    def clean(self, dataset: Dataset) -> None:
        """The data set and those in its sequences."""
        for tag in list(dataset.keys()):
            if _is_beyond_table(tag):
                del dataset[tag]
            else:
                self._clean_element(dataset, tag)

    def _clean_element(self, dataset: Dataset, tag: BaseTag) -> None:
        vr = _vr(dataset, tag)
        action = _action(tag, vr)
        if action is library.delete or vr is None or (vr == "SQ" and action in _DELETING):
            del dataset[tag]
        elif vr == "SQ":
            self._clean_sequence(dataset, tag, action)
        elif vr == "UI":
            self._replace_uids(dataset, tag, action)
        elif action is not None:
            _apply(dataset, tag, action)
        elif (vr in _FREE_TEXT and self._names_patient(dataset, tag)) or (
            vr in ("AE", "CS") and self._is_identifier(dataset, tag)
        ):
            del dataset[tag]

    def _clean_sequence(self, dataset: Dataset, tag: BaseTag, action: Any) -> None:
        if action in _EMPTYING:
            dataset[tag].value = Sequence()
            return
        for item in dataset[tag].value:
            self.clean(item)
            if action is library.replace:
                for inner in [one for one in list(item.keys()) if item[one].VR not in ("SQ", "UI")]:
                    _apply(item, inner, action)

    def _replace_uids(self, dataset: Dataset, tag: BaseTag, action: Any) -> None:
        if action is None and keyword_for_tag(tag).endswith(("ClassUID", "TransferSyntaxUID")):
            return
        element = dataset[tag]
        values = element.value if element.VM > 1 else [element.value]
        made = [self._replaced(str(value)) for value in values if value]
        element.value = made if len(made) > 1 else (made[0] if made else "")

    def _replaced(self, uid: str) -> str:
        uid = uid.strip("\0 ")
        if is_registered(uid):
            return uid
        self.uids.add(uid)
        return self._pseudonym(uid)

    def _names_patient(self, dataset: Dataset, tag: BaseTag) -> bool:
        value = header.raw(dataset, tag).lower()
        return any(identifier in value for identifier in self._identifiers)

    def _is_identifier(self, dataset: Dataset, tag: BaseTag) -> bool:
        return any(one.strip() in self._identifiers for one in header.raw(dataset, tag).lower().split(b"\\"))


def _action(tag: BaseTag, vr: str | None) -> Any:
    """The library's action for the attribute; where the table has no row, by what it may hold. None: kept."""
    action = _SINGLE.get(int(tag))
    if action is not None or int(tag) in _CODE_VALUES:
        return action
    if vr in _LONG_TEXT or tag.group == 0x0010 or int(tag) in _ORDERS:
        return library.delete
    return library.replace if vr in ("DA", "DT", "TM") else None


def _tables() -> dict[int, Any]:
    # Rows with a mask are private, curves or overlays, all of which go.
    actions = library.initialize_actions(_TABLE)
    return {tag[0] << 16 | tag[1]: action for tag, action in actions.items() if len(tag) == 2}


_SINGLE = _tables()


def _is_beyond_table(tag: BaseTag) -> bool:
    is_curve_or_overlay = tag.group >> 8 in (0x50, 0x60)
    return tag.is_private or is_curve_or_overlay or tag.element == 0 or not dictionary_has_tag(tag)


def _vr(dataset: Dataset, tag: BaseTag) -> str | None:
    """As the file says, else the dictionary; None where it holds text in place of something else."""
    element = dataset.get_item(tag)
    said = element.VR if element is not None else None
    known = dictionary_VR(tag)
    if said is None or said == "UN":
        return known.partition(" ")[0]
    if said != known and said in _FREE_TEXT and known not in _FREE_TEXT:
        return None
    if (said == "UI") != (known == "UI") or (said == "SQ") != (known == "SQ"):
        return None
    return said


def _apply(dataset: Dataset, tag: BaseTag, action: Any) -> None:
    if (vr := dataset[tag].VR) in _DUMMY_TIMES:  # the library's are of the year 1, which validators refuse
        dataset[tag].value = "" if action is library.empty else _DUMMY_TIMES[vr]
        return
    try:
        action(dataset, (tag.group, tag.element))
    except NotImplementedError:  # a VR that the library has no dummy of
        del dataset[tag]


def _check(dataset: Dataset) -> None:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        if not dataset.get(keyword):
            raise InputRejected(NOT_DEIDENTIFIABLE, f"an image can't be de-identified: it has no {keyword}")
    if not any(tag in dataset for tag in _PIXELS):
        raise InputRejected(
            NOT_AN_IMAGE,
            "an object of the study is no image (a report, a document, a plan), and only images are "
            "de-identified; name a series of images",
        )
    said = str(dataset.get("BurnedInAnnotation", "")).strip().upper()
    sop_class = str(dataset.SOPClassUID)
    may_show = any(sop_class == one or sop_class.startswith(f"{one}.") for one in _OFTEN_BURNED_IN)
    is_screen = "SCREEN SAVE" in str(dataset.get("ImageType", "")).upper()
    if said == "YES" or (said != "NO" and (may_show or is_screen)):
        raise InputRejected(
            BURNED_IN,
            "the pixels of an image show the patient's name, or may: its Burned In Annotation is YES, or it is of "
            "a kind that must say NO; such images aren't given to algorithms with deidentify",
        )


def _patient(dataset: Dataset) -> str:
    """What tells patients apart, so that a series of two is still seen to be of two."""
    found = [header.raw(dataset, tag) or b"" for tag in (0x00100021, header.PATIENT_ID)]
    found = found if found[1] else [b"", header.raw(dataset, 0x00100010)]
    return "\\".join(part.decode("latin-1") for part in found) if found[1] else ""


def _identifiers(dataset: Dataset) -> tuple[bytes, ...]:
    """What the patient is called by, in lower case and in the file's own characters."""
    found = set(_pieces(dataset))
    return tuple(sorted(piece for piece in found if len(piece) >= _SHORTEST_IDENTIFIER))


def _pieces(dataset: Dataset) -> Iterator[bytes]:
    for tag in (0x00100010, 0x00101001, 0x00101005, 0x00101060):  # names
        for part in header.raw(dataset, tag).lower().replace(b"=", b"^").replace(b"\\", b"^").split(b"^"):
            yield part.strip()
            yield from part.split()
    for tag in (header.PATIENT_ID, 0x00101000, 0x00080050, 0x00380010):  # ids
        yield from (part.strip() for part in header.raw(dataset, tag).lower().split(b"\\"))


def _say_so(dataset: Dataset) -> None:
    """PS3.15 E.1.1, PS3.3 C.7.1.1 and C.12.1."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = _METHOD
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = [code]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def transfer_syntax(dataset: Dataset) -> UID:
    """What the file says, else what it was read by."""
    meta = getattr(dataset, "file_meta", None)
    said = meta.get("TransferSyntaxUID") if meta is not None else None
    if said:
        return UID(said)
    is_implicit, is_little = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
