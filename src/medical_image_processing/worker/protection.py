"""Keeps the task from being chosen when ECS scales in or deploys, while the worker holds a job (law P7).

Through the agent's endpoint that ECS names in every container's environment (Amazon ECS developer guide, "Task
scale-in protection endpoint"). Elsewhere there is none, and nothing is done. A task that could not be protected
works all the same: if it is stopped, it has the stop timeout to end its job, or else gives it back.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from medical_image_processing.errors import MipError
from medical_image_processing.worker import log
from medical_image_processing.worker.http import HttpClient, origin_of
from medical_image_processing.worker.leases import Leases

EXPIRES_MIN = 10
"""A worker that hangs is protected no longer than that."""
RENEW_AFTER_S = 60.0 * EXPIRES_MIN / 2
RETRY_AFTER_S = 30.0
IDLE_S = 10.0
"""Between short jobs the protection stays: the calls are limited for a whole cluster."""

_PATH = "/task-protection/v1/state"
_CALL_S = 5.0


class ProtectionRefused(Exception):
    """The agent's reason, in ECS's own word."""


class Agent:
    """The endpoint of this task. ``uri``: what ``ECS_AGENT_URI`` says; ValueError if it is no address."""

    def __init__(self, uri: str) -> None:
        self._origin = origin_of(uri)
        self._path = urlsplit(uri).path.rstrip("/") + _PATH
        self._http = HttpClient(connect_timeout_s=_CALL_S, read_timeout_s=_CALL_S)

    def protect(self) -> None:
        """For :data:`EXPIRES_MIN` from now. ProtectionRefused or MipError."""
        self._put({"ProtectionEnabled": True, "ExpiresInMinutes": EXPIRES_MIN}, enabled=True)

    def release(self) -> None:
        """No longer. ProtectionRefused or MipError."""
        self._put({"ProtectionEnabled": False}, enabled=False)

    def _put(self, state: dict[str, object], *, enabled: bool) -> None:
        body = json.dumps(state).encode()
        headers = {"Content-Type": "application/json"}
        answer = self._http.request("PUT", self._origin, self._path, headers, body, total_s=_CALL_S)
        said = _fields(answer.body)
        state_now = said.get("protection")
        if answer.status == 200 and isinstance(state_now, dict) and state_now.get("ProtectionEnabled") is enabled:
            return
        raise ProtectionRefused(_reason(said) or f"HTTP status {answer.status}")


class Protector(threading.Thread):
    """Protects while jobs are held, until the process ends. ``clock`` is monotonic."""

    def __init__(
        self,
        agent: Agent,
        leases: Leases,
        *,
        renew_after_s: float = RENEW_AFTER_S,
        retry_after_s: float = RETRY_AFTER_S,
        idle_s: float = IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="protector", daemon=True)
        self._agent = agent
        self._leases = leases
        self._renew_after_s = renew_after_s
        self._retry_after_s = retry_after_s
        self._idle_s = idle_s
        self._clock = clock

    def run(self) -> None:
        """Wait for a job; protect until none has been held for a while."""
        while True:
            self._leases.await_held(None)
            self._keep_protected()
            self._attempt(self._agent.release, "the task could not be made free for scale-in")

    def _keep_protected(self) -> None:
        next_at = self._clock()
        while True:
            if self._clock() >= next_at:
                done = self._attempt(self._agent.protect, "the task could not be protected from scale-in")
                next_at = self._clock() + (self._renew_after_s if done else self._retry_after_s)
            all_released = self._leases.await_released(max(0.0, next_at - self._clock()))
            if all_released and not self._leases.await_held(self._idle_s):
                return

    def _attempt(self, call: Callable[[], None], trouble: str) -> bool:
        try:
            call()
        except (ProtectionRefused, MipError) as error:
            log.event(f"{trouble}: {error}", level=30)
            return False
        return True


def _fields(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _reason(said: dict[str, Any]) -> str | None:
    """Of an answer with ``failure {Reason}`` or ``error {Code}``; their other fields are sentences and ARNs."""
    for kind, field in (("failure", "Reason"), ("error", "Code")):
        if isinstance(told := said.get(kind), dict) and told.get(field):
            return str(told[field])[:100]
    return None


def start_protector(uri: str, leases: Leases) -> None:
    """Protect this task from now on; an address that is none is logged."""
    try:
        agent = Agent(uri)
    except ValueError as error:
        log.event(f"ECS_AGENT_URI is {error}; the task is not protected from scale-in", level=30)
        return
    Protector(agent, leases).start()
