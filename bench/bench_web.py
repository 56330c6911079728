"""The web client in a headless Chromium without a graphics card: first image, scrolling, many jobs.

The platform itself serves the page.
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
from pathlib import Path

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


def bench() -> list[Figure]:
    """One platform, one browser; a context of its own for each first view."""
    built = built_client()
    with tempfile.TemporaryDirectory(prefix="mip-bench-pacs-") as folder, new_home() as home:
        linked(sorted(samples.chest_ct(samples.default_cache()).glob("*.dcm")), Path(folder))
        with chromium() as browser:
            options = unconfined(ROOT / "bench" / "processors")
            with Platform(home, pacs=Path(folder), options=options) as running:
                lists, images, pages, loading, rates = [], [], [], [], []
                for _ in range(ROUNDS):
                    someone = Person(browser, running.base)
                    began = time.perf_counter()
                    someone.visit().wait_for_selector(".series-card")
                    listed = time.perf_counter()
                    someone.open_series(SLICES)
                    shown = time.perf_counter()
                    lists.append(listed - began)
                    images.append(shown - listed)
                    pages.append(shown - began)
                    loading.append(float(someone.page.evaluate(_SCROLL, STEPS_WHILE_LOADING)))
                    someone.wait_loaded(SLICES)
                    rates.append(float(someone.page.evaluate(_SCROLL, STEPS)))
                    someone.close()
                paged, filtered = _many_jobs(running, Person(browser, running.base))
                running.kill()
    return [
        Figure("JavaScript before the viewer, gzip", "kB", [_entry_kb(built)], 400),
        Figure("cold page until the list of series", "s", lists),
        Figure("click on a series in the list until its image", "s", images, 1.0),
        Figure("cold page, list and click until the image", "s", pages, 1.0),
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
