"""Results on their way back to the patient: all of it is mapped, or nothing is made."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

import identified
from identified import ROOT, SERIES, STUDY, sop_uid
from medical_image_processing.errors import PermanentError
from medical_image_processing.pacs.deidentify import deidentify
from medical_image_processing.pacs.reidentify import read_result, reidentify

SOURCE = identified.encoded(identified.images(1)[0])
OWN = "2.25.77001"


def pseudonym(name: str) -> str:
    return f"2.25.{int.from_bytes(name.encode(), 'big') % 10**36}"


SEEN = deidentify(SOURCE, pseudonym)
REAL = {pseudonym(uid): uid for uid in {*SEEN.uids, sop_uid(1), sop_uid(2)}}


def result(change: Callable[[Any], None] = lambda _: None, own: str = OWN) -> bytes:
    """What a simple algorithm makes: its input with other pixels, a series and an instance of its own."""
    made = pydicom.dcmread(io.BytesIO(SEEN.data))
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = own
    made.SeriesInstanceUID = f"{own}.1"
    made.SeriesDescription = "a result"
    made.SourceImageSequence = [reference(pseudonym(sop_uid(number))) for number in range(2)]
    change(made)
    return identified.encoded(made)


def reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    return item


def given_back(*results: bytes) -> list[Any]:
    return [pydicom.dcmread(io.BytesIO(one)) for one in files(*results)]


def files(*results: bytes) -> list[bytes]:
    made = reidentify([read_result(io.BytesIO(one)) for one in results], SOURCE, SEEN.data, REAL)
    assert [b"".join(one.pieces()) for one in made] == [b"".join(one.pieces()) for one in made]
    return [b"".join(one.pieces()) for one in made]


def refusal(*results: bytes) -> str:
    with pytest.raises(PermanentError) as refused:
        given_back(*results)
    return refused.value.code


def test_a_copy_of_the_input_is_of_the_patient_again() -> None:
    [made] = given_back(result())
    original = identified.images(1)[0]
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
        *("ReferringPhysicianName", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDescription"),
        *("SeriesDate", "AcquisitionTime", "InstitutionName", "StationName"),
    ):
        assert made[keyword].value == original[keyword].value, keyword
    assert (made.SOPInstanceUID, made.SeriesInstanceUID) == (OWN, f"{OWN}.1"), "its own stay"
    assert made.file_meta.MediaStorageSOPInstanceUID == OWN
    assert [item.ReferencedSOPInstanceUID for item in made.SourceImageSequence] == [sop_uid(0), sop_uid(1)]
    assert made.SeriesDescription == "a result"
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"):
        assert keyword not in made


def test_uids_at_any_depth_and_among_several_values_are_mapped() -> None:
    def nest(made: Any) -> None:
        deep, series, study = Dataset(), Dataset(), Dataset()
        deep.ReferencedSOPSequence = [reference(pseudonym(sop_uid(2)))]
        series.SeriesInstanceUID, series.ReferencedSeriesSequence = pseudonym(SERIES), [deep]
        study.StudyInstanceUID, study.ReferencedSeriesSequence = pseudonym(STUDY), [series]
        made.CurrentRequestedProcedureEvidenceSequence = [study]
        made.IrradiationEventUID = [pseudonym(f"{ROOT}.8"), "1.2.3"]

    [made] = given_back(result(nest))
    study = made.CurrentRequestedProcedureEvidenceSequence[0]
    series = study.ReferencedSeriesSequence[0]
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY, SERIES)
    deep = series.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert deep.ReferencedSOPInstanceUID == sop_uid(2)
    assert list(made.IrradiationEventUID) == [f"{ROOT}.8", "1.2.3"]


def test_one_result_may_refer_to_another() -> None:
    def refer(made: Any) -> None:
        made.SourceImageSequence.append(reference("2.25.77002"))

    first, second = given_back(result(refer), result(own="2.25.77002"))
    assert first.SourceImageSequence[2].ReferencedSOPInstanceUID == second.SOPInstanceUID
    assert refusal(result(refer)) == "RESULT_UNKNOWN_UID", "alone it refers to nothing"


def test_the_same_again_is_the_same_bytes() -> None:
    assert files(result()) == files(result())


def test_other_characters_than_the_sources_are_both_kept() -> None:
    def in_japanese(made: Any) -> None:
        made.SpecificCharacterSet = "ISO_IR 192"
        made.SeriesDescription = "肝臓"

    [made] = given_back(result(in_japanese))
    assert made.SeriesDescription == "肝臓"
    assert made.PatientName == identified.images(1)[0].PatientName


def study_of_its_own(made: Any) -> None:
    made.StudyInstanceUID = "2.25.123"


def no_study(made: Any) -> None:
    del made.StudyInstanceUID


def refers_to_other_study(made: Any) -> None:
    study = Dataset()
    study.StudyInstanceUID = pseudonym(f"{ROOT}.8")
    made.CurrentRequestedProcedureEvidenceSequence = [study]


def refers_to_unknown(made: Any) -> None:
    made.SourceImageSequence.append(reference("1.2.3.4"))


def refers_to_unknown_series(made: Any) -> None:
    made.ReferencedSeriesSequence = [Dataset()]
    made.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (study_of_its_own, "RESULT_OF_OTHER_STUDY"),
        (no_study, "RESULT_OF_OTHER_STUDY"),
        (refers_to_other_study, "RESULT_OF_OTHER_STUDY"),
        (refers_to_unknown, "RESULT_UNKNOWN_UID"),
        (refers_to_unknown_series, "RESULT_UNKNOWN_UID"),
    ],
)
def test_what_cant_be_mapped_whole_is_not_made(change: Callable[[Any], None], code: str) -> None:
    assert refusal(result(change)) == code
    assert refusal(result(own="2.25.5"), result(change)) == code, "none of the job's is"


@pytest.mark.parametrize(
    "data", [b"", b"{}", result()[:200], result()[:9000]], ids=["empty", "JSON", "head", "cut"]
)
def test_what_is_no_dicom_is_refused(data: bytes) -> None:
    assert refusal(data) == "NOT_DICOM"


def test_a_head_that_never_ends_is_refused() -> None:
    """It would have to lie in memory."""

    def swell(made: Any) -> None:
        made.private_block(0x0029, "BIG", create=True).add_new(0x10, "OB", bytes(2**28))

    assert refusal(result(swell)) == "NOT_DICOM"


def test_pixels_are_not_looked_at_and_stay() -> None:
    def paint(made: Any) -> None:
        made.PixelData = bytes(range(256)) * 128

    [made] = given_back(result(paint))
    assert made.PixelData == bytes(range(256)) * 128
