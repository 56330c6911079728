"""The web client, served from an origin of its own, against the AWS engine: the stack as its template says, on an
emulator that enforces IAM and S3's CORS rules; its REST and WebSocket APIs, its Lambdas, the PACS API's service
over a bucket, and workers that hold what their task definitions and roles give them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest
from playwright.sync_api import Browser
from web_client import Person, built_client
from web_site import running_site

from api_calls import Api, until
from aws_emulator import AwsEmulator, EmulatorMissing, running_emulator
from aws_gateway import HOST, STAGE, Gateway, running_gateway
from aws_platform import OPERATOR_KEY, AwsPlatform
from aws_processes import fill_bucket, running_pacs, running_worker
from aws_stack import EMULATOR_CONTEXT, AwsStack, deploy
from free_ports import free_port
from medical_image_processing.testing import puppet

PORT = 3100
ORIGIN = f"http://localhost:{PORT}"
"""Not the development server's: the deployment is told, and lets no other page call."""
BUCKET = "mip-web-images"
ABDOMEN = 20
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mip-algos@sha256:" + "a" * 64
UNDECIDED = {
    "Processing": ["ecs:DescribeServices"],
    "Admin": ["ecs:DescribeServices", "logs:DescribeLogStreams", "logs:GetLogEvents"],
    "Provisioner": ["*"],
}
WAIT_S = 120.0


