"""One instance without its patient: the Basic Profile of PS3.15, judged by what survives of what was planted."""

from __future__ import annotations

import asyncio
import io
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from dicomanonymizer import simpledicomanonymizer as library
from pacs_support import serve_deidentified
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

import identified
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.pseudonyms import SqlitePseudonyms
from medical_image_processing.errors import InputRejected
from medical_image_processing.pacs.deidentify import deidentify
from medical_image_processing.pacs.folder import FolderIndex
from medical_image_processing.pacs.folder_archive import FolderArchive
from medical_image_processing.pacs.links import LinkSigner
from orthanc import running_orthanc

TEXT = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
TABLE = {tag[0] << 16 | tag[1] for tag in library.initialize_actions("dicomfields_2026c") if len(tag) == 2}
SECONDARY_CAPTURE, ULTRASOUND = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.1"


def pseudonym(name: str) -> str:
    return f"2.25.{int.from_bytes(name.encode()[-8:], 'big')}"


def without(data: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(deidentify(data, pseudonym).data))


def image(**changes: Any) -> Any:
    made = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return made


def refusal(made: Any) -> InputRejected:
    with pytest.raises(InputRejected) as refused:
        deidentify(made if isinstance(made, bytes) else identified.encoded(made), pseudonym)
    assert identified.found_in(str(refused.value).encode()) == set()
    return refused.value


def planted() -> bytes:
    """A CT image in which every attribute of the standard that holds text or a UID says which one it is."""
    made = image()
    made.remove_private_tags()
    for tag, (vr, *_) in DicomDictionary.items():
        is_structure = tag >> 16 in (0x0000, 0x0002, 0x0004) or tag >> 16 >= 0x7F00
        if is_structure or tag in made or tag == 0x00080005:
            continue
        if vr in TEXT:
            made.add_new(tag, vr, plant(tag))
        elif vr == "UI":
            made.add_new(tag, vr, plant_uid(tag))
    made.BurnedInAnnotation = "NO"
    return identified.encoded(made)


def plant(tag: int) -> str:
    return f"PLANT{tag:08X}"


def plant_uid(tag: int) -> str:
    return f"1.2.999.{tag}"


def survivors(data: bytes) -> set[int]:
    found = pydicom.dcmread(io.BytesIO(data))
    return {int(one.tag) for one in found if str(one.value) in (plant(int(one.tag)), plant_uid(int(one.tag)))}


def test_no_attribute_of_the_profiles_table_survives() -> None:
    data = planted()
    assert len(survivors(data) & TABLE) > 300, "they were there"
    assert survivors(deidentify(data, pseudonym).data) & TABLE == set()


@pytest.mark.needs("Orthanc", "setpriv")
def test_nothing_survives_that_orthanc_takes_out(tmp_path: Path) -> None:
    data = planted()
    with running_orthanc(tmp_path) as orthanc:
        uid = orthanc.client.post("/instances", content=data).json()["ID"]
        # The newest profile that this Orthanc has.
        answer = orthanc.client.post(f"/instances/{uid}/anonymize", json={"DicomVersion": "2021b"})
        assert answer.status_code == 200, answer.text
    kept = survivors(answer.content)
    assert len(kept) < len(survivors(data))
    assert survivors(deidentify(data, pseudonym).data) - kept == set()


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.name,
)
def test_no_identifier_is_left_whatever_the_transfer_syntax(syntax: Any) -> None:
    original = identified.images(1)[0]
    is_implicit, is_little = syntax.is_implicit_VR, syntax.is_little_endian
    if not is_little:
        for tag in (0x60003000, 0x50003000):
            del original[tag]
        original.PixelData = bytes(len(original.PixelData))
    original.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, original, implicit_vr=is_implicit, little_endian=is_little, force_encoding=True)
    made = deidentify(buffer.getvalue(), pseudonym)
    read = pydicom.dcmread(io.BytesIO(made.data))
    assert read.file_meta.TransferSyntaxUID == syntax
    assert read.PixelData == original.PixelData, "pixels are handed on as they are"
    assert identified.found_in(made.data) == set()
    if syntax is DeflatedExplicitVRLittleEndian:
        read.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        assert identified.found_in(identified.encoded(read)) == set()


