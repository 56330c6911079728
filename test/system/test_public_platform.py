"""A platform on loopback that a proxy passes on to, as its clients see it: ``mip up --public-url``.

First by hand, with what proxies send; then the command line, through nginx. The web client through nginx is in
test/web/test_web_behind_a_proxy.py.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pydicom
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from api_calls import Api, error_of, make_pacs, receive
from free_ports import free_port
from medical_image_processing.testing import puppet
from platform_process import CLI, Platform, clean_environment, unconfined
from tls_proxy import running_nginx

PUBLIC = "https://mip.hospital.example"
HOSTS = ("mip.hospital.example", "MIP.Hospital.example:443", "127.0.0.1:8080")
"""What proxies send on: the name they were called by, with its port or without, or the platform's address."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("public")
    options = ["--public-url", f"{PUBLIC}:443/", "--open-clients", *unconfined(folder)]
    with Platform(folder / "home", pacs=make_pacs(folder / "pacs"), options=options) as platform:
        api = Api(platform, admin_key=platform.env["MIP_ADMIN_KEY"])
        api.register("puppet", env=puppet.install(folder / "site"))
        yield api


def passed_on(url: str, api: Api, host: str) -> httpx.Response:
    """What a proxy at the public address does with ``url``."""
    assert url.startswith(f"{PUBLIC}/"), url
    return httpx.get(
        api.platform.base + url.removeprefix(PUBLIC), headers={"host": host}, timeout=20, trust_env=False
    )


@pytest.mark.parametrize("host", HOSTS)
def test_every_link_leads_to_the_public_address_and_opens_there(api: Api, host: str) -> None:
    through = {"host": host, "x-forwarded-host": "evil.example", "x-forwarded-proto": "gopher"}
    job_id = api.succeeds("puppet", client_id="far")["job_id"]
    job = api.http.get(f"/jobs/{job_id}", headers=through).json()
    listed = api.http.get("/jobs?client_id=far&limit=1", headers=through).json()["jobs"][0]
    for result in (job["result"], listed["result"]):
        for item in (result["dicom"], *result["outputs"]):
            assert passed_on(item["url"], api, host).content[128:132] == b"DICM"
    key = {"x-api-key": api.platform.env["PACS_API_KEY"]}
    images = api.http.get("/pacs/studies/study-1/images?series_id=series-1", headers=through | key).json()
    assert passed_on(images[0]["url"], api, host).content[128:132] == b"DICM"


def test_what_comes_over_the_websocket_leads_there_too(api: Api) -> None:
    upstream = socket.create_connection(("127.0.0.1", api.platform.port), timeout=20)
    with connect("ws://mip.hospital.example/ws?client_id=listener", proxy=None, sock=upstream) as listening:
        api.succeeds("puppet", client_id="listener")
        [result] = receive(listening)
    assert passed_on(result["dicom"]["url"], api, HOSTS[0]).status_code == 200


@pytest.mark.parametrize("host", HOSTS)
def test_the_page_may_call_the_public_address_and_its_buttons_work(api: Api, host: str) -> None:
    page = api.http.get("/", headers={"host": host, "accept": "text/html"})
    policy = page.headers["content-security-policy"]
    name = urlsplit(PUBLIC).netloc
    assert f"connect-src 'self' ws://{name} wss://{name};" in policy
    assert json.loads(api.http.get("/config.json", headers={"host": host}).text) == {}
    missing = api.http.post("/jobs/no-such-job/cancel", headers={"host": host, "origin": PUBLIC})
    assert (missing.status_code, error_of(missing)) == (404, "UNKNOWN_JOB")
    # A page of the same name without TLS is whoever's is between it and the browser.
    for origin in ("https://evil.example", f"http://{name}", f"http://{host}", f"{PUBLIC}:8443", "null"):
        refused = api.http.post("/jobs/no-such-job/cancel", headers={"host": host, "origin": origin})
        assert (refused.status_code, error_of(refused)) == (403, "FOREIGN_PAGE"), origin


def test_behind_a_proxy_no_key_is_one_that_everybody_knows(api: Api) -> None:
    for host in HOSTS:
        seeds = {"x-admin-key": "dev-admin", "x-api-key": "devkey", "host": host}
        for path in ("/admin/algorithms", "/pacs/studies", "/metrics"):
            answer = httpx.get(f"{api.platform.base}{path}", headers=seeds, trust_env=False)
            assert answer.status_code == 401, path
        known = {"origin": "http://localhost:3000", "host": host}
        assert httpx.get(f"{api.platform.base}/pacs/studies", headers=known, trust_env=False).status_code == 401


