"""The web client in a headless Chromium without a graphics card: first image, scrolling, many jobs.

The platform itself serves the page. A cold page is one of a browser that has nothing of this platform: each is
seen in a new window, whose first half second of CPU is the browser's own (its address bar is made of pages, too).
So the first view is measured in turns: in a window that has come to rest, and in one that has just been opened.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser

from harness import ROOT, Figure, Platform, Poster, job_body, linked, new_home, register, run, unconfined
from medical_image_processing import samples

sys.path.insert(0, str(ROOT / "test" / "web"))
from web_client import Person, built_client, chromium

ALGO_ID = "bench_wait"
SLICES = 236
ROUNDS = 5
JOBS = 5000
STEPS = 100
STEPS_WHILE_LOADING = 40
REST_S = 60

_SCROLL = """async steps => {
    const frame = document.querySelector(".view-image"), place = frame.querySelector(".view-canvas");
    const began = performance.now();
    for (let step = 0; step < steps; step += 1) {
        const drawn = new Promise(done =>
            place.addEventListener("CORNERSTONE_IMAGE_RENDERED", done, {once: true}));
        const key = step < steps / 2 ? "ArrowDown" : "ArrowUp";
        frame.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
        await drawn;
    }
    return steps / (performance.now() - began) * 1e3;
}"""
_LONGEST = """async () => {
    const select = document.querySelector(".filters select");
    const set = Object.getOwnPropertyDescriptor(HTMLSelectElement.prototype, "value").set;
    const times = [];
    for (const value of ["QUEUED", "SUCCEEDED", "", "QUEUED", ""]) {
        const began = performance.now();
        set.call(select, value);
        select.dispatchEvent(new Event("change", {bubbles: true}));
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        times.push(performance.now() - began);
    }
    return times;
}"""


def _cpu_s(browser: Browser) -> float:
    """What all of the browser's processes have used."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return float(sum(process["cpuTime"] for process in processes))


def _come_to_rest(browser: Browser) -> None:
    """Wait until the browser does nothing any more. AssertionError where that doesn't come."""
    end = time.monotonic() + REST_S
    used, idle = _cpu_s(browser), 0
    while idle < 3:
        assert time.monotonic() < end, f"the browser is still at work after {REST_S} s"
        time.sleep(0.1)
        before, used = used, _cpu_s(browser)
        idle = idle + 1 if used - before < 0.02 else 0


@dataclass
class _View:
    """A first view of an image, from an empty window: seconds."""

    listed: float
    clicked: float
    cpu: float

    @property
    def all(self) -> float:
        return self.listed + self.clicked


def _view(browser: Browser, someone: Person) -> _View:
    used = _cpu_s(browser)
    began = time.perf_counter()
    someone.visit().wait_for_selector(".series-card")
    listed = time.perf_counter()
    someone.open_series(SLICES)
    shown = time.perf_counter()
    return _View(listed - began, shown - listed, _cpu_s(browser) - used)


def bench() -> list[Figure]:
    """One platform, one browser; a context of its own for each first view."""
    built = built_client()
    with tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder, new_home() as home:
        linked(sorted(samples.chest_ct(samples.default_cache()).glob("*.dcm")), Path(folder))
        with chromium() as browser:
            options = unconfined(ROOT / "bench" / "processors")
            with Platform(home, pacs=Path(folder), options=options) as running:
                first: list[_View] = []
                views: dict[bool, list[_View]] = {True: [], False: []}
                loading, rates = [], []
                for number in range(2 * ROUNDS + 1):
                    someone = Person(browser, running.base)
                    rests = number % 2 == 0
                    if rests:
                        _come_to_rest(browser)
                    (views[rests] if number else first).append(_view(browser, someone))
                    loading.append(float(someone.page.evaluate(_SCROLL, STEPS_WHILE_LOADING)))
                    someone.wait_loaded(SLICES)
                    rates.append(float(someone.page.evaluate(_SCROLL, STEPS)))
                    someone.close()
                paged, filtered = _many_jobs(running, Person(browser, running.base))
                running.kill()
    resting, opening = views[True], views[False]
    return [
        Figure("JavaScript before the viewer, gzip", "kB", [_entry_kb(built)], 400),
        Figure("cold page until the list of series", "s", [view.listed for view in resting]),
        Figure("click on a series in the list until its image", "s", [view.clicked for view in resting], 1.0),
        Figure("cold page, list and click until the image", "s", [view.all for view in resting], 1.0),
        Figure("… the browser's CPU for it", "s", [view.cpu for view in resting]),
        Figure("… in a window that has just been opened", "s", [view.all for view in opening], 1.0),
        Figure("… of the platform's first visitor", "s", [view.all for view in first]),
        Figure("scroll steps while the series loads", "steps/s", loading),
        Figure("scroll steps on loaded slices", "steps/s", rates, 50, at_least=True),
        Figure(f"a page with {JOBS} jobs: until the first are shown", "s", [paged]),
        Figure("… a change of the filter", "ms", filtered, 100, of=statistics.median),
    ]


def _many_jobs(running: Platform, someone: Person) -> tuple[float, list[float]]:
    """Seconds until the jobs are shown, and milliseconds that changes of the filter take once all are loaded."""
    with running.client() as client:
        register(client, ALGO_ID, workers=1)
    page = someone.visit("jobs")
    page.wait_for_selector(".connection.is-open")
    client_id = someone.client_id()
    with ThreadPoolExecutor(1) as beside:  # this thread has Playwright's event loop
        beside.submit(asyncio.run, _post(running.base, client_id)).result()
    began = time.perf_counter()
    page.reload()
    page.wait_for_selector(".rows tbody tr >> nth=99")
    shown = time.perf_counter() - began
    for count in range(200, JOBS + 1, 100):
        page.get_by_role("button", name="Older").click()
        page.wait_for_selector(f".paging:has-text('Page {count // 100}')")
    times = [float(one) for one in page.evaluate(_LONGEST)]
    someone.close()
    return shown, times


async def _post(base: str, client_id: str) -> None:
    poster = await Poster.open(base)
    for number in range(JOBS):
        body = job_body(f"web-{number}", "000", {"seconds": 600}) | {"client_id": client_id}
        await poster.accept(poster.request(ALGO_ID, body))


def _entry_kb(built: Path) -> float:
    names = set(re.findall(r'(?:src|href)="/(assets/[^"]+\.js)"', (built / "index.html").read_text()))
    return sum(len(gzip.compress((built / name).read_bytes())) for name in names) / 1000


if __name__ == "__main__":
    run(bench, "The web client")
