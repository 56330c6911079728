"""An admin registers, scales, edits and removes algorithms in the browser."""

from __future__ import annotations

from web_client import MakePerson, Person

from api_calls import Api
from platform_process import Platform


def register(admin: Person, algo_id: str) -> None:
    """Fill in the form, and send it."""
    page = admin.page
    page.get_by_role("button", name="Register an algorithm").click()
    form = page.locator("dialog form")
    form.get_by_label("Id", exact=False).first.fill(algo_id)
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


def test_cpu_and_memory_are_offered_as_the_api_takes_them(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="Register an algorithm").click()
    form = page.locator("dialog form")
    form.get_by_label("CPU").select_option("256")
    assert form.get_by_label("Memory").locator("option").all_inner_texts() == ["512 MiB", "1 GiB", "2 GiB"]
    form.get_by_label("CPU").select_option("16384")
    assert form.get_by_label("Memory").locator("option").first.inner_text() == "32 GiB"


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


def test_the_log_is_followed_live(person: MakePerson) -> None:
    someone = person()
    page = someone.visit()
    someone.give_admin_key("dev-admin")
    page.get_by_role("button", name="processing_1").click()
    page.wait_for_selector(".log:has-text('processing_1')")
    page.wait_for_selector(".plot")
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
    page.wait_for_selector("[role=alert]:has-text('admin key is wrong'), button:has-text('Open the registry')")
    assert page.locator(".rows").count() == 0
