"""A patient whose identifiers are everywhere in the images, and a search for them in bytes."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

ROOT = "1.2.276.0.7230010.3.99.4711"
STUDY, SERIES, FRAME = f"{ROOT}.1", f"{ROOT}.1.2", f"{ROOT}.7"
FAMILY, GIVEN, MIDDLE = "Grünwaldt", "Zoëline", "Quirinetta"
PATH = "GRUENWALDT_ZOELINE/ct-quirinetta"
PATIENT_ID, ACCESSION, STUDY_ID = "PID-77881234", "ACC99887766", "STD55443322"
BORN, TAKEN, AT = "19510317", "20230914", "134711.090807"
HOSPITAL, STATION, DEVICE = "Sankt Ottokar Spital", "OTTOKARCT1", "SN-OTTO-0815"
PHYSICIAN, STREET, PHONE = "Hagedornius", "Lindwurmgasse 12", "0049-89-123987"
IDENTIFIERS = (
    *(FAMILY, GIVEN, MIDDLE, "GRUENWALDT", "ZOELINE", PATIENT_ID, ACCESSION, STUDY_ID, BORN, TAKEN, AT),
    *(HOSPITAL, STATION, DEVICE, PHYSICIAN, STREET, PHONE, ROOT),
)


def images(count: int = 4) -> list[Any]:
    """A CT series of the patient."""
    return [_image(number) for number in range(count)]


def sop_uid(number: int) -> str:
    """Of the image with that number."""
    return f"{SERIES}.{number + 1}"


def _image(number: int) -> Any:
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    name = f"{FAMILY}^{GIVEN}^{MIDDLE}"
    image.SpecificCharacterSet = "ISO_IR 100"
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = name, PATIENT_ID, BORN, "F"
    image.OtherPatientIDs, image.OtherPatientNames = PATIENT_ID, name
    image.PatientAddress, image.PatientTelephoneNumbers = STREET, PHONE
    image.PatientComments = f"{FAMILY}, {STREET}"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = STUDY, SERIES, FRAME
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = sop_uid(number)
    image.InstanceCreatorUID = f"{ROOT}.8"
    image.AccessionNumber, image.StudyID = ACCESSION, STUDY_ID
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate"):
        setattr(image, keyword, TAKEN)
        setattr(image, keyword.replace("Date", "Time"), AT)
    image.AcquisitionDateTime = TAKEN + AT
    image.InstitutionName, image.StationName, image.DeviceSerialNumber = HOSPITAL, STATION, DEVICE
    image.InstitutionAddress = STREET
    image.ReferringPhysicianName = image.OperatorsName = image.PerformingPhysicianName = PHYSICIAN
    image.StudyDescription = f"Abdomen {FAMILY}"
    image.SeriesDescription = image.ProtocolName = f"for {PHYSICIAN}"
    image.ImageComments = f"{GIVEN} moved"
    image.ImagePositionPatient, image.InstanceNumber = [0, 0, 5.0 * number], number + 1
    # What no row of the profile's table mentions, and what only looking below the top level finds.
    image.WindowCenterWidthExplanation = f"WINDOW FOR {PATIENT_ID}"
    image.ReferencedImageSequence = [_reference(f"{ROOT}.5.{number}")]
    request = Dataset()
    request.ScheduledProcedureStepDescription = f"{FAMILY} abdomen"
    request.RequestingPhysician = PHYSICIAN
    image.RequestAttributesSequence = [request]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D4000", "SRT", "Abdomen"
    code.add_new(0x00411001, "LO", f"{FAMILY}")
    image.AnatomicRegionSequence = [code]
    image.private_block(0x0029, "OTTOKAR PACS", create=True).add_new(0x10, "LO", f"{name} {PATIENT_ID}")
    image.add_new(0x60003000, "OW", f"{FAMILY} {PATIENT_ID} ".encode("latin-1"))
    image.add_new(0x60000022, "LO", f"overlay of {FAMILY}")
    image.add_new(0x50003000, "OW", f"{FAMILY} {PATIENT_ID} ".encode("latin-1"))
    image.file_meta.SourceApplicationEntityTitle = STATION
    image.file_meta.PrivateInformationCreatorUID = f"{ROOT}.9"
    image.file_meta.PrivateInformation = f"{FAMILY}{PATIENT_ID}".encode("latin-1")
    image.preamble = f"{FAMILY} {PATIENT_ID}".encode("latin-1").ljust(128, b"\0")
    return image


def _reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    return item


def encoded(image: Any) -> bytes:
    """The file."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, image)
    return buffer.getvalue()


def found_in(data: bytes) -> set[str]:
    """The identifiers that are in ``data``, in any of the forms that bytes could have them."""
    return {one for one in IDENTIFIERS if any(re.search(form, data) for form in _forms(one))}


def _forms(identifier: str) -> Iterator[re.Pattern[bytes]]:
    # A pseudonym has 37 digits, so a date is one only where no other digit comes before it.
    before = rb"(?<![0-9])" if identifier.isdigit() else b""
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
        for text in {identifier, identifier.upper(), identifier.lower()}:
            content = text.encode(encoding)
            yield re.compile(before + re.escape(content), re.IGNORECASE)
            yield re.compile(before + content.hex().encode(), re.IGNORECASE)
            for shift, start in enumerate((0, 2, 3)):  # three forms, without the digits that the neighbours share
                coded = base64.b64encode(bytes(shift) + content)
                yield re.compile(re.escape(coded[start : (shift + len(content)) * 8 // 6]))
    for written in (quote(identifier), json.dumps(identifier)[1:-1]):
        yield re.compile(before + re.escape(written.encode()), re.IGNORECASE)
