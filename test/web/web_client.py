"""The web client as the tests use it: built once for what its sources are, seen with Debian's Chromium."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from medical_image_processing.entrypoints.web_build import CLIENT, build_client

CHROMIUM = "/usr/bin/chromium"
BUILD_S = 600
WAIT_MS = 60_000
SHOTS = Path(os.environ.get("MIP_SCREENSHOTS") or CLIENT / "screenshots")
"""Where pictures of the screens go: test output, looked at by people."""

# There is no graphics card: WebGL, where a page uses it, is drawn by SwiftShader.
_FLAGS = ["--enable-unsafe-swiftshader"]


@functools.cache
def built_client() -> Path:
    """The folder of the built client. Built again where its sources have changed since."""
    return build_client()


def run_npm(*arguments: str) -> None:
    """Run npm in the client's folder. AssertionError, with what it said, when it fails."""
    done = subprocess.run(
        ["npm", *arguments], cwd=CLIENT, capture_output=True, text=True, timeout=BUILD_S, check=False
    )
    assert done.returncode == 0, f"npm {' '.join(arguments)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """A browser without a window. As root its sandbox can't be had, and what it loads is ours."""
    flags = (*_FLAGS, *flags, "--no-sandbox") if os.geteuid() == 0 else (*_FLAGS, *flags)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(flags))
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody with a browser of their own, and so with a client_id of their own."""

    def __init__(
        self,
        browser: Browser,
        origin: str,
        *,
        width: int = 1280,
        theme: str = "light",
        lang: str = "en",
        trusts_all: bool = False,
    ) -> None:
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": 800 if width > 700 else 844},
            color_scheme="dark" if theme == "dark" else "light",
            locale=lang,
            accept_downloads=True,
            ignore_https_errors=trusts_all,
        )
        self.context.set_default_timeout(WAIT_MS)
        self.page: Page = self.context.new_page()
        self.broken: list[str] = []
        """What the page says is wrong with itself: exceptions, and what its own policy, or HTTPS, forbids."""
        self.page.on("pageerror", lambda error: self.broken.append(str(error)))
        self.page.on("console", self._note)
        self.origin = origin

    def _note(self, message: object) -> None:
        text = getattr(message, "text", "")
        if any(
            words in text for words in ("Content Security Policy", "Mixed Content", "The above error occurred")
        ):
            self.broken.append(text)

    def visit(self, screen: str = "find") -> Page:
        """Open the client."""
        self.page.goto(f"{self.origin}/#/{screen}")
        self.page.wait_for_selector("main h1, main .empty")
        return self.page

    def go(self, name: str) -> None:
        """To another screen, by its name in the navigation."""
        self.page.locator("nav.tabs a", has_text=name).click()

    def give_admin_key(self, key: str) -> None:
        """On the screen of the algorithms."""
        self.go("Algorithms")
        self.page.get_by_label("Admin key").fill(key)
        self.page.get_by_role("button", name="Open the registry").click()
        self.page.wait_for_selector("button:has-text('Register an algorithm')")

    def open_series(self, images: int) -> None:
        """The series of so many images, from the list, until its first image is drawn."""
        words = "1 image" if images == 1 else f"{images} images"
        self.page.locator(".series-card", has_text=words).first.click()
        self.page.wait_for_selector('.view-image[data-ready="true"]')

    def wait_loaded(self, images: int) -> None:
        """Until all images of the open series are there."""
        self.page.wait_for_selector(f'.views[data-loaded="{images}"]')

    def choose_algorithm(self, algo_id: str) -> None:
        """In the panel beside the images."""
        choice = self.page.locator(".side form label select").first
        choice.locator(f"option[value='{algo_id}']").wait_for(state="attached")
        choice.select_option(algo_id)

    def run(self, algo_id: str, *, until: str = "SUCCEEDED", scope: str = "series") -> str:
        """Send a job, and wait for its end; its id."""
        self.choose_algorithm(algo_id)
        self.page.locator(".side select:has(option[value='series'])").select_option(scope)
        self.page.get_by_role("button", name="Run", exact=True).click()
        card = self.page.wait_for_selector(f'.job-card[data-status="{until}"]')
        assert card is not None
        return card.get_attribute("data-job") or ""

    def give_parameters(self, **parameters: object) -> None:
        """As JSON, to the chosen algorithm, whose record describes none."""
        self.page.locator(".side summary").click()
        self.page.locator(".side textarea").fill(json.dumps(parameters))

    def become(self, client_id: str) -> None:
        """This browser's pages are that client's, as those of another browser are that was given its id."""
        self.context.add_init_script(f"localStorage.setItem('mip.client_id', {json.dumps(client_id)})")

    def client_id(self) -> str:
        """What this browser is to the platform."""
        return str(self.page.evaluate("localStorage.getItem('mip.client_id')"))

    def shot(self, name: str) -> Path:
        """Keep a picture of the page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def close(self) -> None:
        """The browser's window goes, and nothing of it stays."""
        self.context.close()


MakePerson = Callable[..., Person]
