"""Objects that highdicom builds: what it is told of the source, and how the file is finished.

highdicom gets bare sources, with UIDs and geometry only. What identifies patient and study is put into the file
afterwards, byte for byte as the source has it: no name is parsed, converted or warned about on the way (law A3).
Times and UIDs that highdicom would invent are replaced, so that the same job makes the same bytes.

Importing highdicom takes a third of a second, so only functions that need it do.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from medical_image_processing.dicom import header
from medical_image_processing.dicom.derived import Making, carried_on, contributing_equipment, made_uid
from medical_image_processing.dicom.encode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from medical_image_processing.dicom.image import Image, as_slices
from medical_image_processing.dicom.normal import Vector
from medical_image_processing.errors import InputRejected

_PATIENT_AND_STUDY_END = 0x0020001F
_BLANK = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_LOSSY = (0x00282110, 0x00282112, 0x00282114)
_PATIENT_ORIENTATION = 0x00200020

# It quotes values of headers when it warns.
logging.getLogger("highdicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"highdicom\.")


def bare_sources(image: Image) -> list[Dataset]:
    """Stand-ins for ``image``'s sources: one for each slice, or the one object that holds them all as frames.

    Raises :class:`InputRejected` ``NO_GEOMETRY`` where slices don't say where they lie, or how far apart their
    pixels are, ``NO_IDENTITY`` where a source lacks a UID by which it could be referred to.
    """
    if image.is_placed and not image.knows_spacing[1]:
        raise InputRejected(
            "NO_GEOMETRY",
            "The headers don't say how far apart pixels are, so no segmentation can lie where they do; "
            "ask for SC alone.",
        )
    if image.is_volume and not image.is_placed:
        raise InputRejected(
            "NO_GEOMETRY",
            "The headers don't say where each slice lies, which a segmentation of several slices needs; "
            "send single images, or ask for SC alone.",
        )
    common = _common(image)
    if len(image.sources) == 1:
        (bare,) = _with_identities(common, image)
        _place_frames(bare, image)
        if image.is_placed and not image.is_volume:
            bare.ImagePositionPatient = [_ds(millimetres) for millimetres in image.corners[0]]
        return [bare]
    bare_ones = _with_identities(common, image)
    for bare, corner in zip(bare_ones, image.corners, strict=True):
        bare.add_new(header.IMAGE_POSITION, "DS", [_ds(millimetres) for millimetres in corner])
    return bare_ones


def finished(
    made: Dataset, image: Image, making: Making, *, uids: Iterable[str], description: str, is_image: bool
) -> bytes:
    """The DICOM file of what highdicom ``made``. ``uids``: what its invented UIDs are made from instead."""
    # The file is this implementation's, whatever library it was built with.
    made.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    made.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    _set_times(made, making)
    made.SeriesDescription = description[:64]
    _replace_invented_uids(made, tuple(uids))
    if is_image:
        _drop_invented_measures(made, image)
    # An image without a plane in the patient says how it is turned, or that nobody knows (PS3.3 C.7.6.1).
    of_image = (*_LOSSY, *(() if image.is_placed else (_PATIENT_ORIENTATION,)))
    for tag, encoded in {**carried_on(image, making), **contributing_equipment(making)}.items():
        if tag <= _PATIENT_AND_STUDY_END or (is_image and tag in of_image):
            made[Tag(tag)] = _raw(tag, encoded)
    file = io.BytesIO()
    made.save_as(file)
    return file.getvalue()


@contextmanager
def stated() -> Iterator[None]:
    """What highdicom can't make of a source becomes :class:`InputRejected` ``NOT_SEGMENTABLE``."""
    try:
        yield
    except InputRejected:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        # Its messages may quote the header: only the class goes on, and the traceback without them.
        raise InputRejected(
            "NOT_SEGMENTABLE",
            "The source's header has something that no segmentation or report can refer to; ask for SC alone, "
            "or check the file's source.",
        ) from error


def serial_number(making: Making) -> str:
    """In the place of a device's serial number (LO, 64 characters) the image's digest, where it is known."""
    return making.image_digest.rpartition(":")[2][:64] or f"{making.algo_id} {making.revision}"[:64]


