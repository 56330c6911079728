"""What the tests of the web client share: a platform with real images, the built client, a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from playwright.sync_api import Browser
from web_client import MakePerson, Person, built_client, chromium

from api_calls import Api
from medical_image_processing import samples
from medical_image_processing.testing import puppet
from platform_process import Platform, unconfined

BUILD_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first of them waits for the client to be built."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.needs("chromium", "node", "npm"))
            item.add_marker(pytest.mark.timeout(BUILD_S))


@pytest.fixture(scope="session")
def web_pacs(tmp_path_factory: pytest.TempPathFactory, samples_cache: Path) -> Path:
    """A chest CT of 236 slices, an abdominal CT of 20, and a treatment plan, which is no image at all."""
    folder = tmp_path_factory.mktemp("web") / "pacs"
    shutil.copytree(samples.chest_ct(samples_cache), folder / "chest")
    shutil.copytree(samples.abdominal_ct(samples_cache), folder / "abdomen")
    (folder / "plan").mkdir()
    shutil.copy(pydicom.data.get_testdata_file("rtplan.dcm"), folder / "plan" / "plan.dcm")
    return folder


@pytest.fixture(scope="session")
def web_platform(tmp_path_factory: pytest.TempPathFactory, web_pacs: Path) -> Iterator[Platform]:
    """``mip up``, which serves the client, with processing_1, whose results are of every kind, and the puppet,
    which does what its job says."""
    built_client()
    folder = tmp_path_factory.mktemp("web-platform")
    with Platform(folder / "home", pacs=web_pacs, options=unconfined(folder)) as platform:
        api = Api(platform)
        api.register("puppet", env=puppet.install(folder / "site"), wait_for=None)
        api.register("processing_1", outputs=["SC", "SEG", "SR"])
        yield platform


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Not for all files at once: while it runs, no other event loop can in this thread."""
    with chromium() as running:
        yield running


@pytest.fixture
def person(browser: Browser, web_platform: Platform) -> Iterator[MakePerson]:
    """Makes people with browsers of their own; in the end no page may have broken."""
    people: list[Person] = []

    def make(**how: object) -> Person:
        people.append(Person(browser, web_platform.base, **how))  # type: ignore[arg-type]
        return people[-1]

    yield make
    broken = [text for one in people for text in one.broken]
    for one in people:
        one.close()
    assert not broken, broken
