"""The index of a PACS folder: what it takes in, what it notices, and what it keeps between runs."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import time
from io import BytesIO
from pathlib import Path

import httpx
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pacs_support import eventually, serve, write_image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from medical_image_processing.dicom.identity import read_identity
from medical_image_processing.errors import MipError, Unavailable
from medical_image_processing.pacs.folder import FolderIndex

CT_SMALL = Path(str(get_testdata_file("CT_small.dcm")))
IMAGE = "/studies/study-1/images/series-1/image-1"


def test_a_study_added_while_running_is_found_at_once(tmp_path: Path) -> None:
    with serve(tmp_path) as pacs:
        assert pacs.get(IMAGE).status_code == 404
        write_image(tmp_path / "study-1/series-1/image-1.dcm", "1.2")
        assert pacs.get(IMAGE).status_code == 200
        assert pacs.get("/studies").json() == ["1.2"]


def test_images_added_to_a_known_series_and_removed_from_it_show_in_its_list(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/a.dcm", "1.2", "1.2.3")
    with serve(tmp_path) as pacs:

        def keys() -> list[str]:
            return [one["key"].rpartition("/")[2] for one in pacs.get("/studies/1.2/images").json()]

        assert keys() == ["a.dcm"]
        write_image(tmp_path / "study-1/series-1/b.dcm", "1.2", "1.2.3", z=1.0)
        eventually(lambda: keys() == ["a.dcm", "b.dcm"])
        (tmp_path / "study-1/series-1/a.dcm").unlink()
        eventually(lambda: keys() == ["b.dcm"])


def test_changes_are_noticed_without_being_asked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/image-1.dcm", "1.2", "1.2.3")
    index = FolderIndex(tmp_path, rescan_s=0.02, min_interval_s=60)
    index.start()
    try:
        eventually(lambda: index.knows("study-1", None, None))
        write_image(tmp_path / "study-2/series-1/image-1.dcm")
        eventually(lambda: index.knows("study-2", "series-1", "image-1"))
        (tmp_path / "study-1/series-1/image-1.dcm").unlink()
        eventually(lambda: not index.knows("study-1", None, None))
    finally:
        index.close()


def test_files_that_are_not_dicom_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "study-1/series-1/image-1.dcm", "1.2", "1.2.3")
    around = tmp_path / "study-1/series-1"
    (around / "notes.txt").write_text("hello")
    (around / "empty.dcm").touch()
    (around / "short.dcm").write_bytes(bytes(130))
    (around / "noise.dcm").write_bytes(random.Random(1).randbytes(5000))
    (around / "DICOMDIR").write_bytes(Path(str(get_testdata_file("DICOMDIR"))).read_bytes())
    os.mkfifo(around / "pipe.dcm")
    with serve(tmp_path) as pacs:
        listed = pacs.get("/studies/study-1/images?series_id=series-1").json()
        answer = pacs.get("/studies/study-1/images/series-1/notes.txt")

    assert [one["key"] for one in listed] == ["study-1/series-1/image-1.dcm"]
    assert answer.json()["error"]["code"] == "IMAGE_NOT_FOUND"


@pytest.mark.parametrize("keep", [132, 140, 300, 600, 1000])
def test_a_dicom_file_with_a_broken_header_is_served_by_its_path(tmp_path: Path, keep: int) -> None:
    """Whoever fetches it learns from the reader what is wrong with it."""
    path = tmp_path / "study-1/series-1/image-1.dcm"
    path.parent.mkdir(parents=True)
    path.write_bytes(CT_SMALL.read_bytes()[:keep])
    with serve(tmp_path) as pacs:
        assert httpx.get(pacs.link(IMAGE)).content == path.read_bytes()


def test_damaged_headers_leave_the_rest_usable_and_are_quoted_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    whole = CT_SMALL.read_bytes()
    dice = random.Random(7)
    (tmp_path / "damaged/series").mkdir(parents=True)
    for at in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 30)):
            damaged[dice.randrange(132, 2500)] = dice.randrange(256)
        (tmp_path / f"damaged/series/{at}.dcm").write_bytes(damaged)
    write_image(tmp_path / "study-1/series-1/image-1.dcm")
    with serve(tmp_path) as pacs:
        assert pacs.get("/studies").status_code == 200
        assert len(pacs.get("/studies/damaged/images").json()) == 300
        pacs.link(IMAGE)
    assert not [record for record in caplog.records if record.levelname != "INFO"]
    assert not list(recwarn)


def pydicom_files() -> list[Path]:
    folder = CT_SMALL.parent
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


@pytest.mark.filterwarnings("ignore")
def test_the_identities_are_those_that_pydicom_reads() -> None:
    compared = 0
    for path in pydicom_files():
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            expected = [
                str(header.get(name, "") or "").strip()
                for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
            ]
        except Exception:  # not DICOM, or broken
            continue
        with path.open("rb") as file:
            identity = read_identity(file)
        if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            assert identity is None
            continue
        assert identity is not None, path.name
        assert [identity.study_uid, identity.series_uid, identity.sop_uid] == expected, path.name
        compared += 1
    assert compared > 80


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda uid: uid.name,
)
def test_headers_in_every_encoding_and_with_nested_sequences(tmp_path: Path, syntax: UID) -> None:
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    inner = pydicom.Dataset()
    inner.StudyInstanceUID = "9.9.9"
    inner.is_undefined_length_sequence_item = True
    outer = pydicom.Dataset()
    outer.ReferencedSeriesSequence = [inner, inner]
    outer["ReferencedSeriesSequence"].is_undefined_length = True
    image.ReferencedStudySequence = [outer, pydicom.Dataset()]
    image["ReferencedStudySequence"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        image["PixelData"].VR = "OW"
    path = tmp_path / "image.dcm"
    pydicom.dcmwrite(
        path,
        image,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        force_encoding=True,
    )
    with path.open("rb") as file:
        identity = read_identity(file)

    assert identity is not None
    assert identity.study_uid == image.StudyInstanceUID
    assert identity.sop_uid == image.SOPInstanceUID
    assert identity.position == pytest.approx(image.ImagePositionPatient[2])


@given(data=st.binary(max_size=600), cut=st.integers(0, 4000), at=st.integers(132, 4000))
def test_no_header_is_bad_enough_to_raise(data: bytes, cut: int, at: int) -> None:
    whole = CT_SMALL.read_bytes()
    for content in (bytes(128) + b"DICM" + data, whole[:at] + data + whole[at:], whole[:cut]):
        read_identity(BytesIO(content))


def test_a_second_start_opens_no_file_that_did_not_change(tmp_path: Path) -> None:
    folder, cache = tmp_path / "pacs", tmp_path / "index.db"
    for at in range(3):
        write_image(folder / f"study-{at}/series-1/image-1.dcm", f"1.{at}", f"1.{at}.1")
    with serve(folder, cache_db=cache) as pacs:
        assert pacs.get("/studies").json() == ["1.0", "1.1", "1.2"]
    read_before = [(folder / f"study-{at}/series-1/image-1.dcm").stat() for at in range(3)]
    (folder / "study-1/series-1/image-1.dcm").unlink()
    write_image(folder / "study-2/series-1/image-1.dcm", "1.7", "1.7.1")
    # A file that is opened would get a later access time than this one.
    os.utime(folder / "study-0/series-1/image-1.dcm", ns=(1, read_before[0].st_mtime_ns))

    with serve(folder, cache_db=cache) as pacs:
        assert pacs.get("/studies").json() == ["1.0", "1.7"]


@pytest.mark.parametrize("damage", [b"", b"this is no database" * 100])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    folder, cache = tmp_path / "pacs", tmp_path / "index.db"
    write_image(folder / "study-1/series-1/image-1.dcm")
    cache.write_bytes(damage)
    with serve(folder, cache_db=cache) as pacs:
        pacs.link(IMAGE)


def test_a_cache_of_another_folder_is_made_anew(tmp_path: Path) -> None:
    cache = tmp_path / "index.db"
    write_image(tmp_path / "one/study-1/series-1/image-1.dcm")
    with serve(tmp_path / "one", cache_db=cache) as pacs:
        old = httpx.URL(pacs.link(IMAGE))
    (tmp_path / "two").mkdir()
    with serve(tmp_path / "two", cache_db=cache) as pacs:
        assert pacs.get(IMAGE).status_code == 404
        assert httpx.get(pacs.here(old)).status_code == 403


def test_the_cache_is_for_its_owner_only(tmp_path: Path) -> None:
    folder, cache = tmp_path / "pacs", tmp_path / "index.db"
    write_image(folder / "DOE_JANE/series-1/image-1.dcm")
    with serve(folder, cache_db=cache) as pacs:
        pacs.get("/studies")
        modes = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("index.db*")]

    assert set(modes) == {0o600}


def test_a_folder_that_is_not_there_is_said_to_be_unavailable_and_found_when_it_comes(tmp_path: Path) -> None:
    folder = tmp_path / "not-mounted"
    with serve(folder) as pacs:
        for path in ("/studies", IMAGE, "/studies/study-1/images"):
            answer = pacs.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "PACS_UNAVAILABLE")
            assert "not-mounted" not in answer.text
            assert int(answer.headers["retry-after"]) > 0
        write_image(folder / "study-1/series-1/image-1.dcm")
        pacs.link(IMAGE)


def test_what_is_known_stays_available_when_the_folder_goes_away(tmp_path: Path) -> None:
    """A file server that is away for a minute must not empty the index."""
    folder = tmp_path / "pacs"
    write_image(folder / "study-1/series-1/image-1.dcm", "1.2")
    with serve(folder) as pacs:
        url = pacs.link(IMAGE)
        folder.rename(tmp_path / "away")
        assert pacs.get("/studies/other/images").status_code == 503
        assert pacs.get("/studies").json() == ["1.2"]
        assert httpx.get(url).status_code == 503  # it comes back; a job must not fail for it
        (tmp_path / "away").rename(folder)
        assert httpx.get(url).status_code == 200


def test_a_subfolder_that_cannot_be_listed_hides_nothing_else(tmp_path: Path) -> None:
    """Deeper than the system's longest path: nobody, root included, can list it by its name."""
    write_image(tmp_path / "study-1/series-1/image-1.dcm")
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    with serve(tmp_path) as pacs:
        assert len(pacs.get("/studies").json()) == 1
        pacs.link(IMAGE)


def test_a_flood_of_unknown_ids_does_not_make_a_flood_of_scans(tmp_path: Path) -> None:
    async def ask() -> float:
        index = FolderIndex(tmp_path, min_interval_s=0.3)
        index.start()
        began = time.monotonic()
        try:
            asked = (index.image(f"study-{at}", "series-1", "image-1") for at in range(200))
            answers = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            index.close()
        assert {answer.code for answer in answers if isinstance(answer, MipError)} == {"STUDY_NOT_FOUND"}
        return time.monotonic() - began

    assert asyncio.run(ask()) < 30  # a scan each would be 60 s


def test_closing_answers_who_still_waits(tmp_path: Path) -> None:
    async def ask() -> None:
        index = FolderIndex(tmp_path, min_interval_s=60)
        index.start()
        await index.studies()
        waiting = asyncio.create_task(index.image("study-1", "series-1", "image-1"))
        await asyncio.sleep(0)
        index.close()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(ask())