def test_a_name_that_a_web_page_points_to_this_machine_opens_nothing(api: Api) -> None:
    """DNS rebinding, past the proxy: no client needs a key here, and a browser on this machine would be let in."""
    job_id = api.succeeds("puppet", client_id="rebound")["job_id"]
    port = api.platform.port
    for host in (f"evil.example:{port}", "mip_upstream", f"{HOSTS[0]}.evil.example", "mipXhospital.example", ""):
        for path in (f"/jobs/{job_id}", "/jobs?client_id=rebound", "/", "/config.json"):
            answer = api.http.get(path, headers={"host": host})
            assert (answer.status_code, error_of(answer)) == (421, "HOST_NOT_LOOPBACK"), (path, host)
            assert "proxy_set_header Host $host" in answer.json()["error"]["message"]
    upstream = socket.create_connection(("127.0.0.1", port), timeout=20)
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"ws://evil.example:{port}/ws?client_id=rebound", proxy=None, sock=upstream),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_people_are_told_the_public_address(api: Api) -> None:
    assert PUBLIC in api.platform.log.read_text().split()
    assert api.platform.env["API_BASE"].startswith("http://127.0.0.1:"), (
        "programs on this machine call it directly"
    )


@pytest.mark.needs("nginx", "openssl")
def test_the_command_line_works_through_nginx_once_it_trusts_the_certificate(tmp_path: Path) -> None:
    """By the name localhost, since any other would have to be this machine's in its own eyes."""
    port = free_port()
    public = f"https://localhost:{port}"
    keys = tmp_path / "clients.keys"
    keys.touch(mode=0o600)
    options = ["--public-url", public, "--client-keys", str(keys)]
    with (
        Platform(tmp_path / "home", pacs=make_pacs(tmp_path / "pacs"), options=options) as platform,
        running_nginx(tmp_path / "nginx", port=port, upstream=platform.port, name="localhost") as certificate,
    ):
        given = {
            "API_BASE": public,
            "MIP_ADMIN_KEY": platform.env["MIP_ADMIN_KEY"],
            "PACS_API_KEY": platform.env["PACS_API_KEY"],
            "SSL_CERT_FILE": str(certificate),
        }

        def run(*arguments: str, **change: str) -> subprocess.CompletedProcess[str]:
            command = [*CLI, *arguments, "--json"]
            environment = {**clean_environment(), **given, **change}
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

        made = run("keys", "add", "ct-room", "--client-ids", "ct-room")
        assert made.returncode == 0, made.stderr
        client = {"MIP_CLIENT_KEY": json.loads(made.stdout)["key"]}
        image = "123456789.dkr.ecr.us-east-1.amazonaws.com/mip-algos:processing_1"
        registered = run("algorithms", "register", "processing_1", "--image", image, "--wait")
        assert registered.returncode == 0, registered.stderr
        assert json.loads(run("studies").stdout)["series"][0]["images"] == 3
        where = ["--study", "study-1", "--series", "series-1", "--image", "image-1"]
        output = ["--output", str(tmp_path / "result.dcm")]
        done = run("process", "processing_1", *where, *output, **client)
        assert done.returncode == 0, done.stderr
        assert pydicom.dcmread(tmp_path / "result.dcm").Modality
        untrusting = run("process", "processing_1", *where, *output, **client, SSL_CERT_FILE="")
        assert untrusting.returncode == 1
        refusal = json.loads(untrusting.stderr)["error"]
        assert refusal["code"] == "PLATFORM_UNREACHABLE" and "SSL_CERT_FILE" in refusal["message"]
        here = {**client, "API_BASE": f"http://127.0.0.1:{platform.port}", "SSL_CERT_FILE": ""}
        untrusting = run("process", "processing_1", *where, *output, **here)
        assert untrusting.returncode == 1
        refusal = json.loads(untrusting.stderr)["error"]
        assert refusal["code"] == "DOWNLOAD_FAILED" and "SSL_CERT_FILE" in refusal["message"]

        trusting = ssl.create_default_context(cafile=certificate)
        with httpx.Client(base_url=public, verify=trusting, timeout=20, trust_env=False) as http:
            large = http.post("/process/processing_1", content=b" " * 1_100_000)
            assert large.status_code == 413
            job = Api(platform, admin_key=None, client_key=client["MIP_CLIENT_KEY"]).get("/jobs").json()["jobs"][0]
            url = job["result"]["dicom"]["url"]
            part = http.get(url, headers={"range": "bytes=128-131"})
            assert (part.status_code, part.content) == (206, b"DICM")
            assert http.put(url, content=b"x").status_code == 405
        log = (tmp_path / "nginx/error.log").read_text() + (tmp_path / "nginx/said.log").read_text()
        assert "study-1" not in log and client["MIP_CLIENT_KEY"] not in log