@dataclass(frozen=True)
class Site:
    """Where everything is."""

    platform: AwsPlatform
    gateway: Gateway
    client_key: str
    pacs_base: str

    def place_of(self, images: int) -> dict[str, str]:
        """How a job names the series of so many images."""
        headers = {"x-api-key": OPERATOR_KEY}
        series = httpx.get(f"{self.pacs_base}/series", headers=headers, timeout=60, trust_env=False).json()
        [found] = [one for one in series if one["images"] == images]
        return {"study_id": found["study_id"], "series_id": found["series_id"], "scope": "series"}

    def api(self) -> Api:
        return Api(self.platform, admin_key=self.platform.stack.admin_key, client_key=self.client_key)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def emulator(samples_cache: Path) -> Iterator[AwsEmulator]:
    try:
        with running_emulator(samples_cache, enforce_iam=True) as running:
            yield running
    except EmulatorMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def site(emulator: AwsEmulator, web_pacs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Deployed, served, with an algorithm that has a worker each."""
    folder, pacs_port = tmp_path_factory.mktemp("web-aws"), free_port()
    parameters = {"Clients": "keys", "PacsBase": f"http://127.0.0.1:{pacs_port}"}
    stack = deploy(emulator, parameters=parameters, context={**EMULATOR_CONTEXT, "allow_origins": ORIGIN})
    _decide(stack)
    fill_bucket(stack, BUCKET, _named_by_uid(web_pacs, folder / "bucket"), origin=ORIGIN)
    with ExitStack() as running:
        running.enter_context(running_pacs(stack, folder, port=pacs_port, MIP_PACS_BUCKET=BUCKET))
        gateway = running.enter_context(running_gateway(stack))
        websocket = f"ws://{stack.websocket_id}.{HOST}:{emulator.port}"
        addresses = {"api_base": gateway.base, "ws_endpoint": f"{websocket}/{STAGE}"}
        others = [gateway.origin, websocket, emulator.endpoint, f"http://localhost:{emulator.port}"]
        running.enter_context(running_site(built_client(), PORT, config=addresses, others=others))
        env = {"API_BASE": stack.api_base, "WS_ENDPOINT": stack.ws_endpoint, "MIP_ADMIN_KEY": stack.admin_key}
        platform = AwsPlatform(stack, env)
        made = Api(platform, admin_key=stack.admin_key).post("/admin/keys", {"name": "ct-room"})  # type: ignore[arg-type]
        site = Site(platform, gateway, made.json()["key"], parameters["PacsBase"])
        for algo_id, how in {
            "puppet": {"env": puppet.install(folder / "site")},
            "processing_1": {"outputs": ["SC", "SEG", "SR"]},
        }.items():
            _until_active(site, algo_id, **how)
            running.enter_context(running_worker(platform, algo_id))
        yield site


def _decide(stack: AwsStack) -> None:
    """What the emulator's IAM refuses and AWS's does not: conditions of ECS's and CloudWatch Logs' calls, and the
    provisioner's own (test/infra/test_rights.py)."""
    session, endpoint = stack.emulator.session(), stack.emulator.endpoint
    functions, iam = (session.client(name, endpoint_url=endpoint) for name in ("lambda", "iam"))
    for name, actions in UNDECIDED.items():
        role = functions.get_function_configuration(FunctionName=f"ImgPipeline-{name}Fn")["Role"]
        statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_role_policy(RoleName=role.rpartition("/")[2], PolicyName="emulator", PolicyDocument=policy)


def _named_by_uid(images: Path, folder: Path) -> Path:
    """As a bucket's keys must be for clients that send UIDs (docs/aws.md)."""
    for file in images.rglob("*.dcm"):
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        place = folder / header.StudyInstanceUID / header.SeriesInstanceUID
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{header.SOPInstanceUID}.dcm").symlink_to(file)
    return folder


def _until_active(site: Site, algo_id: str, **how: object) -> None:
    api = site.api()
    api.register(algo_id, image_uri=IMAGE, wait_for=None, **how)
    until(lambda: api.record(algo_id)["status"] == "ACTIVE", f"{algo_id} is ACTIVE", wait_s=WAIT_S)


@pytest.fixture
def someone(browser: Browser, site: Site) -> Iterator[Person]:
    """A person with the keys of the deployment; in the end the page may not have broken."""
    person = Person(browser, ORIGIN)
    person.visit()
    give_keys(person, site)
    yield person
    broken = person.broken
    person.close()
    assert not broken, broken


def give_keys(person: Person, site: Site) -> None:
    page = person.page
    page.get_by_role("button", name="Keys").click()
    form = page.locator("dialog form")
    form.locator("input").nth(0).fill(site.client_key)
    form.locator("input").nth(1).fill(OPERATOR_KEY)
    form.get_by_role("button").click()
    page.wait_for_selector(".connection.is-open")


def test_series_are_listed_with_pictures_searched_and_opened(someone: Person, site: Site) -> None:
    page = someone.page
    page.wait_for_selector(".series-card >> nth=2")
    page.wait_for_selector(".thumbnail img >> nth=1")
    sizes = page.evaluate(
        "Promise.all([...document.querySelectorAll('.thumbnail img')]"
        ".map(one => one.decode().then(() => one.naturalWidth)))"
    )
    assert sizes == [256, 256], "the plan has no picture"
    someone.shot("aws-find")
    page.get_by_role("searchbox").fill("RTPLAN")
    page.get_by_role("button", name="Find", exact=True).click()
    page.wait_for_selector("text=1 series")
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Find", exact=True).click()
    accepted: list[str | None] = []
    page.on("request", lambda one: accepted.append(one.headers.get("accept")) if BUCKET in one.url else None)
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    assert accepted == ["application/dicom"] * ABDOMEN, (
        "as API Gateway wants it of who opens a DICOMweb server's links"
    )
    assert {line.partition("?")[0].split("/")[1] for line in site.gateway.asked} == {
        "series",
        "thumbnail",
        "studies",
    }


def test_an_algorithm_is_run_and_its_result_is_pushed_seen_and_saved(
    someone: Person, site: Site, tmp_path: Path
) -> None:
    page = someone.page
    pushed: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: pushed.append(str(frame))))
    page.reload()
    give_keys(someone, site)
    someone.open_series(ABDOMEN)
    someone.wait_loaded(ABDOMEN)
    job_id = someone.run("processing_1")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    page.wait_for_selector(".measurements")
    assert any(job_id in frame for frame in pushed), "it came by the WebSocket"
    with page.expect_download() as download:
        page.get_by_role("button", name="DICOM: SEG").click()
    download.value.save_as(tmp_path / "seg")
    assert pydicom.dcmread(tmp_path / "seg").Modality == "SEG"
    someone.shot("aws-result")


