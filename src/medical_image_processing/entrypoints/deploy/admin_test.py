"""The test of the admin API, against any platform: register, list, show, change, scale down, delete for good."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medical_image_processing.entrypoints.client import Client
from medical_image_processing.errors import Conflict, MipError, NotFound, StaleRevision, Unauthorized, Unavailable

_POLL_S = 0.5
# The image of the seed's own POST; a platform of processes reads no image.
IMAGE = "123456789.dkr.ecr.us-east-1.amazonaws.com/mip-algos:processing_1"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One thing that was tried, and what came of it. ``failure`` is None where it passed."""

    name: str
    what: str
    failure: str | None = None


class AdminTest:
    """Tries the admin API with an algorithm of its own, which is gone afterwards, passed or not."""

    def __init__(self, client: Client, *, image: str = IMAGE, timeout_s: float = 300.0) -> None:
        self._client = client
        self._algo_id = f"admin-test-{secrets.token_hex(3)}"
        self._timeout_s = timeout_s
        self._body: dict[str, Any] = {
            "algo_id": self._algo_id,
            "image_uri": image,
            "cpu": 1024,
            "memory": 2048,
            "command": ["/app/worker.sh"],
        }
        self._first: dict[str, Any] = {}

    def run(self, tell: Tell) -> list[Step]:
        """Every step in order. After one that failed only the deletion is tried."""
        steps: list[Step] = []
        for name, step in {
            "wrong key": self._wrong_key,
            "register": self._register,
            "list": self._list,
            "show": self._show,
            "patch": self._patch,
            "scale down": self._scale_down,
        }.items():
            tell(f"testing the admin API: {name}")
            steps.append(_tried(name, step))
            if steps[-1].failure:
                break
        if len(steps) > 1:
            tell("testing the admin API: hard delete")
            steps.append(_tried("hard delete", self._delete))
        return steps

    def _wrong_key(self) -> str:
        with Client(self._client.base, admin_key=f"wrong-{secrets.token_hex(8)}") as stranger:
            try:
                stranger.call("GET", "admin", "algorithms")
            except Unauthorized:
                return "refused with 401"
        raise _Unexpected("a wrong admin key was let in")

    def _register(self) -> str:
        self._first = self._client.call("POST", "admin", "algorithms", body=self._body)
        again = self._client.call("POST", "admin", "algorithms", body=self._body)
        _expect(again["created_at"], self._first["created_at"], "created_at after the same POST again")
        try:
            self._client.call("POST", "admin", "algorithms", body={**self._body, "memory": 4096})
        except Conflict:
            return f"{self._algo_id}; the same again is the same, another body is a 409"
        raise _Unexpected("another body for a taken id was accepted")

    def _list(self) -> str:
        cursor, seen = None, 0
        while True:
            page = self._client.call("GET", "admin", "algorithms", params={"limit": 100, "cursor": cursor})
            seen += len(page["algorithms"])
            if any(record["algorithm_id"] == self._algo_id for record in page["algorithms"]):
                return f"it is among the first {seen} listed"
            if (cursor := page["next_cursor"]) is None:
                raise _Unexpected(f"it is not among the {seen} listed")

    def _show(self) -> str:
        record = self._record()
        for name in ("image_uri", "cpu", "memory", "command"):
            _expect(record[name], self._body[name], name)
        return f"revision {record['revision']}, {record['status']}"

    def _patch(self) -> str:
        size = {"cpu": 2048, "memory": 4096}
        record = self._client.call("PATCH", "admin", "algorithms", self._algo_id, body=size)
        _expect((record["cpu"], record["memory"]), (2048, 4096), "cpu and memory")
        _expect(record["revision"], self._first["revision"] + 1, "revision")
        stale = {"if-match": f'"{self._first["revision"]}"'}
        try:
            self._client.call("PATCH", "admin", "algorithms", self._algo_id, body={"cpu": 1024}, headers=stale)
        except StaleRevision:
            return "2 vCPU, 4 GiB; one based on the revision before is a 412"
        raise _Unexpected("a PATCH based on an old revision was accepted")

    def _scale_down(self) -> str:
        record = self._client.call("DELETE", "admin", "algorithms", self._algo_id)
        _expect(record["desired_count"], 0, "desired_count")
        began = time.monotonic()
        self._until(lambda: self._record()["status"] == "INACTIVE", "INACTIVE")
        return f"INACTIVE after {time.monotonic() - began:.0f} s"

    def _delete(self) -> str:
        self._client.call("DELETE", "admin", "algorithms", self._algo_id, params={"hard": "true", "force": "true"})
        began = time.monotonic()
        self._until(self._is_gone, "gone")
        return f"gone after {time.monotonic() - began:.0f} s"

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = self._client.call("GET", "admin", "algorithms", self._algo_id)
        return record

    def _is_gone(self) -> bool:
        try:
            self._record()
        except NotFound:
            return True
        return False

    def _until(self, reached: Callable[[], bool], state: str) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not reached():
            if time.monotonic() > deadline:
                raise Unavailable("STILL_PENDING", f"{self._algo_id} is not {state} after {self._timeout_s:.0f} s")
            time.sleep(_POLL_S)


class _Unexpected(Exception):
    """What the platform did isn't what the contract says."""


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise _Unexpected(f"{what} is {found!r}, not {wanted!r}")


def _tried(name: str, step: Callable[[], str]) -> Step:
    try:
        return Step(name, step())
    except MipError as error:
        return Step(name, "", f"{error.message} ({error.code})")
    except (_Unexpected, KeyError, TypeError) as error:
        said = str(error) if isinstance(error, _Unexpected) else f"the answer lacks {error}"
        return Step(name, "", said)
