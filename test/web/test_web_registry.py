"""An admin registers, scales, edits and removes algorithms in the browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect
from web_client import MakePerson, Person
from web_series import place_of

from api_calls import SEED_BODY, Api, error_of
from platform_process import Platform


def register(admin: Person, algo_id: str) -> None:
    """Fill in the form, and send it."""
    page = admin.page
    page.get_by_role("button", name="Register an algorithm").click()
    form = page.locator("dialog form")
    form.get_by_label("Id", exact=True).fill(algo_id)
    form.get_by_label("Image").first.fill("mip-algos:processing_6")
    form.get_by_role("button", name="Register an algorithm").click()


def test_a_new_algorithm_gets_its_result_without_a_restart(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    register(someone, "processing_6")
    page.wait_for_selector('tr[data-algorithm="processing_6"][data-status="ACTIVE"]')
    someone.go("Find")
    someone.open_series(20)
    someone.wait_loaded(20)
    someone.run("processing_6", scope="image")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    assert page.locator(".mark-title").nth(1).inner_text() == "Result of processing_6"


def test_cpu_and_memory_are_offered_as_the_api_takes_them(person: MakePerson, web_platform: Platform) -> None:
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="Register an algorithm").click()
    form = page.locator("dialog form")
    form.get_by_label("CPU").select_option("256")
    expect(form.get_by_label("Memory").locator("option")).to_have_text(["512 MiB", "1 GiB", "2 GiB"])
    form.get_by_label("CPU").select_option("16384")
    expect(form.get_by_label("Memory").locator("option").first).to_have_text("32 GiB")
    body = {**SEED_BODY, "algo_id": "never", "cpu": 256, "memory": 4096}
    assert Api(web_platform).post("/admin/algorithms", body).status_code == 422, "what is not offered is refused"


def test_a_form_says_at_each_field_what_is_wrong_and_registers_all_of_it(
    person: MakePerson, web_platform: Platform
) -> None:
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="Register an algorithm").click()
    form = page.locator("dialog form")
    send = form.get_by_role("button", name="Register an algorithm")
    send.click()
    expect(form.locator(".problem")).to_have_count(2)  # id and image
    expect(form.locator(":focus")).to_have_attribute("aria-invalid", "true")
    form.get_by_label("Id", exact=True).fill("not_installed")
    form.get_by_label("Image", exact=True).fill("mip-algos:not_installed")
    form.get_by_label("At least").fill("2")
    form.locator(".problem", has_text="No more than the workers").wait_for()
    form.get_by_label("Workers").fill("2")
    form.get_by_label("At most").fill("3")
    form.get_by_label("Environment").fill("QUEUE_URL=elsewhere")
    send.click()
    refused = form.locator(".field", has=page.get_by_label("Environment")).locator(".problem")
    refused.wait_for()
    assert "env may not set QUEUE_URL" in refused.inner_text()
    form.get_by_label("Environment").fill("EXTRA=a=b")
    form.get_by_label("Description").fill("Never starts")
    form.get_by_label("Parameters").fill('{"type": "object", "properties": {"above": {"type": "number"}}}')
    form.get_by_label("without what identifies").check()
    someone.shot("register")
    send.click()
    page.locator("dialog").wait_for(state="detached")
    record = Api(web_platform).record("not_installed")
    said = {name: record[name] for name in ("min_count", "desired_count", "max_count", "env", "description")}
    assert said == {
        "min_count": 2,
        "desired_count": 2,
        "max_count": 3,
        "env": {"EXTRA": "a=b"},
        "description": "Never starts",
    }
    assert record["deidentify"] and record["parameters"]["properties"] == {"above": {"type": "number"}}
    page.wait_for_selector('tr[data-algorithm="not_installed"][data-status="FAILED"]')
    page.wait_for_selector(".panel .note.bad:has-text('Reason')")
    page.get_by_role("button", name="Edit", exact=True).click()
    page.locator("dialog").get_by_label("Description").wait_for()
    assert page.locator("dialog").get_by_label("without what identifies").count() == 0, "that is for good"


def test_an_edit_on_an_old_revision_is_refused_and_said(person: MakePerson, web_platform: Platform) -> None:
    api = Api(web_platform)
    api.register("processing_stale", wait_for=None)
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="processing_stale").click()
    page.get_by_role("button", name="Edit", exact=True).click()
    changed = api.http.patch("/admin/algorithms/processing_stale", json={"cpu": 2048, "memory": 4096})
    assert changed.status_code == 200
    page.locator("dialog").get_by_label("Image").first.fill("other:image")
    page.locator("dialog").get_by_role("button", name="Save").click()
    page.wait_for_selector("dialog .note.bad:has-text('Somebody changed it')")
    assert api.record("processing_stale")["image_uri"] != "other:image"
    page.locator("dialog").get_by_role("button", name="Save").click()
    page.locator("dialog").wait_for(state="detached")
    record = api.record("processing_stale")
    assert (record["image_uri"], record["cpu"], record["memory"]) == ("other:image", 2048, 4096), "both are kept"


def test_scaling_and_removing_say_what_they_mean(person: MakePerson, web_platform: Platform) -> None:
    api = Api(web_platform)
    api.register("processing_gone", wait_for=None)
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="processing_gone").click()
    page.locator(".panel").get_by_label("Workers").fill("0")
    page.get_by_role("button", name="Scale").click()
    page.wait_for_selector('tr[data-algorithm="processing_gone"][data-status="INACTIVE"]')
    assert api.record("processing_gone")["desired_count"] == 0
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_label("Remove for good", exact=False).check()
    page.get_by_role("button", name="Remove processing_gone").click()
    page.wait_for_selector('tr[data-algorithm="processing_gone"]', state="detached")
    api.until_gone("processing_gone")


def test_a_removal_does_to_jobs_what_it_says(person: MakePerson, web_platform: Platform, tmp_path: Path) -> None:
    api = Api(web_platform)
    api.register("puppet-2", env=api.record("puppet")["env"])
    pacs = place_of(web_platform, 20)
    running = api.process("puppet-2", pacs=pacs, do="wait", file=str(tmp_path / "go"))
    api.until_job(running, "RUNNING")
    waiting = [api.process("puppet-2", pacs=pacs) for _ in range(3)][-1]
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="puppet-2").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_label("It takes no new jobs from now on. Its workers end").check()
    page.get_by_role("button", name="Turn off puppet-2").click()
    page.locator("dialog").wait_for(state="detached")
    refused = api.post("/process/puppet-2", {"pacs": pacs})
    assert error_of(refused) == "ALGORITHM_NOT_ACTIVE"
    (tmp_path / "go").touch()
    page.wait_for_selector('tr[data-algorithm="puppet-2"][data-status="INACTIVE"]')
    assert (api.job(running)["status"], api.job(waiting)["status"]) == ("SUCCEEDED", "QUEUED")
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_label("Remove for good", exact=False).check()
    page.get_by_role("button", name="Remove puppet-2").click()
    page.wait_for_selector("dialog .note.bad:has-text('Jobs of this algorithm wait or run.')")
    page.get_by_label("Even if jobs wait or run").check()
    page.get_by_role("button", name="Remove puppet-2").click()
    page.wait_for_selector('tr[data-algorithm="puppet-2"]', state="detached")
    assert api.job(waiting)["error"]["code"] == "ALGORITHM_DELETED"
    assert api.job(running)["result"], "what was there stays"


def test_the_log_is_followed_live(person: MakePerson, web_platform: Platform) -> None:
    someone, api = person(), Api(web_platform)
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="puppet", exact=True).click()
    page.wait_for_selector(".log-line.is-INFO time")
    raised = api.process("puppet", pacs=place_of(web_platform, 20), do="raise")
    page.wait_for_selector(f'.log-line:has-text("job_id={raised}"):has-text("RuntimeError")')
    assert "{" not in page.locator(".log-line.is-INFO").first.inner_text(), "it is read, not shown as JSON"
    api.succeeds("puppet", pacs=place_of(web_platform, 20))
    words = page.locator('.plot[aria-label*="Durations of the last 24 hours: median"]')
    words.wait_for()
    assert page.locator(".plot .median").count() >= 1
    assert page.locator(".plot .failed").count() >= 1
    someone.shot("algorithms")


def test_parameters_that_a_record_describes_become_fields(person: MakePerson, web_platform: Platform) -> None:
    api = Api(web_platform)
    schema = {
        "type": "object",
        "properties": {"above": {"type": "number", "title": "Above (HU)", "default": 300, "maximum": 1000}},
    }
    changed = api.http.patch("/admin/algorithms/processing_1", json={"parameters": schema, "description": "Liver"})
    assert changed.status_code == 200, changed.text
    someone = person()
    page = someone.visit()
    someone.open_series(20)
    someone.wait_loaded(20)
    someone.choose_algorithm("processing_1")
    page.get_by_label("Above (HU)").fill("400")
    page.wait_for_selector(".side small:has-text('Liver')")
    with page.expect_request("**/process/processing_1") as sent:
        page.get_by_role("button", name="Run", exact=True).click()
    assert sent.value.post_data_json["parameters"] == {"above": 400}
    page.wait_for_selector(".job-card")


def test_a_wrong_admin_key_opens_nothing(person: MakePerson) -> None:
    someone = person()
    page = someone.visit("algorithms")
    page.get_by_label("Admin key").fill("wrong")
    page.get_by_role("button", name="Open the registry").click()
    page.wait_for_selector("[role=alert]:has-text('admin key is wrong')")
    assert page.locator(".rows").count() == 0
    page.get_by_label("Admin key").fill("ключ")  # which no header can hold
    page.get_by_role("button", name="Open the registry").click()
    page.wait_for_selector("[role=alert]:has-text('The key is wrong.')")


def test_an_algorithm_that_goes_while_it_is_chosen_is_not_replaced(
    person: MakePerson, web_platform: Platform
) -> None:
    api = Api(web_platform)
    api.register("puppet-3", env=api.record("puppet")["env"])
    someone = person()
    page = someone.visit()
    someone.open_series(20)
    someone.choose_algorithm("puppet-3")
    api.http.patch("/admin/algorithms/puppet-3", json={"desired_count": 0}).raise_for_status()
    choice = page.locator(".side form select").first
    choice.locator("option:has-text('puppet-3: takes no jobs now')").wait_for(state="attached")
    expect(choice).to_have_value("puppet-3")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
