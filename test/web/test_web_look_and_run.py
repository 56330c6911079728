"""A person finds a series, looks at it, runs an algorithm, and sees its result beside the original."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pydicom
from playwright.sync_api import Route
from web_client import MakePerson, Person, built_client
from web_series import occupied, place_of

from api_calls import Api, until
from platform_process import Platform

CHEST, ABDOMEN = 236, 20
VIEWER_BYTES = 400_000
"""Compressed: as much as the page itself may have before its viewer."""


def index_of(person: Person, view: int = 0) -> int:
    """Which image a view shows."""
    shown = person.page.locator(".view-image").nth(view).get_attribute("data-index")
    return int(shown or -1)


def brightness(person: Person, view: int = 0) -> float:
    """Mean of what a view draws, 0 to 255."""
    import numpy as np
    from PIL import Image

    picture = person.page.locator(".view-canvas canvas").nth(view).screenshot()
    return float(np.asarray(Image.open(io.BytesIO(picture)).convert("L")).mean())


def yellow(person: Person, view: int) -> float:
    """How much more red than blue a view draws, in the mean: 0 where all is gray."""
    import numpy as np
    from PIL import Image

    picture = person.page.locator(".view-canvas canvas").nth(view).screenshot()
    red, _, blue = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), float).mean(axis=(0, 1))
    return float(red - blue)


def test_a_series_of_236_slices_is_scrolled_while_it_loads(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(CHEST)
    began = index_of(someone)
    frame = page.locator(".view-image").first
    frame.focus()
    for key, there in (("ArrowDown", began + 1), ("PageDown", began + 11), ("Home", 0), ("End", CHEST - 1)):
        page.keyboard.press(key)
        page.wait_for_selector(f'.view-image[data-index="{there}"]')
    assert f"Image {CHEST} of {CHEST}" in (frame.get_attribute("aria-label") or "")
    someone.wait_loaded(CHEST)
    page.keyboard.press("ArrowUp")
    frame.hover()
    page.mouse.wheel(0, -100)
    page.wait_for_selector(f'.view-image[data-index="{CHEST - 3}"]')
    until(lambda: brightness(someone) > 5, "it is drawn")
    assert page.locator(".mark-left").inner_text() == "R"
    assert page.locator(".mark-top").inner_text() == "A"


def open_first_slice(someone: Person) -> None:
    """Of the abdomen, with all of it loaded."""
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    someone.page.locator(".view-image").first.focus()
    someone.page.keyboard.press("Home")
    someone.page.wait_for_selector('.view-image[data-index="0"]')


def test_the_viewer_brings_what_it_runs_and_no_more() -> None:
    assets = built_client() / "assets"
    [viewer] = assets.glob("OpenSeries-*.js.gz")
    assert viewer.stat().st_size < VIEWER_BYTES, (
        "something brings a part of Cornerstone3D or vtk.js that nobody runs"
    )
    assert not list(assets.glob("computeWorker-*"))
    large = [
        one for one in assets.iterdir() if one.suffix in (".js", ".css", ".wasm") and one.stat().st_size > 1024
    ]
    assert large and all(one.with_name(f"{one.name}.gz").is_file() for one in large)


def test_the_list_waits_for_nothing_of_the_viewer(person: MakePerson) -> None:
    someone = person()
    viewer = "**/assets/OpenSeries-*.js"
    someone.page.route(viewer, lambda route: route.abort())
    with someone.page.expect_request(viewer):  # while the list is looked at
        someone.visit()
    someone.page.wait_for_selector(".series-card")


def test_what_a_change_of_the_network_breaks_off_is_asked_for_again(person: MakePerson) -> None:
    someone = person()
    broken_off: set[str] = set()

    def break_off_once(route: Route) -> None:
        if route.request.method == "GET" and route.request.url not in broken_off:
            broken_off.add(route.request.url)
            route.abort("connectionaborted")
        else:
            route.continue_()

    someone.page.route("**/pacs/**", break_off_once)
    someone.page.route(re.compile("X-Amz-Signature="), break_off_once)
    someone.visit()
    someone.page.wait_for_selector(".series-card img")
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    assert len(broken_off) >= ABDOMEN + 2, "a list, a picture, all images"
    someone.run("processing_1")
    someone.page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    someone.page.wait_for_selector(".measurements tr:has-text('Volume')")
    assert any("X-Amz-Signature=" in url for url in broken_off), "files of the result"


def test_window_zoom_and_length_by_mouse_and_keys(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    page.get_by_label("CT window").select_option("lung")
    page.wait_for_selector(".mark-window:has-text('C -600 W 1500'), .mark-window:has-text('C -600  W 1500')")
    lung = brightness(someone)
    page.locator(".view-image").first.focus()
    page.keyboard.press("5")  # bone
    page.wait_for_selector(".mark-window:has-text('W 1800')")
    until(lambda: brightness(someone) < lung, "it is drawn so")
    page.keyboard.press("l")
    assert page.get_by_role("button", name="Length").get_attribute("aria-pressed") == "true"
    box = page.locator(".view-image").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=5)
    page.mouse.up()
    page.wait_for_selector(".view-canvas svg >> text=/[0-9.]+ mm/")
    page.get_by_role("button", name="Remove measurements").click()
    page.wait_for_selector(".view-canvas svg >> text=/[0-9.]+ mm/", state="detached")


def test_a_series_is_found_as_it_was_left_though_its_links_have_ended(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    open_first_slice(someone)
    page.keyboard.press("l")
    box = page.locator(".view-image").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=5)
    page.mouse.up()
    page.wait_for_selector(".view-canvas svg >> text=/[0-9.]+ mm/")
    someone.go("Jobs")
    page.evaluate("{ const now = Date.now; Date.now = () => now() + 20 * 60_000 }")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    someone.go("Viewer")
    page.wait_for_selector('.view-image[data-ready="true"][data-index="0"]')
    someone.wait_loaded(ABDOMEN)
    page.wait_for_selector(".view-canvas svg >> text=/[0-9.]+ mm/")
    assert not [url for url in asked if "/files/" in url]


def test_zoom_pan_and_reset_by_mouse_and_keys(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    frame = page.locator(".view-image").first
    frame.focus()
    began, whole = middle(someone), brightness(someone)
    page.keyboard.press("+")
    until(lambda: brightness(someone) > whole * 1.1, "the image is larger, the air around it less")
    page.keyboard.press("r")
    until(lambda: abs(brightness(someone) - whole) < whole * 0.02, "and as it was")
    page.get_by_role("button", name="Pan").click()
    drag(someone, 90, 0)
    until(lambda: middle(someone) > began + 45, "the image went to the right with the hand")
    page.get_by_role("button", name="Reset").click()
    until(lambda: abs(middle(someone) - began) < 2, "and back")
    page.get_by_role("button", name="Zoom").click()
    drag(someone, 0, 60)
    until(lambda: abs(brightness(someone) - whole) > whole * 0.05, "the hand zooms")
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Window", exact=True).click()
    before = page.locator(".mark-window").inner_text()
    drag(someone, 60, 0)
    until(lambda: page.locator(".mark-window").inner_text() != before, "the hand sets the window")
    page.get_by_role("button", name="Keyboard").click()
    page.wait_for_selector("dialog:has-text('Ten images')")


def drag(person: Person, right: int, down: int) -> None:
    """With the left button, from the middle of the image."""
    box = person.page.locator(".view-image").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    person.page.mouse.move(x, y)
    person.page.mouse.down()
    person.page.mouse.move(x + right, y + down, steps=4)
    person.page.mouse.up()


def middle(person: Person) -> float:
    """Where what is drawn has its middle, from left to right, in pixels."""
    import numpy as np
    from PIL import Image

    picture = person.page.locator(".view-canvas canvas").first.screenshot()
    columns = np.asarray(Image.open(io.BytesIO(picture)).convert("L"), float).sum(axis=0)
    return float((columns * np.arange(len(columns))).sum() / columns.sum())


def test_a_result_comes_beside_the_original_and_scrolls_with_it(person: MakePerson, tmp_path: Path) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.run("processing_1")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    page.wait_for_selector(".segments:has-text('liver')")
    row = page.locator(".measurements tr", has_text="Volume")
    assert "cm³" in row.inner_text()
    page.locator(".view-image").first.focus()
    page.keyboard.press("Home")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-index="0"]')
    page.locator(".view-image").nth(1).focus()
    page.keyboard.press("PageDown")
    page.wait_for_selector('.view >> nth=0 >> css=.view-image[data-index="10"]')
    faint = yellow(someone, 1)
    page.get_by_label("Opacity of the overlay").fill("0.9")
    until(lambda: yellow(someone, 1) > faint + 1, "the overlay is stronger")
    someone.shot("result")
    for kind, modality in (("SEG", "SEG"), ("SR", "SR")):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"DICOM: {kind}").click()
        download.value.save_as(tmp_path / kind)
        assert pydicom.dcmread(tmp_path / kind).Modality == modality
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG of this image").click()
    assert download.value.suggested_filename.endswith(".png")


def test_what_the_algorithm_drew_is_shown_frame_by_frame(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    someone.run("processing_1")
    page.locator(".field", has_text="Show").locator("select").select_option("capture")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    page.locator(".view-image").first.focus()
    page.keyboard.press("End")
    page.wait_for_selector(f'.view >> nth=0 >> css=.view-image[data-index="{ABDOMEN - 1}"]')
    page.wait_for_selector('.view >> nth=1 >> css=.mark-slice:has-text("of 20")')
    until(lambda: brightness(someone, 1) > 5, "it is drawn")


def test_one_image_is_run_again(person: MakePerson) -> None:
    someone = person()
    someone.visit()
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    first = someone.run("processing_1", scope="image")
    someone.page.get_by_role("button", name="Run again").click()
    again = someone.page.wait_for_selector(f'.job-card[data-status="SUCCEEDED"]:not([data-job="{first}"])')
    assert again is not None


def test_a_job_that_fails_says_why(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    page.locator(".series-card", has_text="RTPLAN").click()
    someone.run("processing_1", until="FAILED")
    words = page.locator(".job-card .note.bad")
    words.wait_for()
    assert len(words.inner_text()) > 20
    someone.go("Jobs")
    page.locator('tr[data-status="FAILED"] .note.bad').wait_for()
    someone.shot("failed")


def test_a_pasted_series_uid_finds_it(person: MakePerson, web_pacs: Path) -> None:
    someone = person()
    page = someone.visit()
    page.wait_for_selector(".series-card >> nth=2")
    some = pydicom.dcmread(next((web_pacs / "abdomen").glob("*.dcm")), stop_before_pixels=True)
    page.get_by_role("searchbox").fill(some.SeriesInstanceUID)
    page.get_by_role("button", name="Find").click()
    page.wait_for_selector("text=1 series")
    assert page.locator(".series-card").count() == 1


def test_the_same_in_italian(person: MakePerson) -> None:
    someone = person(lang="it-IT")
    page = someone.visit()
    page.wait_for_selector("h1:has-text('Cerca una serie')")
    assert page.evaluate("document.documentElement.lang") == "it"
    page.locator(".series-card", has_text="20 immagini").click()
    page.wait_for_selector('.view-image[data-ready="true"]')
    page.locator(".side label:has-text('Algoritmo') select").first.select_option("processing_1")
    page.get_by_role("button", name="Esegui", exact=True).click()
    page.wait_for_selector('.job-card[data-status="SUCCEEDED"]:has-text("Completato")')
    page.wait_for_selector(".panel:has-text('Risultato') .measurements")
    page.get_by_label("Lingua").select_option("en")
    page.wait_for_selector("h2:has-text('Run an algorithm')")


def test_no_patient_data_is_kept_or_in_an_address(person: MakePerson, web_pacs: Path) -> None:
    someone = person()
    addresses: list[str] = []
    someone.page.on("framenavigated", lambda frame: addresses.append(frame.url))
    someone.visit()
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    some = pydicom.dcmread(next((web_pacs / "abdomen").glob("*.dcm")), stop_before_pixels=True)
    kept = str(someone.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, history.state])"))
    secret = [some.StudyInstanceUID, some.SeriesInstanceUID, str(some.PatientID or "-none-")]
    assert not [one for one in secret if one in kept or any(one in address for address in addresses)]


def test_jobs_of_two_people_are_their_own(person: MakePerson, web_platform: Platform) -> None:
    one, other = person(), person()
    one.visit()
    other.visit()
    one.open_series(ABDOMEN)
    one.wait_loaded(ABDOMEN)
    mine = one.run("processing_1", scope="image")
    other.go("Jobs")
    other.page.wait_for_selector("text=No jobs yet")
    one.go("Jobs")
    one.page.wait_for_selector(f'tr[data-job="{mine}"]')
    assert one.client_id() != other.client_id()
    assert other.page.locator(f'tr[data-job="{mine}"]').count() == 0
    assert Api(web_platform).job(mine)["client_id"] == one.client_id()


def test_a_waiting_job_shows_its_place_and_is_cancelled(person: MakePerson, web_platform: Platform) -> None:
    api = Api(web_platform)
    someone = person()
    page = someone.visit()
    someone.open_series(CHEST)
    chest = place_of(web_platform, CHEST)
    with occupied(web_platform):
        before = [api.process("puppet", client_id="client-busy", pacs=chest) for _ in range(3)]
        someone.choose_algorithm("puppet")
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_selector(".job-card:has-text('Place ')")
        page.get_by_role("button", name="Cancel job").click()
        page.wait_for_selector('.job-card[data-status="CANCELLED"]')
        for job_id in before:
            api.post(f"/jobs/{job_id}/cancel")


def test_a_slow_network_shows_what_is_there(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    page.wait_for_selector(".series-card")
    network = someone.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 150, "downloadThroughput": 2_000_000, "uploadThroughput": 500_000}
    network.send("Network.emulateNetworkConditions", slow)
    someone.open_series(CHEST)
    page.wait_for_selector(".mark-note:has-text('of 236 loaded')")
    page.locator(".view-image").first.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(f'.view-image[data-index="{CHEST // 2 + 1}"]')


def test_series_have_thumbnails(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    page.wait_for_selector(".thumbnail img >> nth=1")
    loaded = page.evaluate(
        "[...document.querySelectorAll('.thumbnail img')].map(one => one.decode().then(() => 1))"
    )
    assert len(loaded) == 2  # the plan has no picture


def test_a_result_is_not_shown_beside_a_series_that_was_opened_meanwhile(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.choose_algorithm("processing_1")
    sent: list[Route] = []
    page.route("**/process/processing_1", lambda route: sent.append(route))
    page.get_by_role("button", name="Run", exact=True).click()
    until(lambda: bool(page.evaluate("1")) and len(sent) == 1, "the job is on its way")
    someone.go("Find")
    someone.open_series(CHEST)
    sent[0].continue_()
    someone.go("Jobs")
    page.wait_for_selector('tr[data-status="SUCCEEDED"]')
    someone.go("Viewer")
    page.wait_for_selector('.view-image[data-ready="true"]')
    page.wait_for_selector(f".mark-slice:has-text('of {CHEST}')")
    assert page.locator(".view").count() == 1
    assert page.locator(".job-card").count() == 0


def test_what_was_made_from_one_image_is_shown_beside_that_one(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    open_first_slice(someone)
    job_id = someone.run("processing_1", scope="image")
    someone.go("Find")
    someone.open_series(CHEST)  # so that the other one is opened anew, in its middle
    someone.go("Jobs")
    page.locator(f'tr[data-job="{job_id}"]').get_by_role("button", name="Show result").click()
    page.wait_for_selector("h1:has-text('CT Body')")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-index="0"][data-ready="true"]')
    until(lambda: yellow(someone, 1) > 1, "the liver is coloured on it")
    page.get_by_label("Show").select_option("capture")
    page.wait_for_selector(f'.mark-slice:has-text("Image 1 of 1"):not(:has-text("of {ABDOMEN}"))')
    assert page.locator(".mark-remark").count() == 0
    page.locator(".view-image").first.focus()
    page.keyboard.press("PageDown")
    page.wait_for_selector(".mark-remark:has-text('Not made from the image beside it')")
