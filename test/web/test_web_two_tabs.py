"""Two tabs of one browser are one client: what one of them sends is shown by both."""

from __future__ import annotations

from playwright.sync_api import Page
from web_client import MakePerson, Person
from web_series import place_of

from api_calls import Api
from platform_process import Platform

ABDOMEN = 20


def other_tab(person: Person, screen: str) -> Page:
    """A second tab, beside the person's own, that is connected."""
    tab = person.context.new_page()
    tab.on("pageerror", lambda error: person.broken.append(str(error)))
    tab.goto(f"{person.page.url.partition('#')[0]}#/{screen}")
    tab.wait_for_selector(".connection.is-open")
    return tab


def test_what_one_tab_sends_both_show(person: MakePerson) -> None:
    someone = person()
    someone.visit().wait_for_selector(".connection.is-open")
    tab = other_tab(someone, "jobs")
    assert tab.evaluate("localStorage.getItem('mip.client_id')") == someone.client_id()
    someone.open_series(ABDOMEN)
    job_id = someone.run("processing_1")
    someone.page.wait_for_selector(".measurements")
    row = tab.locator(f'tr[data-job="{job_id}"][data-status="SUCCEEDED"]')
    row.get_by_role("button", name="Show result").click()
    tab.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    tab.wait_for_selector(".measurements")
    assert someone.page.locator(".view").count() == tab.locator(".view").count() == 2


def test_a_result_is_pushed_to_both_tabs_and_to_the_one_that_is_left(
    person: MakePerson, web_platform: Platform
) -> None:
    someone = person()
    someone.visit("jobs").wait_for_selector(".connection.is-open")
    tab = other_tab(someone, "jobs")

    def send() -> str:
        client_id = str(tab.evaluate("localStorage.getItem('mip.client_id')"))
        place = place_of(web_platform, ABDOMEN)
        return str(Api(web_platform).process("processing_1", client_id=client_id, pacs=place))

    job_id = send()
    for page in (someone.page, tab):
        page.wait_for_selector(f'tr[data-job="{job_id}"][data-status="SUCCEEDED"]')
    someone.page.goto("about:blank")
    tab.wait_for_selector(f'tr[data-job="{send()}"][data-status="SUCCEEDED"]')
