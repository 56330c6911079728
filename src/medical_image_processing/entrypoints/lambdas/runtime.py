"""What every Lambda needs around its work: one engine and one event loop a container, logs, stated faults.

Nothing is made when a module is imported; the first event makes it, from the environment, for all that follow.
An event or its content is never logged (law A3).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from mangum import Mangum
from starlette.types import ASGIApp

from medical_image_processing.engines.aws.clients import ANSWERING, PATIENT, AwsClients, Patience
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.entrypoints.lambdas.json_log import configure_logging
from medical_image_processing.errors import MipError, without_text

_LOG = logging.getLogger(__name__)

LambdaHandler = Callable[[dict[str, Any], Any], Any]
"""What AWS calls: event, context."""


@dataclass(frozen=True)
class Invocation:
    """One event, and until when it must be dealt with (``time.monotonic()``)."""

    event: dict[str, Any]
    ends_at: float

    @property
    def seconds_left(self) -> float:
        """Until AWS ends the function."""
        return self.ends_at - time.monotonic()


Work = Callable[[Invocation], Awaitable[Any]]


def lambda_handler(create: Callable[[AwsEngine], Work], *, patience: Patience = PATIENT) -> LambdaHandler:
    """A handler whose work ``create`` makes once. ``patience``: with AWS; ANSWERING where a caller waits."""
    work = functools.cache(lambda: create(_engine(patience)))

    def handle(event: dict[str, Any], context: Any) -> Any:
        ends_at = time.monotonic() + context.get_remaining_time_in_millis() / 1000
        return _stating_faults(lambda: _loop().run_until_complete(_run(work()(Invocation(event, ends_at)))))

    return handle


def asgi_handler(create: Callable[[AwsEngine], ASGIApp]) -> LambdaHandler:
    """A handler that answers API Gateway's requests with the application that ``create`` makes once."""
    adapter = functools.cache(lambda: adapted(create(_engine(ANSWERING))))

    def handle(event: dict[str, Any], context: Any) -> Any:
        return _stating_faults(lambda: adapter()(event, context))

    return handle


def adapted(app: ASGIApp) -> LambdaHandler:
    """An application, as API Gateway calls it."""
    asyncio.set_event_loop(_loop())
    adapter = Mangum(cast(Any, app), lifespan="off")

    def handle(event: dict[str, Any], context: Any) -> Any:
        asyncio.set_event_loop(_loop())  # the adapter runs in whichever is the current one
        return adapter(event, context)

    return handle


@functools.cache
def _engine(patience: Patience) -> AwsEngine:
    configure_logging()
    return AwsEngine(AwsSettings.from_environment(), AwsClients(patience=patience))


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The container's own, so that what one event left in it serves the next."""
    return asyncio.new_event_loop()


async def _run(work: Awaitable[Any]) -> Any:
    return await work


def _stating_faults(work: Callable[[], Any]) -> Any:
    """AWS logs what a handler raises: of what nobody foresaw, class and place only."""
    try:
        return work()
    except MipError:
        raise
    except Exception as error:
        fault = without_text(error)
        _LOG.error("the function failed", exc_info=fault)
        raise fault from None
