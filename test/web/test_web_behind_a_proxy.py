"""Over HTTPS, through nginx as docs/operation.md sets it up, to a platform that listens on loopback alone."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from playwright.sync_api import Browser, Route
from web_client import Person, built_client, chromium

from api_calls import Api, until
from free_ports import free_port
from medical_image_processing import samples
from platform_process import CLI, Platform, clean_environment
from tls_proxy import DOCUMENT, NAME, running_nginx

SLICES = 20

pytestmark = pytest.mark.needs("nginx", "openssl")


@pytest.fixture(scope="module")
def documented() -> tuple[list[str], list[str]]:
    """The words of the two commands beside the configuration: a key for a client, and the platform."""
    text = DOCUMENT.read_text()
    (block,) = [one for one in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) if "--public-url" in one]
    add, up = [shlex.split(line) for line in block.splitlines()]
    assert (add[:2], up[:2]) == (["./mip", "keys"], ["./mip", "up"])
    return add[1:], up[2:]


@pytest.fixture(scope="module")
def origin() -> str:
    return f"https://{NAME}:{free_port()}"


@pytest.fixture(scope="module")
def client_key(tmp_path_factory: pytest.TempPathFactory, documented: tuple[list[str], list[str]]) -> str:
    done = subprocess.run(
        [*CLI, *documented[0]],
        cwd=tmp_path_factory.getbasetemp(),
        env=clean_environment(),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory,
    samples_cache: Path,
    documented: tuple[list[str], list[str]],
    client_key: str,
    origin: str,
) -> Iterator[Platform]:
    """The documented command's platform, with an abdominal CT; nginx before it."""
    built_client()
    folder = tmp_path_factory.mktemp("behind")
    shutil.copytree(samples.abdominal_ct(samples_cache), folder / "pacs")
    keys = str(tmp_path_factory.getbasetemp() / "clients.keys")
    given = dict(zip(documented[1][::2], documented[1][1::2], strict=True))
    assert given.pop("--pacs")
    given |= {"--public-url": origin, "--client-keys": keys}
    options = [word for pair in given.items() for word in pair]
    with Platform(folder / "home", pacs=folder / "pacs", options=options) as platform:
        Api(platform, admin_key=platform.env["MIP_ADMIN_KEY"]).register(
            "processing_1", outputs=["SC", "SEG", "SR"]
        )
        with running_nginx(folder / "nginx", port=int(origin.rpartition(":")[2]), upstream=platform.port):
            yield platform


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One that finds the hospital's name on this machine."""
    with chromium(f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as running:
        yield running


@pytest.fixture
def someone(browser: Browser, platform: Platform, origin: str) -> Iterator[Person]:
    person = Person(browser, origin, trusts_all=True)
    yield person
    person.close()
    assert not person.broken, person.broken


def give_keys(person: Person, client: str, pacs: str) -> None:
    person.page.get_by_role("button", name="Keys", exact=True).click()
    person.page.get_by_label("Client key").fill(client)
    person.page.get_by_label("PACS key").fill(pacs)
    person.page.get_by_role("button", name="Use these keys").click()


def test_all_that_a_person_does_goes_through_the_one_https_port(
    someone: Person, platform: Platform, client_key: str, origin: str, tmp_path: Path
) -> None:
    page = someone.page
    asked: list[str] = []
    heard: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: heard.append(str(frame))))
    someone.visit()
    give_keys(someone, client_key, platform.env["PACS_API_KEY"])
    page.wait_for_selector(".connection.is-open")
    page.wait_for_selector(".series-card")
    someone.open_series(SLICES)
    someone.wait_loaded(SLICES)
    job_id = someone.run("processing_1")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    assert "cm³" in page.locator(".measurements tr", has_text="Volume").inner_text()
    page.locator(".field", has_text="Show").locator("select").select_option("capture")
    page.wait_for_selector(f'.view >> nth=1 >> css=.mark-slice:has-text("of {SLICES}")')
    someone.shot("behind-a-proxy")
    with page.expect_download() as download:
        page.get_by_role("button", name="DICOM: SEG").click()
    download.value.save_as(tmp_path / "result.dcm")
    assert pydicom.dcmread(tmp_path / "result.dcm").Modality == "SEG"
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG of this image").click()
    download.value.save_as(tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes()[:4] == b"\x89PNG"
    # The page asks each second as well and may know before the frame is there; only waits of the page's hear it.
    until(
        lambda: page.wait_for_timeout(20) is None and any(job_id in one and "SUCCEEDED" in one for one in heard),
        "it came by WebSocket",
    )
    sockets = {url.partition("?")[0] for url in asked if url.startswith("ws")}
    assert sockets == {f"{origin.replace('https', 'wss')}/ws"}
    elsewhere = [url for url in asked if not url.startswith((f"{origin}/", "blob:", "data:", "wss:"))]
    assert not elsewhere
    assert any(f"{origin}/mip-output-" in url for url in asked), "results came through it as well"
    assert any(f"{origin}/pacs/files/" in url for url in asked), "and images"


def test_a_key_that_is_given_before_the_refusal_without_it_has_come_is_used(
    someone: Person, platform: Platform, client_key: str
) -> None:
    page = someone.page
    held: list[Route] = []
    page.route("**/provision", lambda route: route.continue_() if held else held.append(route))
    someone.visit()
    until(lambda: page.wait_for_timeout(20) is None and len(held) == 1, "the page asks who it is")
    give_keys(someone, client_key, platform.env["PACS_API_KEY"])
    page.wait_for_selector(".connection.is-open")
    with page.expect_response(lambda answer: answer.status == 401 and answer.url.endswith("/provision")):
        held[0].continue_()
    page.wait_for_selector(".series-card")
    assert page.locator(".connection.is-open").count() == 1


def test_a_page_of_somebody_else_may_not_read_through_it(
    browser: Browser, platform: Platform, client_key: str, origin: str
) -> None:
    """CORS: the browser refuses the page of another origin, which knows the key, what it lets our own read."""
    context = browser.new_context(ignore_https_errors=True)
    try:
        page = context.new_page()
        page.goto(f"https://localhost:{origin.rpartition(':')[2]}/")  # another origin, by name
        script = """async ([url, key]) => {
            try { return (await fetch(url, {headers: {"x-api-key": key}})).status } catch (error) { return -1 }
        }"""
        assert page.evaluate(script, [f"{origin}/jobs", client_key]) == -1
        page.goto(f"{origin}/")
        assert page.evaluate(script, [f"{origin}/jobs", client_key]) == 200
    finally:
        context.close()
