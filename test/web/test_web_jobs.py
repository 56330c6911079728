"""A person's jobs: what they were asked for, found again, followed while they run, and why they failed."""

from __future__ import annotations

from pathlib import Path

import pydicom
from web_client import MakePerson
from web_series import occupied, place_of

from api_calls import Api, until
from platform_process import Platform

ABDOMEN = 20


def test_what_a_job_was_asked_for_outlives_the_page(person: MakePerson, web_platform: Platform) -> None:
    someone, api = person(), Api(web_platform)
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    someone.choose_algorithm("puppet")
    someone.give_parameters(do="work", names=["a", None])
    first = someone.run("puppet", scope="image")
    asked = api.job(first)["pacs"]
    assert asked["scope"] == "image" and asked["image_id"]
    elsewhere = person()
    elsewhere.become(someone.client_id())
    elsewhere.visit("jobs")
    page.reload()
    for one in (someone, elsewhere):
        one.go("Jobs")
        row = one.page.locator(f'tr[data-job="{first}"]')
        row.locator(f"text={asked['image_id']}").wait_for()
        assert "Image" in row.inner_text()
    page.locator(f'tr[data-job="{first}"]').get_by_role("button", name="Run again").click()
    again = page.wait_for_selector(f'tr[data-status="SUCCEEDED"]:not([data-job="{first}"])')
    assert again is not None
    job = api.job(again.get_attribute("data-job") or "")
    assert (job["pacs"], job["parameters"]) == (asked, {"do": "work", "names": ["a", None]})
    elsewhere.page.locator(f'tr[data-job="{first}"]').get_by_role("button", name="Show result").click()
    elsewhere.page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    assert elsewhere.page.locator(".mark-title").nth(1).inner_text() == "Result of puppet"


def test_a_studys_result_is_shown_beside_the_series_it_was_made_of(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    job_id = someone.run("puppet", scope="study")
    page.reload()
    someone.go("Jobs")
    page.locator(f'tr[data-job="{job_id}"]').get_by_role("button", name="Show result").click()
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    page.wait_for_selector(f'.mark-slice:has-text("of {ABDOMEN}")')


def test_a_filter_finds_what_lies_behind_the_first_page(person: MakePerson, web_platform: Platform) -> None:
    someone, api = person(), Api(web_platform)
    page = someone.visit("jobs")
    page.wait_for_selector("text=No jobs yet")
    client_id, pacs = someone.client_id(), place_of(web_platform, ABDOMEN)
    failed = api.process("puppet", client_id=client_id, pacs=pacs, do="raise")
    api.until_job(failed, "FAILED")
    with occupied(web_platform):
        waiting = [api.process("puppet", client_id=client_id, pacs=pacs) for _ in range(101)]
        for job_id in waiting:
            assert api.post(f"/jobs/{job_id}/cancel").status_code == 200
    page.reload()
    page.wait_for_selector(f'tr[data-job="{waiting[-1]}"]')
    assert page.locator("tr[data-job]").count() == 100
    assert page.locator(f'tr[data-job="{failed}"]').count() == 0
    page.get_by_label("Status").select_option("FAILED")
    page.wait_for_selector(f'tr[data-job="{failed}"]')
    assert page.locator("tr[data-job]").count() == 1
    page.get_by_label("Status").select_option("SUCCEEDED")
    page.wait_for_selector("text=No job matches")
    done = api.process("puppet", client_id=client_id, pacs=pacs)  # and it stays live
    page.wait_for_selector(f'tr[data-job="{done}"][data-status="SUCCEEDED"]')
    page.get_by_label("Algorithm").select_option("processing_1")  # which it never used
    page.wait_for_selector("text=No job matches")
    page.get_by_label("Status").select_option("")
    page.get_by_label("Algorithm").select_option("puppet")
    page.wait_for_selector(f'tr[data-job="{done}"]')
    page.get_by_role("button", name="Older").click()
    page.wait_for_selector(f'tr[data-job="{failed}"]')


def test_a_job_that_runs_shows_its_progress_and_the_time_left(person: MakePerson, tmp_path: Path) -> None:
    half, whole = tmp_path / "half", tmp_path / "whole"
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.choose_algorithm("puppet")
    someone.give_parameters(do="wait", files=[str(half), str(whole)])
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector('.job-card[data-status="RUNNING"]')
    half.touch()
    page.wait_for_selector('.job-card[data-status="RUNNING"] progress[value]')
    page.wait_for_selector(".job-card:has-text('50 %'):has-text(' left')")
    whole.touch()
    page.wait_for_selector('.job-card[data-status="SUCCEEDED"]:has-text("took ")')


def test_a_failure_is_explained_in_the_pages_language(person: MakePerson, web_platform: Platform) -> None:
    job = {"pacs": place_of(web_platform, ABDOMEN), "do": "raise"}
    english, italian = person(), person(lang="it-IT")
    for someone in (english, italian):
        someone.visit("jobs").wait_for_selector(".connection.is-open")
        Api(web_platform).process("puppet", client_id=someone.client_id(), **job)
    note = english.page.locator("tr .note.bad")
    note.locator("text=The algorithm failed.").wait_for()
    assert "What to do: Ask an admin" in note.inner_text()
    italian.page.wait_for_selector('tr .note.bad:has-text("L\'algoritmo è andato in errore.")')
    said = italian.page.locator("tr .note.bad")
    assert "Cosa fare: Chiedi" in said.inner_text()
    own = said.locator('[lang="en"]').inner_text()
    assert "the algorithm raised RuntimeError" in own, "the platform's own sentence stays visible"
    assert "PUPPET" not in said.inner_text()
    someone = english
    until(lambda: someone.page.locator(".note.bad code").inner_text() == "ALGORITHM_RAISED", "the code is there")


def test_a_result_that_names_another_study_is_said_to(person: MakePerson, web_platform: Platform) -> None:
    someone = person()
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    job_id = someone.run("processing_1", scope="image")
    warning = page.locator("[role=alert]:has-text('names another study')")
    page.wait_for_selector(".measurements")
    assert warning.count() == 0
    for output in Api(web_platform).job(job_id)["result"]["outputs"]:
        file = web_platform.home / "output" / output["key"]  # where results lie as plain files
        result = pydicom.dcmread(file)
        result.StudyInstanceUID = pydicom.uid.generate_uid()
        result.save_as(file)
    page.reload()
    someone.go("Jobs")
    page.locator(f'tr[data-job="{job_id}"]').get_by_role("button", name="Show result").click()
    warning.wait_for()
