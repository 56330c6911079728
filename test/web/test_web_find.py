"""A person searches: what they typed stands in no address, and a list that ends early says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from playwright.sync_api import Browser, Page
from pydicom.data import get_testdata_file
from web_client import Person, built_client
from web_site import running_site

from free_ports import free_port
from orthanc import running_orthanc
from platform_process import Platform

SERIES = 130
WORDS = {
    "en": ("The first 100 are shown; search to narrow it.", "Show more", f"{SERIES} series", "1 series"),
    "it": (
        "Sono mostrate le prime 100; cerca per restringere l'elenco.",
        "Mostra altre",
        f"{SERIES} serie",
        "1 serie",
    ),
}


def series(number: int, patient: str, description: str) -> Any:
    """A CT without pixels, the only series of its study."""
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"), stop_before_pixels=True)
    uids = f"1.2.{number}", f"1.2.{number}.1", f"1.2.{number}.1.1"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = uids
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.PatientName, image.SeriesDescription = patient, description
    return image


@pytest.fixture(scope="module")
def many_series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than a list shows, the last of them called otherwise."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(100, 100 + SERIES):
        name = "quarter past" if number == 99 + SERIES else "hourly"
        series(number, "Zzyzx^Quux", name).save_as(folder / f"{number}.dcm")
    return folder


@pytest.fixture(scope="module")
def platform_of_many(tmp_path_factory: pytest.TempPathFactory, many_series: Path) -> Iterator[Platform]:
    built_client()
    with Platform(tmp_path_factory.mktemp("platform-many") / "home", pacs=many_series) as platform:
        yield platform


@contextmanager
def someone(browser: Browser, origin: str, lang: str = "en") -> Iterator[tuple[Person, list[str]]]:
    """A person, and every address that their browser asks for."""
    person = Person(browser, origin, lang=lang)
    asked: list[str] = []
    person.page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
    try:
        yield person, asked
        assert not person.broken
    finally:
        person.close()


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox").fill(text)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("lang", ["en", "it"])
def test_a_list_that_ends_early_says_so_and_a_search_narrows_it(
    browser: Browser, platform_of_many: Platform, lang: str
) -> None:
    first, more, all_there_are, one = WORDS[lang]
    with someone(browser, platform_of_many.base, lang) as (person, asked):
        page = person.visit()
        status = page.get_by_role("status")
        status.filter(has_text=first).wait_for()
        assert page.locator(".series-card").count() == 100
        person.shot(f"find-first-{lang}")
        search(page, "QUARTER  past")
        status.filter(has_text=one).wait_for()
        assert "quarter past" in page.locator(".series-card").inner_text()
        assert page.get_by_role("button", name=more).count() == 0
        search(page, "Zzyzx")
        page.locator(".series-card").first.wait_for(state="detached")
        search(page, "hourly")
        status.filter(has_text=first).wait_for()
        search(page, "")
        status.filter(has_text=first).wait_for()
        page.get_by_role("button", name=more).click()
        status.filter(has_text=all_there_are).wait_for()
        assert page.locator(".series-card").count() == SERIES
        searches = [one for one in asked if one.endswith("/pacs/series/search")]
        assert len(searches) == 3 and all(one.startswith("POST ") for one in searches)
        for text in ("quarter", "zzyzx", "hourly"):
            assert not [one for one in asked if text in one.lower()]
            assert text not in page.url.lower()


@pytest.mark.needs("Orthanc", "setpriv")
def test_a_patient_is_found_in_a_dicomweb_server_and_named_nowhere(browser: Browser, tmp_path: Path) -> None:
    built_client()
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.store([series(1, "Zzyzx^Quux", "portal"), series(2, "Other^Name", "portal")])
        password = tmp_path / "password"
        password.write_text(f"{orthanc.password}\n")
        password.chmod(0o600)
        options = ["--pacs-user", orthanc.user, "--pacs-password-file", str(password)]
        with (
            Platform(tmp_path / "home", pacs=orthanc.base, options=options) as platform,
            someone(browser, platform.base) as (person, asked),
        ):
            page = person.visit()
            page.get_by_role("status").filter(has_text="2 series").wait_for()
            search(page, "zzyzx portal")
            page.get_by_role("status").filter(has_text="1 series").wait_for()
            assert page.locator(".series-card .uid").inner_text() == "1.2.1.1"
            assert not [one for one in asked if "zzyzx" in one.lower()]
            assert "zzyzx" not in page.content().lower().replace('value="zzyzx portal"', "")
        assert "zzyzx" not in platform.log.read_text().lower()


def test_a_platform_that_is_down_when_the_page_comes_is_found_when_it_is_up(
    browser: Browser, many_series: Path, tmp_path: Path
) -> None:
    config: dict[str, str] = {}
    others = [f"{scheme}://127.0.0.1:*" for scheme in ("http", "ws")]
    with running_site(built_client(), free_port(), config=config, others=others) as origin:
        platform = Platform(tmp_path / "home", pacs=many_series, options=["--cors-origin", origin])
        with platform, someone(browser, origin) as (person, asked):
            config |= {"api_base": platform.base}
            platform.kill()
            page = person.visit()
            page.get_by_role("alert").filter(has_text="NO_ANSWER").wait_for()
            page.wait_for_selector(".connection.is-waiting")
            platform.start()
            page.wait_for_selector(".connection.is-open")
            page.get_by_role("status").filter(has_text=WORDS["en"][0]).wait_for()
            assert page.get_by_role("alert").count() == 0
            # From another origin, too: the browser asks before it posts, and may read whether there is more.
            search(page, "hourly")
            page.get_by_role("status").filter(has_text=WORDS["en"][0]).wait_for()
            assert f"POST {platform.env['PACS_API_BASE']}/series/search" in asked
