"""The platform goes and comes back under an open page; results that come meanwhile are not missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from web_client import Person, built_client

from api_calls import Api
from platform_process import Platform


@pytest.fixture
def own_platform(tmp_path: Path, small_pacs: Path) -> Iterator[Platform]:
    """A platform that the test may kill."""
    built_client()
    with Platform(tmp_path / "home", pacs=small_pacs) as platform:
        Api(platform).register("processing_1")
        yield platform


def test_a_killed_platform_comes_back_under_an_open_page(own_platform: Platform, browser: Browser) -> None:
    platform = own_platform
    someone = Person(browser, platform.base)
    try:
        page = someone.visit("jobs")
        page.wait_for_selector(".connection.is-open")
        under_way = send(platform, someone.client_id())
        platform.kill()
        page.wait_for_selector(".connection.is-waiting")
        platform.start()
        page.wait_for_selector(".connection.is-open")
        # A job sent from elsewhere in this browser's name.
        job_id = send(platform, someone.client_id())
        for sent in (job_id, under_way):
            page.wait_for_selector(f'tr[data-job="{sent}"][data-status="SUCCEEDED"]')
        assert not someone.broken
    finally:
        someone.close()


def test_results_that_came_while_the_page_was_closed_are_there(own_platform: Platform, browser: Browser) -> None:
    platform = own_platform
    someone = Person(browser, platform.base)
    try:
        someone.visit("jobs").wait_for_selector(".connection.is-open")
        client_id = someone.client_id()
        someone.page.goto("about:blank")
        job_id = send(platform, client_id)
        someone.visit("jobs").wait_for_selector(f'tr[data-job="{job_id}"][data-status="SUCCEEDED"]')
    finally:
        someone.close()


def send(platform: Platform, client_id: str) -> str:
    """A job on the one image there is, for that client; its id."""
    api = Api(platform)
    headers = {"x-api-key": platform.env["PACS_API_KEY"]}
    [series] = api.http.get("/pacs/series", headers=headers).json()
    pacs = {"study_id": series["study_id"], "series_id": series["series_id"], "scope": "series"}
    return api.process("processing_1", client_id=client_id, pacs=pacs)
