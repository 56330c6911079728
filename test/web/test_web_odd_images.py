"""Objects that are no plain CT slices: shown whole, or said to be what they are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pydicom
import pydicom.data
import pytest
from playwright.sync_api import Browser
from test_web_drawing import MACHINES
from web_client import Person, built_client

from api_calls import until
from platform_process import Platform

NAMES = ("rtdose.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_truncated.dcm", "test-SR.dcm")
DOSE_FRAMES = 15


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Person]:
    """A page over a PACS of a series for each; the descriptions are the files' names."""
    built_client()
    folder = tmp_path_factory.mktemp("odd")
    for name in NAMES:
        image = pydicom.dcmread(pydicom.data.get_testdata_file(name))
        image.SeriesDescription = name
        image.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[name])
        image.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[name, "series"])
        if "NumberOfFrames" in image:  # frame after frame more of it is light
            dose = image.pixel_array
            for at, frame in enumerate(dose):
                frame[:] = 0
                frame[: at * frame.shape[0] // DOSE_FRAMES] = 60_000
            image.PixelData = dose.tobytes()
        image.save_as(folder / name)
    inverted = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    inverted.SeriesDescription = "inverted"
    inverted.PhotometricInterpretation = "MONOCHROME1"
    inverted.save_as(folder / "inverted.dcm")
    for number in (1, 2, 3):  # three slices, the last of which has no pixels
        slice_ = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
        slice_.SeriesDescription = "slices"
        slice_.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["slices"])
        slice_.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["slices", "series"])
        slice_.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["slices", str(number)])
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.InstanceNumber = number
        slice_.ImagePositionPatient[2] = -number
        if number == 3:
            del slice_.PixelData
        slice_.save_as(folder / f"slice-{number}.dcm")
    with Platform(tmp_path_factory.mktemp("odd-home") / "home", pacs=folder) as platform:
        person = Person(browser, platform.base)
        yield person
        person.close()
        assert not person.broken, person.broken


def open_object(person: Person, name: str) -> None:
    """From the list."""
    person.visit().locator(".series-card", has_text=name).click()


def drawn(person: Person) -> Any:
    """What the view shows: rows × columns × RGB."""
    import numpy as np
    from PIL import Image

    shot = person.page.locator(".view-canvas canvas").first.screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float)


def test_all_frames_of_a_file_are_scrolled(odd_page: Person) -> None:
    page = odd_page.page
    open_object(odd_page, "rtdose.dcm")
    page.wait_for_selector(f".mark-slice:has-text('of {DOSE_FRAMES}')")
    odd_page.wait_loaded(DOSE_FRAMES)
    page.locator(".view-image").first.focus()
    page.keyboard.press("Home")
    page.wait_for_selector('.view-image[data-index="0"]')
    first = drawn(odd_page)
    page.keyboard.press("End")
    page.wait_for_selector(f'.view-image[data-index="{DOSE_FRAMES - 1}"]')
    page.wait_for_function("() => document.querySelector('.mark-slice').textContent.includes('15 of 15')")
    assert abs(drawn(odd_page) - first).mean() > 20, "each frame has a picture of its own"


def test_a_compressed_colour_image_is_shown_in_colour(odd_page: Person) -> None:
    open_object(odd_page, "SC_rgb_jpeg_dcmtk.dcm")
    odd_page.page.wait_for_selector('.view-image[data-ready="true"]')
    picture = drawn(odd_page)
    assert (picture.max(axis=2) - picture.min(axis=2)).max() > 100


def test_a_file_that_ends_before_its_pixels_is_said_to(odd_page: Person) -> None:
    open_object(odd_page, "MR_truncated.dcm")
    odd_page.page.wait_for_selector("[role=alert]:has-text('1 image ends before its pixels do')")


def test_what_is_no_image_is_said_to_be_none(odd_page: Person) -> None:
    open_object(odd_page, "test-SR.dcm")
    odd_page.page.wait_for_selector("[role=alert]:has-text('1 image could not be shown')")


def test_an_image_that_cannot_be_had_is_not_shown_as_the_one_before(odd_page: Person) -> None:
    page = odd_page.page
    open_object(odd_page, "slices")
    page.wait_for_selector('.view-image[data-ready="true"]')
    page.wait_for_selector("[role=alert]:has-text('1 image could not be shown')")
    page.locator(".view-image").first.focus()
    missing = 0
    page.keyboard.press("Home")
    for at in range(3):
        page.wait_for_selector(f'.view-image[data-index="{at}"]')
        page.wait_for_selector('.view-image[data-behind="false"], .mark-missing')
        missing += page.locator(".mark-missing").count()
        page.keyboard.press("ArrowDown")
    assert missing == 1
    assert page.get_by_label("CT window").count() == 1


def test_windows_of_ct_are_offered_for_ct_alone(odd_page: Person) -> None:
    page = odd_page.page
    open_object(odd_page, "MR_truncated.dcm")
    page.wait_for_selector('.view-image[data-ready="true"]')
    assert page.get_by_label("CT window").count() == 0
    before = page.locator(".mark-window").inner_text()
    page.locator(".view-image").first.focus()
    page.keyboard.press("4")
    page.keyboard.press("+")  # which it takes: by then it has had the other one
    page.wait_for_selector('.view-image[data-ready="true"]')
    assert page.locator(".mark-window").inner_text() == before


@pytest.mark.parametrize(
    ("name", "machine"),
    [("inverted", "program"), ("SC_rgb_jpeg_dcmtk.dcm", "program"), ("SC_rgb_jpeg_dcmtk.dcm", "card")],
    ids=["inverted", "colour", "colour with a card"],
)
def test_an_image_is_as_it_was_after_a_reset(odd_page: Person, browser: Browser, name: str, machine: str) -> None:
    someone = Person(browser, odd_page.origin)
    try:
        someone.context.add_init_script(MACHINES[machine])
        open_object(someone, name)
        someone.page.wait_for_selector('.view-image[data-ready="true"]')
        someone.wait_loaded(1)
        began = drawn(someone)
        someone.page.locator(".view-image").first.focus()
        someone.page.keyboard.press("+")
        until(lambda: abs(drawn(someone) - began).mean() > 1, "the image is larger")
        someone.page.keyboard.press("r")
        until(lambda: abs(drawn(someone) - began).mean() < 0.5, "and as it was")
        assert not someone.broken, someone.broken
    finally:
        someone.close()