def test_the_file_says_what_was_done() -> None:
    made = without(identified.encoded(identified.images(1)[0]))
    assert made.PatientIdentityRemoved == "YES"
    assert made.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert made.LongitudinalTemporalInformationModified == "REMOVED"
    assert set(made.file_meta.keys()) == {0x00020000 + element for element in (0, 1, 2, 3, 0x10, 0x12, 0x13)}
    assert made.preamble == bytes(128)


def test_a_uid_is_the_same_pseudonym_wherever_it_stands() -> None:
    first, second = identified.images(2)
    second.ReferencedImageSequence[0].ReferencedSOPInstanceUID = first.SOPInstanceUID
    uids = deidentify(identified.encoded(second), pseudonym).uids
    one, other = without(identified.encoded(first)), without(identified.encoded(second))
    assert other.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert (other.StudyInstanceUID, other.SeriesInstanceUID) == (one.StudyInstanceUID, one.SeriesInstanceUID)
    assert other.FrameOfReferenceUID == one.FrameOfReferenceUID
    assert {identified.STUDY, identified.SERIES, identified.FRAME, str(first.SOPInstanceUID)} <= uids
    assert other.SOPClassUID == second.SOPClassUID


def test_what_an_algorithm_needs_stays() -> None:
    original = identified.images(1)[0]
    made = without(identified.encoded(original))
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "Modality", "KVP"),
        *("RescaleSlope", "RescaleIntercept", "Rows", "ImageType", "Manufacturer", "ConvolutionKernel"),
    ):
        assert made[keyword].value == original[keyword].value, keyword
    assert made.AnatomicRegionSequence[0].CodeValue == "T-D4000"


def test_two_patients_are_still_two() -> None:
    one, other = (without(identified.encoded(image(PatientID=name))) for name in ("A1", "A2"))
    assert one.PatientID and other.PatientID and one.PatientID != other.PatientID


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00101022, "DS", "31.4"),
        (0x00401006, "SH", "PLC-778812"),
        (0x00401007, "SH", "FIL-778812"),
        (0x00402006, "SH", "PLC-778813"),
        (0x00402007, "SH", "FIL-778813"),
        (0x00181003, "LO", "DEV-9981"),
        (0x00180015, "CS", "ROSSINI"),
        (0x00080008, "CS", ["ORIGINAL", "PID12345"]),
    ],
    ids=[
        *("Patient's Body Mass Index", "Placer Order Number / Procedure", "Filler Order Number / Procedure"),
        *("Placer Order Number", "Filler Order Number", "Device ID", "a name as a code", "an id as a code"),
    ],
)
def test_what_the_table_has_no_row_for_and_yet_tells_who_it_is_goes(tag: int, vr: str, value: Any) -> None:
    made = image(PatientName="Rossini^Maria", PatientID="PID12345")
    made.add_new(tag, vr, value)
    assert tag not in without(identified.encoded(made))


def test_codes_that_are_no_identifier_stay() -> None:
    """One that contains a name is a word of the standard: a patient may be called Head."""
    made = image(PatientName="Head^Axia", PatientID="1234", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    assert without(identified.encoded(made)).ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]


def test_text_where_a_number_belongs_goes() -> None:
    made = image()
    del made.SliceThickness
    made.add_new(0x00180050, "LO", "Grünwaldt")
    assert "SliceThickness" not in without(identified.encoded(made))