def test_a_waiting_job_shows_its_place_and_is_cancelled(someone: Person, site: Site, tmp_path: Path) -> None:
    page, api = someone.page, site.api()
    someone.open_series(ABDOMEN)
    go, pacs = tmp_path / "go", site.place_of(ABDOMEN)
    before = [api.process("puppet", client_id=someone.client_id(), pacs=pacs, do="wait", file=str(go))]
    try:
        api.until_job(before[0], "RUNNING", wait_s=WAIT_S)
        before.append(api.process("puppet", client_id=someone.client_id(), pacs=pacs))
        someone.choose_algorithm("puppet")
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_selector(".job-card:has-text('Place ')")
        page.get_by_role("button", name="Cancel job").first.click()
        page.wait_for_selector('.job-card[data-status="CANCELLED"]')
    finally:
        go.touch()
    someone.go("Jobs")
    for job_id in before:
        page.wait_for_selector(f'tr[data-job="{job_id}"][data-status="SUCCEEDED"]')


def test_what_came_while_the_page_was_closed_is_there(someone: Person, site: Site) -> None:
    page, api = someone.page, site.api()
    client_id = someone.client_id()
    page.goto("about:blank")
    job_id = api.process("puppet", client_id=client_id, pacs=site.place_of(ABDOMEN))
    api.until_job(job_id, "SUCCEEDED", wait_s=WAIT_S)
    someone.visit("jobs")
    give_keys(someone, site)
    page.wait_for_selector(f'tr[data-job="{job_id}"][data-status="SUCCEEDED"]')


def test_an_admin_sees_figures_and_the_log_and_edits_what_nobody_else_did(someone: Person, site: Site) -> None:
    page, api = someone.page, site.api()
    done = api.process("puppet", client_id=someone.client_id(), pacs=site.place_of(ABDOMEN))
    api.until_job(done, "SUCCEEDED", wait_s=WAIT_S)
    someone.give_admin_key(site.platform.stack.admin_key)
    page.wait_for_selector('tr[data-algorithm="processing_1"][data-status="ACTIVE"]')
    page.get_by_role("button", name="puppet", exact=True).click()
    page.wait_for_selector(".log-line.is-INFO time")
    raised = api.process("puppet", client_id=someone.client_id(), pacs=site.place_of(ABDOMEN), do="raise")
    page.wait_for_selector(f'.log-line:has-text("job_id={raised}"):has-text("RuntimeError")')
    page.locator('.plot[aria-label*="Durations of the last 24 hours: median"]').wait_for()
    someone.shot("aws-algorithms")
    page.get_by_role("button", name="Edit", exact=True).click()
    dialog = page.locator("dialog")
    api.http.patch("/admin/algorithms/puppet", json={"description": "somebody's"}).raise_for_status()
    dialog.get_by_label("Description").fill("mine")
    dialog.get_by_role("button", name="Save").click()
    dialog.locator(".note.bad:has-text('Somebody changed it')").wait_for()
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="detached")
    assert api.record("puppet")["description"] == "mine"


def test_pages_of_other_origins_are_told_nothing(site: Site) -> None:
    """What a browser lets a page read follows from the answers' CORS headers alone, so these are looked at."""
    address, key = "/prod/admin/algorithms", {"x-admin-key": site.platform.stack.admin_key}
    host = {"host": site.gateway.origin.partition("://")[2]}
    wanted = {"access-control-request-method": "PATCH", "access-control-request-headers": "if-match,x-admin-key"}
    with httpx.Client(base_url=f"http://127.0.0.1:{site.gateway.port}", headers=host, timeout=60) as http:
        for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
            sent = {"origin": origin}
            answers = [
                http.get(address, headers={**sent, **key}),
                http.get("/prod/pacs/series", headers={**sent, "x-api-key": OPERATOR_KEY}),
                http.get("/prod/jobs", headers={**sent, "x-api-key": site.client_key}),
            ]
            assert [one.status_code for one in answers] == [200, 200, 200]
            assert [one.headers.get("access-control-allow-origin") for one in answers] == [allowed] * 3
        preflights = [
            http.options(path, headers={"origin": ORIGIN, **wanted})
            for path in (address, "/prod/pacs/series/search", "/prod/process/puppet", "/prod/jobs/any/cancel")
        ]
    for answer in preflights:
        assert answer.headers["access-control-allow-origin"] == ORIGIN, "and so for nobody else"
        named = answer.headers["access-control-allow-headers"].split(",")
        assert {"if-match", "x-admin-key", "x-api-key", "content-type"} <= set(named)
        assert {"GET", "POST", "PATCH", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(","))
