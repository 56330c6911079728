"""Structured Reports (PS3.3 A.35.13, Comprehensive 3D SR) after TID 1500, Measurement Report (PS3.16).

One group of measurements for each segment (TID 1411), which refers to the segment in its segmentation and to the
series it was drawn on: volume in cubic centimetres and longest diameter in millimetres, in units of UCUM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from medical_image_processing.dicom import header, standard_object
from medical_image_processing.dicom.derived import MANUFACTURER, Making, made_from, made_uid
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.measure import Measurements, measure_segment
from medical_image_processing.dicom.segmentation import SEGMENTATION_STORAGE, Identity, concept, tracking_uid
from medical_image_processing.dicom.segments import Code, Segment, Segments
from medical_image_processing.errors import InputRejected

if TYPE_CHECKING:
    import highdicom

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
VOLUME = Code("118565006", "SCT", "Volume")
LONGEST_DIAMETER = Code("103339001", "SCT", "Long Axis")
"""CID 7470, Linear Measurements."""
CUBIC_CENTIMETRE = Code("cm3", "UCUM", "cubic centimeter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")

_SERIES_NUMBER = 9003
_IMAGE_ANALYSIS = Code("363679005", "SCT", "Imaging procedure")
_DEVICE = Code("121007", "DCM", "Device")
_ENGLISH = ("en-US", "English (United States)")


def write_measurement_report(image: Image, segments: Segments, making: Making) -> bytes:
    """The DICOM file of what is measured of ``segments``, which :func:`write_segmentation` writes.

    Raises :class:`InputRejected` ``NO_SPACING`` where the source doesn't say how far apart its pixels are, and
    what :func:`write_segmentation` raises of its source.
    """
    import highdicom

    if not image.knows_spacing[1]:
        raise InputRejected(
            "NO_SPACING",
            "The headers don't say how far apart pixels are, so nothing can be measured; "
            "leave SR out of the record's outputs.",
        )
    segmentation = Identity.of_segmentation(image, segments, making)
    sources = standard_object.bare_sources(image)
    origin, content = made_from(image, making), segmentation.instance_uid
    instance_uid = made_uid(*origin, content, "SR", "instance")
    with standard_object.stated():
        report = highdicom.sr.MeasurementReport(
            observation_context=_observer(making),
            procedure_reported=concept(_IMAGE_ANALYSIS),
            imaging_measurements=[
                _group(image, segments, segment, number, segmentation, making)
                for number, segment in enumerate(segments.described, 1)
            ],
            title=highdicom.sr.CodedConcept("126000", "DCM", "Imaging Measurement Report"),
            language_of_content_item_and_descendants=highdicom.sr.LanguageOfContentItemAndDescendants(
                language=highdicom.sr.CodedConcept(_ENGLISH[0], "RFC5646", _ENGLISH[1])
            ),
        )
        made = highdicom.sr.Comprehensive3DSR(
            evidence=[*sources, _evidence(sources[0], segmentation)],
            content=report,
            series_instance_uid=made_uid(*origin, "SR", "series"),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=instance_uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=making.algo_id,
            software_versions=making.software_versions,
            device_serial_number=standard_object.serial_number(making),
            is_complete=True,
        )
    return standard_object.finished(
        made, image, making, uids=(instance_uid,), description=making.series_description, is_image=False
    )


def _observer(making: Making) -> highdicom.sr.ObservationContext:
    import highdicom

    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=made_uid(making.algo_id, str(making.revision), making.image_digest, "device"),
        name=making.algo_id,
        manufacturer_name=MANUFACTURER,
        model_name=f"{making.algo_id}, revision {making.revision}"[:64],
        serial_number=making.image_digest or None,
    )
    context = highdicom.sr.ObserverContext(concept(_DEVICE), device)
    return highdicom.sr.ObservationContext(observer_device_context=context)


def _group(
    image: Image, segments: Segments, segment: Segment, number: int, segmentation: Identity, making: Making
) -> highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    import highdicom

    parameters = [f"image_digest={making.image_digest}"] if making.image_digest else None
    return highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=tracking_uid(image, making, number),
            identifier=f"{making.algo_id} {number}: {segment.label}"[:64],
        ),
        referenced_segment=highdicom.sr.ReferencedSegment(
            sop_class_uid=SEGMENTATION_STORAGE,
            sop_instance_uid=segmentation.instance_uid,
            segment_number=number,
            source_series=highdicom.sr.SourceSeriesForSegmentation(
                header.text(image.sources[0], header.SERIES_INSTANCE_UID)
            ),
        ),
        finding_type=concept(segment.type),
        finding_category=concept(segment.category),
        algorithm_id=highdicom.sr.AlgorithmIdentification(
            name=making.algo_id, version=f"{making.revision}", parameters=parameters
        ),
        measurements=_measurements(measure_segment(image, segments.numbers, number)),
    )


def _measurements(found: Measurements) -> list[highdicom.sr.Measurement]:
    import highdicom

    values = (
        (VOLUME, CUBIC_CENTIMETRE, None if found.volume_mm3 is None else found.volume_mm3 / 1000),
        (LONGEST_DIAMETER, MILLIMETRE, found.diameter_mm),
    )
    return [
        highdicom.sr.Measurement(name=concept(name), value=float(f"{value:.7g}"), unit=concept(unit))
        for name, unit, value in values
        if value is not None
    ]


def _evidence(source: Dataset, segmentation: Identity) -> Dataset:
    """The segmentation, as far as a report's evidence needs it."""
    item = Dataset()
    item.update(source)
    # New elements: the source's own must not be changed.
    item.add_new(header.SOP_CLASS_UID, "UI", SEGMENTATION_STORAGE)
    item.add_new(header.SOP_INSTANCE_UID, "UI", segmentation.instance_uid)
    item.add_new(header.SERIES_INSTANCE_UID, "UI", segmentation.series_uid)
    item.add_new(header.MODALITY, "CS", "SEG")
    return item
