"""``npm start``: the sources on port 3000, against a platform whose address the environment says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser
from web_client import CLIENT, Person, built_client

from platform_process import Platform, clean_environment

ORIGIN = "http://localhost:3000"
STOP_S = 20


@pytest.fixture
def development_server(web_platform: Platform) -> Iterator[subprocess.Popen[str]]:
    """Once it says that it is ready."""
    built_client()  # so that the packages are there
    names = {"API_BASE": "API_BASE", "PACS_BASE": "PACS_API_BASE", "WS_ENDPOINT": "WS_ENDPOINT"}
    environment = clean_environment(**{f"REACT_APP_{ours}": web_platform.env[its] for ours, its in names.items()})
    server = subprocess.Popen(
        ["npm", "start"],
        cwd=CLIENT,
        env=environment | {"NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    try:
        said: list[str] = []
        for line in server.stdout:
            said.append(line)
            if ORIGIN in line:
                break
        else:
            pytest.fail("".join(said))
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(STOP_S)


@pytest.mark.usefixtures("development_server")
def test_the_sources_run_against_another_deployment(browser: Browser) -> None:
    person = Person(browser, ORIGIN)
    try:
        person.visit()
        person.open_series(20)
        person.wait_loaded(20)
        person.run("processing_1")
        person.page.wait_for_selector(".measurements")
        assert not person.broken
    finally:
        person.close()
