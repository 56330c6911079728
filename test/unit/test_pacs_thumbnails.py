"""Small pictures of series, and the search for one."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pacs_support import KEY, draw, serve, write_image
from pydicom.data import get_testdata_file, get_testdata_files

from medical_image_processing.dicom.picture import THUMBNAIL_SIDE
from medical_image_processing.errors import InputRejected


def ct(**changes: object) -> bytes:
    """pydicom's CT_small with other elements."""
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for name, value in changes.items():
        setattr(image, name, value)
    file = pydicom.filebase.DicomBytesIO()
    image.save_as(file)
    return bytes(file.getvalue())


def picture(png: bytes) -> np.ndarray:
    """Its pixels, gray."""
    assert png.startswith(b"\x89PNG")
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None and decoded.ndim == 2
    return decoded


def test_a_series_thumbnail_is_its_middle_image_kept_by_the_browser_and_on_record(tmp_path: Path) -> None:
    sops = [write_image(tmp_path / f"s/{at}.dcm", "1.2", "1.2.3", z=float(at)) for at in range(5)]
    with serve(tmp_path, for_operator=True) as pacs:
        first = pacs.get("/thumbnail?study_id=1.2&series_id=1.2.3")
        kept = pacs.get("/thumbnail?study_id=1.2&series_id=1.2.3", **{"if-none-match": first.headers["etag"]})
        by_path = pacs.get("/thumbnail?study_id=s&series_id=s")
        write_image(tmp_path / "s/2.dcm", "1.2", "1.2.3", z=2.0)
        pacs.get("/studies/1.9/images")  # what is unknown is looked for in the folder as it is now
        changed = pacs.get("/thumbnail?study_id=1.2&series_id=1.2.3", **{"if-none-match": first.headers["etag"]})

    assert (first.status_code, first.headers["content-type"]) == (200, "image/png")
    assert first.headers.get_list("cache-control") == ["private, no-cache"]
    assert max(picture(first.content).shape) == THUMBNAIL_SIDE
    assert (kept.status_code, kept.content) == (304, b"")
    assert changed.status_code == 200 and changed.headers["etag"] != first.headers["etag"]
    assert by_path.status_code == 404
    assert pacs.accesses[0] == ("algo_1", [("1.2", "1.2.3", sops[2])], None)
    assert len(pacs.accesses) == 2, "a picture that the browser had is not read again"


def test_who_has_no_key_or_asks_for_what_is_not_there_gets_no_picture(tmp_path: Path) -> None:
    write_image(tmp_path / "s/1.dcm", "1.2", "1.2.3")
    report = pydicom.dcmread(get_testdata_file("test-SR.dcm"))
    report.StudyInstanceUID, report.SeriesInstanceUID = "1.2", "1.2.9"
    report.save_as(tmp_path / "s/report.dcm")
    with serve(tmp_path, for_operator=True) as pacs:
        answers = {
            query: pacs.get(f"/thumbnail?{query}")
            for query in (
                "study_id=1.2&series_id=1.2.9",
                "study_id=1.2&series_id=1.2.8",
                "study_id=9&series_id=1",
                "study_id=1.2",
                "study_id=../x&series_id=1",
            )
        }
        refused = pacs.client.get("/thumbnail?study_id=1.2&series_id=1.2.3", headers={"x-api-key": "wrong"})
    with serve(tmp_path) as pacs:
        assert pacs.get("/thumbnail?study_id=1.2&series_id=1.2.3").status_code == 404, "not for algorithms"

    codes = [(answer.status_code, answer.json()["error"]["code"]) for answer in answers.values()]
    assert codes == [
        (404, "NO_PICTURE"),
        (404, "SERIES_NOT_FOUND"),
        (404, "STUDY_NOT_FOUND"),
        (422, "INVALID_QUERY"),
        (422, "INVALID_ID"),
    ]
    assert refused.status_code == 401 and KEY not in refused.text


def test_the_window_is_the_headers_and_what_is_inverted_is_shown_right() -> None:
    plain = picture(draw(ct(WindowCenter=0, WindowWidth=400)))
    wide = picture(draw(ct(WindowCenter="0", WindowWidth="4000")))
    inverted = picture(draw(ct(WindowCenter=0, WindowWidth=400, PhotometricInterpretation="MONOCHROME1")))
    assert plain.std() > 2 * wide.std()
    assert (inverted == 255 - plain).all()
    soft_tissue = picture(draw(ct()))
    for center, width in (("", ""), ("0", "0"), ("1e300", "1"), ("0", "-5")):
        assert (picture(draw(ct(WindowCenter=center, WindowWidth=width))) == soft_tissue).all()
    nonsense = ct(WindowCenter="12345678", WindowWidth="100").replace(b"12345678", b"xxxxxxxx")
    assert (picture(draw(nonsense)) == soft_tissue).all()


def test_pictures_have_the_true_proportions() -> None:
    tall = picture(draw(ct(PixelSpacing=[2.0, 1.0])))
    assert tall.shape == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)
    needle = picture(draw(ct(PixelSpacing=[1000.0, 0.001])))
    assert needle.shape == (THUMBNAIL_SIDE, 1)


@pytest.mark.parametrize("name", sorted(Path(name).name for name in get_testdata_files("*.dcm"))[::3])
def test_whatever_the_file_is_there_is_a_picture_or_a_reason(name: str) -> None:
    with Path(str(get_testdata_file(name))).open("rb") as file:
        data = file.read()
    try:
        assert max(picture(draw(data)).shape) == THUMBNAIL_SIDE
    except InputRejected as error:
        assert error.code


def test_many_pictures_at_once_are_all_drawn(tmp_path: Path) -> None:
    write_image(tmp_path / "0.dcm", "1.2", "1.0")
    for number in range(1, 12):
        shutil.copy(tmp_path / "0.dcm", tmp_path / f"{number}.dcm")
        image = pydicom.dcmread(tmp_path / f"{number}.dcm")
        image.SeriesInstanceUID = f"1.{number}"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"2.{number}"
        image.save_as(tmp_path / f"{number}.dcm")
    with serve(tmp_path, for_operator=True) as pacs:
        addresses = [f"/thumbnail?study_id=1.2&series_id=1.{number}" for number in range(12)]
        with ThreadPoolExecutor(len(addresses)) as people:
            for _ in range(2):
                assert {answer.status_code for answer in people.map(pacs.get, addresses)} == {200}