@pytest.mark.parametrize(
    "changes",
    [
        {"BurnedInAnnotation": "YES"},
        {"SOPClassUID": SECONDARY_CAPTURE},
        {"SOPClassUID": f"{SECONDARY_CAPTURE}.4"},
        {"SOPClassUID": ULTRASOUND},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ],
    ids=["said", "secondary capture", "multi-frame capture", "ultrasound", "screen"],
)
def test_pixels_that_may_show_a_name_are_not_given_out(changes: dict[str, Any]) -> None:
    assert refusal(image(**changes)).code == "BURNED_IN_ANNOTATION"


def test_a_capture_that_says_that_it_shows_no_name_is_given_out() -> None:
    assert without(identified.encoded(image(SOPClassUID=SECONDARY_CAPTURE, BurnedInAnnotation="NO")))


@pytest.mark.parametrize("missing", ["PixelData", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_what_is_no_image_or_has_no_identity_is_not_given_out(missing: str) -> None:
    made = image()
    delattr(made, missing)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=False)
    expected = "NOT_AN_IMAGE" if missing == "PixelData" else "NOT_DEIDENTIFIABLE"
    assert refusal(buffer.getvalue()).code == expected


@pytest.mark.parametrize("data", [b"", b"no DICOM at all", planted()[:3000]], ids=["empty", "other", "cut"])
def test_what_cant_be_read_is_not_given_out(data: bytes) -> None:
    assert refusal(data).code == "NOT_DEIDENTIFIABLE"


def bomb() -> bytes:
    """A deflated file of 300 KB that inflates to over 256 MiB."""
    made = image()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    made.file_meta.ImplementationVersionName = "x" * 2000
    made.PixelData = bytes(2**28 + 2**20)
    return identified.encoded(made)


def test_a_file_that_inflates_without_bounds_is_not_given_out() -> None:
    data = bomb()
    assert len(data) < 2**20
    tracemalloc.start()
    try:
        assert refusal(data).code == "NOT_DEIDENTIFIABLE"
        assert tracemalloc.get_traced_memory()[1] < 2**30
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("is_same", [True, False], ids=["the same", "another"])
def test_of_files_that_share_their_uids_none_is_given_out_by_link(tmp_path: Path, is_same: bool) -> None:
    """Where pseudonyms are of paths, these tell the files apart; the links are made of UIDs, which don't."""
    folder, names = tmp_path / "pacs", ("one", "two")
    for name in names:
        path = folder / name / "s" / "i.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(identified.encoded(image(PatientID="one" if is_same else name)))
    database, index = Database(tmp_path / "mip.db"), FolderIndex(folder, min_interval_s=0.01)
    pseudonyms = SqlitePseudonyms(database, secret=bytes(32))
    index.start()
    try:
        asyncio.run(pseudonyms.keep([*names, "s", "i"]))
        with serve_deidentified(FolderArchive(index, LinkSigner()), pseudonyms) as pacs:
            for name in names:
                study, series, one = map(pseudonyms.of, (name, "s", "i"))
                answer = httpx.get(pacs.link(f"/studies/{study}/images/{series}/{one}"), timeout=15)
                if is_same:
                    assert pydicom.dcmread(io.BytesIO(answer.content)).PatientIdentityRemoved == "YES"
                else:
                    assert answer.json()["error"]["code"] == "NOT_DEIDENTIFIABLE"
    finally:
        index.close()
        asyncio.run(database.close())


@pytest.mark.needs("dciodvfy")
def test_it_is_as_valid_as_it_was(tmp_path: Path) -> None:
    """The profile asks for values that keep the object conformant."""
    original = identified.encoded(identified.images(1)[0])
    before, after = (errors(tmp_path, data) for data in (original, deidentify(original, pseudonym).data))
    assert after <= before, after - before


def errors(folder: Path, data: bytes) -> set[str]:
    file = folder / "image.dcm"
    file.write_bytes(data)
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, timeout=60).stderr.decode("latin-1")
    return {line for line in said.splitlines() if line.startswith("Error")}
