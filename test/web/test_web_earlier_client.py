"""The earlier system's traffic, made by a page of another origin in a browser, which asks leave where it must."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error

from api_calls import Api
from medical_image_processing import samples
from platform_process import Platform

STUDY, SERIES, IMAGE = "liver/D55-01", "300/SHARP_300", "IM-0135-0095.dcm"
_REPLAY = """async ({ api, pacs, ws, study, series, image, headers }) => {
  const json = { "Content-Type": "application/json" };
  const size = async url => (await (await fetch(url)).arrayBuffer()).byteLength;
  const provision = await fetch(`${api}/provision`, { method: "POST", headers: json, body: "{}" });
  const client_id = (await provision.json()).client_id;
  const socket = new WebSocket(`${ws}?client_id=${encodeURIComponent(client_id)}`);
  await new Promise((open, failed) => Object.assign(socket, { onopen: open, onerror: failed }));
  const job_id = crypto.randomUUID();
  const told = new Promise(tell => socket.onmessage = event => {
    const message = JSON.parse(event.data);
    if (message.job_id === job_id) tell(message);
  });
  const named = [study, "images", series, image].map(encodeURIComponent).join("/");
  const link = await (await fetch(`${pacs}/studies/${named}`, { headers })).json();
  const original = await size(link.url);
  const reference = { study_id: study, series_id: series, image_id: image, scope: "image" };
  const body = JSON.stringify({ job_id, client_id, pacs: reference });
  const sent = await fetch(`${api}/process/processing_1`, { method: "POST", headers: json, body });
  const message = await told;
  return { status: sent.status, original, message, result: await size(message.dicom.url) };
}"""


class _BlankPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another client</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def origins() -> Iterator[list[str]]:
    """Where two pages come from."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _BlankPage) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://localhost:{server.server_port}" for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_browser_lets_its_page_do_all_of_it(
    tmp_path: Path, samples_cache: Path, browser: Browser, origins: list[str]
) -> None:
    series = tmp_path / "pacs" / STUDY / SERIES
    series.mkdir(parents=True)
    source = sorted(samples.abdominal_ct(samples_cache).glob("*.dcm"))[10]
    shutil.copy(source, series / IMAGE)
    with Platform(tmp_path / "home", pacs=tmp_path / "pacs", options=["--cors-origin", origins[0]]) as platform:
        Api(platform).register("processing_1")
        env = platform.env
        asked: dict[str, Any] = {"api": env["API_BASE"], "pacs": env["PACS_API_BASE"], "ws": env["WS_ENDPOINT"]}
        asked |= {"study": STUDY, "series": SERIES, "image": IMAGE}
        for headers in ({"Accept": "application/json"}, {"Accept": "application/json", "x-api-key": "devkey"}):
            page = browser.new_page()
            page.goto(origins[0])
            done = page.evaluate(_REPLAY, asked | {"headers": headers})
            assert done["status"] == 202 and done["original"] == source.stat().st_size
            assert done["message"]["algo_id"] == "processing_1" and done["result"] > 512 * 512
            page.close()
        page = browser.new_page()
        page.goto(origins[1])
        with pytest.raises(Error, match="Failed to fetch"):
            page.evaluate(_REPLAY, asked | {"headers": {}})
        page.close()
