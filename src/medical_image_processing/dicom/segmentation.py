"""Segmentations (PS3.3 A.51): BINARY, on the grid of the source, each frame where its slice lies.

Frames in which a segment has no pixel are left out (unless all are empty), as PS3.3 C.8.20.2 has it: what isn't
there isn't part of the segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medical_image_processing.dicom import standard_object
from medical_image_processing.dicom.derived import MANUFACTURER, Making, content_digest, made_from, made_uid
from medical_image_processing.dicom.image import Image, Pixels
from medical_image_processing.dicom.segments import Code, Segment, Segments

if TYPE_CHECKING:
    import highdicom

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_SERIES_NUMBER = 9002


@dataclass(frozen=True)
class Identity:
    """The UIDs of one object: always the same for the same job, revision, source and content."""

    series_uid: str
    instance_uid: str

    @classmethod
    def of_segmentation(cls, image: Image, segments: Segments, making: Making) -> Identity:
        """Of the segmentation of ``segments``; a report may refer to it before it is written."""
        origin = made_from(image, making)
        content = content_digest(segments.numbers)
        described = repr(segments.described)
        return cls(made_uid(*origin, "SEG", "series"), made_uid(*origin, content, described, "SEG", "instance"))


def write_segmentation(image: Image, segments: Segments, making: Making) -> bytes:
    """The DICOM file of ``segments``, which lie on ``image``'s grid.

    Raises ValueError if shapes differ, and for sources that no segmentation can refer to :class:`InputRejected`
    ``NO_IDENTITY``, ``NO_GEOMETRY``, ``NOT_SEGMENTABLE``.
    """
    if segments.numbers.shape != image.pixels.shape:
        raise ValueError(f"the segments have shape {segments.numbers.shape}, the image {image.pixels.shape}")
    import highdicom

    identity = Identity.of_segmentation(image, segments, making)
    sources = standard_object.bare_sources(image)
    with standard_object.stated():
        made = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=_in_file_order(image, segments.numbers),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(number, segment, segments.family, making, tracking_uid(image, making, number))
                for number, segment in enumerate(segments.described, 1)
            ],
            series_instance_uid=identity.series_uid,
            series_number=_SERIES_NUMBER,
            sop_instance_uid=identity.instance_uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=making.algo_id,
            software_versions=making.software_versions,  # type: ignore[arg-type]  # annotated as one alone
            device_serial_number=standard_object.serial_number(making),
            content_description=making.series_description[:64],
            content_label="SEGMENTATION",
            omit_empty_frames=True,
        )
    return standard_object.finished(
        made,
        image,
        making,
        uids=(identity.instance_uid,),
        description=making.series_description,
        is_image=True,
    )


def _in_file_order(image: Image, numbers: Pixels) -> Pixels:
    if not image.frames:
        return numbers
    ordered = np.empty_like(numbers)
    ordered[list(image.frames)] = numbers
    return ordered


def tracking_uid(image: Image, making: Making, number: int) -> str:
    """The UID that a segment and what is measured of it have in common (PS3.3 C.8.20.2, TID 4108)."""
    return made_uid(*made_from(image, making), "segment", str(number))


def _description(
    number: int, segment: Segment, family: Code, making: Making, tracking: str
) -> highdicom.seg.SegmentDescription:
    """Segment Description with the algorithm's identification (PS3.3 C.8.20.2, 10.16)."""
    import highdicom

    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=making.algo_id,
            family=concept(family),
            version=f"{making.revision}"[:64],
            parameters={"image_digest": making.image_digest} if making.image_digest else None,
        ),
        tracking_uid=tracking,
        tracking_id=f"{making.algo_id} {number}: {segment.label}"[:64],
    )


def concept(code: Code) -> highdicom.sr.CodedConcept:
    """``code`` as highdicom takes it."""
    import highdicom

    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)
