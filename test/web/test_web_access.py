"""For everybody: axe finds nothing serious, both themes, a telephone's width, the keyboard alone."""

from __future__ import annotations

import pytest
from web_client import CLIENT, MakePerson, Person


def violations(person: Person) -> list[str]:
    """What axe-core finds that is serious or critical."""
    person.page.evaluate((CLIENT / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = person.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_screens_have_no_serious_violation_and_fit(person: MakePerson, theme: str, width: int) -> None:
    someone = person(theme=theme, width=width)
    page = someone.visit()
    page.wait_for_selector(".series-card")
    someone.open_series(20)
    someone.wait_loaded(20)
    someone.run("processing_1")
    page.wait_for_selector(".measurements")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    wrong: dict[str, list[str]] = {}
    for screen in ("Viewer", "Find", "Jobs", "Algorithms"):
        someone.go(screen)
        if screen == "Algorithms":
            someone.give_admin_key("dev-admin")
            page.get_by_role("button", name="processing_1", exact=True).click()
            page.wait_for_selector(".plot")
            page.get_by_role("button", name="Register an algorithm").click()
            page.locator("dialog form").get_by_role("button", name="Register an algorithm").click()
            page.wait_for_selector("dialog .problem")
            wrong["Register"] = violations(someone)
            page.keyboard.press("Escape")
            page.locator("dialog").wait_for(state="detached")
        page.wait_for_selector("main h1")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        someone.shot(f"{screen.lower()}-{width}-{theme}")
        wrong[screen] = violations(someone) + ([f"{wide} pixels too wide"] if wide > 0 else [])
    assert wrong == {screen: [] for screen in wrong}


@pytest.mark.parametrize("width", [1280, 390])
def test_screens_in_italian_have_no_serious_violation_and_fit(person: MakePerson, width: int) -> None:
    someone = person(lang="it", width=width)
    page = someone.visit()
    page.locator(".series-card", has_text="20 immagini").click()
    page.wait_for_selector('.view-image[data-ready="true"]')
    someone.wait_loaded(20)
    someone.choose_algorithm("processing_1")
    page.get_by_role("button", name="Esegui", exact=True).click()
    page.wait_for_selector(".measurements")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    wrong: dict[str, list[str]] = {}
    for screen in ("Visore", "Cerca", "Lavori", "Algoritmi"):
        someone.go(screen)
        page.wait_for_selector(f"main h1, h1:has-text('{screen}')")
        if screen == "Algoritmi":
            wrong["locked"] = violations(someone)
            page.get_by_label("Chiave di amministrazione").fill("dev-admin")
            page.get_by_role("button", name="Apri il registro").click()
            page.get_by_role("button", name="processing_1", exact=True).click()
            page.wait_for_selector(".plot")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        someone.shot(f"{screen.lower()}-{width}-it")
        wrong[screen] = violations(someone) + ([f"{wide} pixels too wide"] if wide > 0 else [])
    assert page.locator("html").get_attribute("lang") == "it"
    assert wrong == {screen: [] for screen in wrong}


def test_a_job_is_sent_with_the_keyboard_alone(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    page.wait_for_selector(".series-card")

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"no {selector} by Tab")

    tab_to(".series-card:has(.series-words)")
    page.keyboard.press("Enter")
    page.wait_for_selector('.view-image[data-ready="true"]')
    page.locator(".side option[value='processing_1']").wait_for(state="attached")
    tab_to(".side form button.main")
    page.keyboard.press("Enter")
    page.wait_for_selector(".job-card")
