"""A fault of the platform: the caller and the log learn that there was one and where, never what it held (A3)."""

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from medical_image_processing.api.access import Access, fixed_digests
from medical_image_processing.api.app import Parts, create_app
from medical_image_processing.model.job import Job

SECRET = "Zzyzx^Quetzalcoatl"


class Broken:
    """Keys and job records with a fault whose text quotes a patient."""

    async def get(self, job_id: str) -> Job | None:
        raise RuntimeError(f"no column {SECRET}")

    async def find(self, digest: str) -> Any:
        raise RuntimeError(f"no column {SECRET}")


def app(*, open_clients: bool) -> Any:
    broken = cast(Any, Broken())
    access = Access(broken, root_admin_digests=fixed_digests("0" * 64), open_clients=open_clients)
    fakes = {one.name: broken for one in dataclasses.fields(Parts)}
    parts = Parts(**fakes | {"access": access})
    return create_app(parts, allow_origins=("http://viewer.example",), open_metrics=True)


def test_a3_a_fault_is_answered_and_logged_with_its_place_and_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask() -> httpx.Response:
        # Whatever the application raises comes out here, as in a server, which would log it whole.
        transport = httpx.ASGITransport(app(open_clients=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/jobs/job-1", headers={"origin": "http://viewer.example"})

    with caplog.at_level(logging.DEBUG):
        answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
    assert answer.headers["access-control-allow-origin"] == "http://viewer.example"
    assert SECRET not in answer.text + caplog.text
    assert "RuntimeError" in caplog.text and Path(__file__).name in caplog.text


def test_a3_a_fault_on_a_websocket_reaches_the_server_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {
        **{"type": "websocket", "path": "/ws", "raw_path": b"/ws", "query_string": b"client_id=c&key=k"},
        **{"headers": [], "scheme": "ws", "root_path": "", "client": None, "server": None, "subprotocols": []},
    }
    with caplog.at_level(logging.DEBUG), pytest.raises(RuntimeError) as raised:
        asyncio.run(app(open_clients=False)(scope, receive, send))
    assert SECRET not in str(raised.value) + caplog.text
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