def _common(image: Image) -> Dataset:
    """What the bare sources have in common; patient and study are blank."""
    first = image.sources[0]
    common = Dataset()
    common.StudyInstanceUID = header.text(first, header.STUDY_INSTANCE_UID)
    common.SeriesInstanceUID = header.text(first, header.SERIES_INSTANCE_UID)
    common.Rows, common.Columns = image.pixels.shape[-2:]
    common.Modality = image.modality
    for keyword in _BLANK:
        setattr(common, keyword, "")
    if image.is_placed:
        common.FrameOfReferenceUID = header.text(first, header.FRAME_OF_REFERENCE_UID) or made_uid(
            common.SeriesInstanceUID, "frame of reference"
        )
        common.PositionReferenceIndicator = header.text(first, header.POSITION_REFERENCE_INDICATOR)
        common.ImageOrientationPatient = [_ds(cosine) for cosine in image.orientation or ()]
    _measure(common, image)
    return common


def _with_identities(common: Dataset, image: Image) -> list[Dataset]:
    """``common`` for each source, with its UIDs. They share elements: a series has hundreds."""
    elements = list(common)
    bare_ones = []
    for source in image.sources:
        sop_class, instance = header.sop_class_uid(source), header.sop_instance_uid(source)
        if not (sop_class and instance and common.StudyInstanceUID and common.SeriesInstanceUID):
            raise InputRejected(
                "NO_IDENTITY",
                "The source lacks its study, series or instance UID, so no segmentation or report can refer "
                "to it; ask for SC alone, or give the files their UIDs.",
            )
        bare = Dataset()
        for element in elements:
            bare.add(element)
        bare.add_new(header.SOP_CLASS_UID, "UI", sop_class)
        bare.add_new(header.SOP_INSTANCE_UID, "UI", instance)
        bare_ones.append(bare)
    return bare_ones


def _measure(item: Dataset, image: Image) -> None:
    between, rows, columns = image.spacing
    item.PixelSpacing = [_ds(rows), _ds(columns)]
    thickness = header.number(image.sources[0], header.SLICE_THICKNESS, 0.0) or between
    item.SliceThickness = _ds(abs(thickness))
    if image.is_volume and image.is_placed and not image.gaps:
        item.SpacingBetweenSlices = _ds(between)


def _place_frames(bare: Dataset, image: Image) -> None:
    """Functional groups (PS3.3 C.7.6.16) that say where the frames lie, in the order of the file."""
    bare.NumberOfFrames = len(as_slices(image.pixels))
    measures, shared = Dataset(), Dataset()
    _measure(measures, image)
    shared.PixelMeasuresSequence = [measures]
    if image.is_placed:
        plane = Dataset()
        plane.ImageOrientationPatient = [_ds(cosine) for cosine in image.orientation or ()]
        shared.PlaneOrientationSequence = [plane]
        bare.PerFrameFunctionalGroupsSequence = [_frame_group(corner) for corner in in_file_order(image)]
    bare.SharedFunctionalGroupsSequence = [shared]


def in_file_order(image: Image) -> list[Vector]:
    """The corners of a multi-frame object's frames as they are in the file."""
    corners = list(image.corners)
    for index, frame in enumerate(image.frames):
        corners[frame] = image.corners[index]
    return corners


def _frame_group(corner: Vector) -> Dataset:
    position, group = Dataset(), Dataset()
    position.ImagePositionPatient = [_ds(millimetres) for millimetres in corner]
    group.PlanePositionSequence = [position]
    return group


def _set_times(made: Dataset, making: Making) -> None:
    for day, moment in (("InstanceCreationDate", "InstanceCreationTime"), ("ContentDate", "ContentTime")):
        if day in made:
            setattr(made, day, making.date)
            setattr(made, moment, making.time)


def _replace_invented_uids(made: Dataset, parts: tuple[str, ...]) -> None:
    organization = made_uid(*parts, "dimension organization")
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(keyword) or ():
            item.DimensionOrganizationUID = organization


def _drop_invented_measures(made: Dataset, image: Image) -> None:
    """highdicom always writes Pixel Measures, which only a frame of reference needs (PS3.3 A.51.5)."""
    shared = made.SharedFunctionalGroupsSequence[0]
    if not image.knows_spacing[1]:
        del shared.PixelMeasuresSequence
    elif not image.is_placed and not _knows_thickness(image):
        del shared.PixelMeasuresSequence[0].SliceThickness


def _knows_thickness(image: Image) -> bool:
    return image.knows_spacing[0] or header.number(image.sources[0], header.SLICE_THICKNESS, 0.0) > 0


def _raw(tag: int, encoded: bytes) -> RawDataElement:
    """An element of :mod:`~medical_image_processing.dicom.encode` as pydicom writes it unchanged."""
    vr = encoded[4:6].decode()
    start = 12 if vr in ("OB", "OW", "SQ") else 8
    value = encoded[start:]
    return RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def _ds(number: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2) that is as near as those allow."""
    for digits in range(16, 5, -1):
        text = f"{number:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{number:.6g}"
