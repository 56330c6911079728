"""Every failure as ``{"error": {"code", "message", "details"?}}`` with the right status (CONTRACT.md)."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medical_image_processing import errors

_LOG = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[errors.MipError], int], ...] = (
    (errors.InvalidRequest, 422),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.StaleRevision, 412),
    (errors.Conflict, 409),
    (errors.Throttled, 429),
    (errors.TransientError, 503),
    (errors.InputRejected, 422),
    (errors.AlgorithmFailed, 422),
    # Others are ours, not the caller's: 500.
)


def install(app: FastAPI) -> None:
    """Make ``app`` answer all failures in the contract's shape."""
    app.add_exception_handler(errors.MipError, _on_mip_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(_StateFaults)


def answer(status: int, code: str, message: str, details: Any = None, headers: Any = None) -> JSONResponse:
    """One error answer."""
    body: dict[str, Any] = {"code": code, "message": message}
    if details:
        body["details"] = details
    return JSONResponse({"error": body}, status, headers=headers)


def status_of(error: errors.MipError) -> int:
    """The HTTP status that states ``error``."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


async def _on_mip_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.MipError)
    headers = None
    if isinstance(error, errors.TransientError):
        headers = {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return answer(status_of(error), error.code, error.message, error.details, headers)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, (RequestValidationError, ValidationError))
    # What was sent is left out: it may hold anything (law A3).
    found = [
        {"field": ".".join(str(part) for part in e["loc"] if part != "body") or "body", "problem": _problem(e)}
        for e in error.errors()
    ]
    if any(e["type"] == "json_invalid" for e in error.errors()):
        return _not_json()
    first = found[0]
    message = f"{first['field']}: {first['problem']}"
    return answer(422, "INVALID_REQUEST", message, {"fields": found})


def _problem(error: Any) -> str:
    if error["loc"] == ("body",) and error["type"] in ("dict_type", "model_attributes_type"):
        return "must be a JSON object, sent with Content-Type: application/json"
    return str(error["msg"]).removeprefix("Value error, ")


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        return _not_json()  # FastAPI's answer to a body that its parser gave up on
    code = {404: "NO_SUCH_ROUTE", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE"}.get(
        error.status_code, "BAD_REQUEST"
    )
    return answer(error.status_code, code, str(error.detail), headers=error.headers)


def _not_json() -> JSONResponse:
    return answer(400, "INVALID_JSON", "the body is not JSON; check its quotes, commas, encoding and depth")


class _StateFaults:
    """Catches what nobody foresaw: behind a handler of the framework's it would go on, to be logged whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        answering = False

        async def watched(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            fault = errors.without_text(error)
            _LOG.error("%s %s failed", scope.get("method", scope["type"]), _route(scope), exc_info=fault)
            if answering or scope["type"] != "http":
                raise fault from None
            failed = answer(500, "INTERNAL_ERROR", "the platform has a fault; its log says where")
            await failed(scope, receive, send)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "?")
