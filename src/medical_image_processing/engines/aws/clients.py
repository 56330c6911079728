"""The one place that makes boto3 clients and knows their errors.

Every call has a limit, its client's :class:`Patience`: botocore tries so many times, in its standard mode, which
backs off with jitter from throttling, server errors and cut connections (botocore, "Retries"); each try ends by
its timeouts. What is left is one of ours: TransientError when it may work later, :class:`Refused` when AWS has
decided.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
)
from botocore.parsers import ResponseParserError

from medical_image_processing.errors import MipError, PermanentError, Throttled, TransientError, Unavailable

T = TypeVar("T")
ATTEMPTS = 5
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Patience:
    """How often a call is tried, and how long each try may take."""

    attempts: int = ATTEMPTS
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S

    @property
    def most_s(self) -> float:
        """The longest that a call takes. Before its n-th repetition botocore waits at most 2**(n - 1) s."""
        waits = 2.0 ** (self.attempts - 1) - 1
        return self.attempts * (self.connect_timeout_s + self.read_timeout_s) + waits


PATIENT = Patience()
"""For what nobody waits for."""
ANSWERING = Patience(attempts=3, connect_timeout_s=2.0, read_timeout_s=4.0)
"""For what a caller waits for: API Gateway gives a whole request 29 s, and the reason must come before that."""
BUSY = "AWS_BUSY"
"""The code of a call that met another's transaction."""

_CONNECTIONS = 32
_THROTTLING = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingError",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_CONTENTION = frozenset({"TransactionConflict", "TransactionConflictException", "TransactionInProgressException"})


class Refused(PermanentError):
    """AWS said no. ``aws_code`` is its error code, ``reasons`` a cancelled transaction's, one per item.

    ``item`` is what stood in the table where a condition failed, if the call asked for it.
    """

    def __init__(
        self,
        message: str,
        *,
        aws_code: str,
        reasons: tuple[str, ...] = (),
        item: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__("AWS_REFUSED", message)
        self.aws_code = aws_code
        self.reasons = reasons
        self.item = item


class AwsClients:
    """boto3's clients, each made on first use. ``endpoint_url``: another place for all of them than AWS.

    ``patience``: of all of them.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        session: boto3.Session | None = None,
        endpoint_url: str | None = None,
        patience: Patience = PATIENT,
    ) -> None:
        # AWS_REGION is the name that Lambda and Fargate set; boto3 knows AWS_DEFAULT_REGION.
        self._session = session or boto3.Session(region_name=region or os.environ.get("AWS_REGION"))
        self._endpoint_url = endpoint_url
        self._patience = patience
        self._made: dict[tuple[str, str | None], AwsClient] = {}
        self._lock = threading.Lock()

    @property
    def region(self) -> str:
        """Where everything lies. PermanentError when nothing says."""
        if not (region := self._session.region_name):
            raise PermanentError("SETTING_MISSING", "no AWS region is set; set AWS_REGION")
        return str(region)

    def client(self, service: str, *, endpoint_url: str | None = None) -> AwsClient:
        """The client of one service, by boto3's name of it. PermanentError when no region is set."""
        key = service, endpoint_url or self._endpoint_url
        with self._lock:  # making a client is not thread-safe (boto3, "Multithreading with clients")
            if key not in self._made:
                config = _config(service, self._patience)
                made = self._session.client(service, region_name=self.region, endpoint_url=key[1], config=config)
                self._made[key] = AwsClient(made, self._patience)
            return self._made[key]

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            for made in self._made.values():
                made.boto.close()
            self._made.clear()


class AwsClient:
    """One service. ``boto`` is boto3's own client, for paginators, waiters and signing."""

    def __init__(self, boto: Any, patience: Patience = PATIENT) -> None:
        self.boto = boto
        self._attempts = patience.attempts
        self._service = boto.meta.service_model.service_id

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call ``operation``, by its name in boto3. TransientError or Refused."""
        return await self.run(operation, lambda: dict(getattr(self.boto, operation)(**parameters)))

    async def run(self, operation: str, work: Callable[[], T]) -> T:
        """Do ``work``, which uses :attr:`boto`, in a thread; its errors are told as those of ``operation``."""
        try:
            return await asyncio.to_thread(work)
        except (ClientError, BotoCoreError) as error:
            raise translated(self._service, operation, error, attempts=self._attempts) from error
        except ResponseParserError as error:  # no BotoCoreError: a page in place of XML, which a 5xx may come with
            where = f"{self._service} {operation}"
            raise Unavailable("AWS_UNAVAILABLE", f"{where}: no answer of AWS's came; try again later") from error


def translated(
    service: str, operation: str, error: ClientError | BotoCoreError, *, attempts: int = ATTEMPTS
) -> MipError:
    """The platform's error for botocore's. It names the call and never repeats what was sent (law A3)."""
    where = f"{service} {operation}"
    if isinstance(error, ClientError):
        return _of_answer(where, error, attempts)
    if isinstance(error, NoCredentialsError | CredentialRetrievalError):
        return PermanentError(
            "AWS_CREDENTIALS", f"{where}: there are no AWS credentials; give the process a role, or keys"
        )
    if isinstance(error, ConnectionError | HTTPClientError):
        return _unavailable(where, f"no answer came ({type(error).__name__})", attempts)
    return PermanentError("AWS_CALL", f"{where} could not be made ({type(error).__name__})")


def _config(service: str, patience: Patience) -> Config:
    """S3's signature covers the host, so its addresses must be the region's own and not redirect."""
    return Config(
        connect_timeout=patience.connect_timeout_s,
        read_timeout=patience.read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": patience.attempts},
        max_pool_connections=_CONNECTIONS,
        signature_version="s3v4" if service == "s3" else None,
    )


def _of_answer(where: str, error: ClientError, attempts: int) -> MipError:
    answer: Mapping[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    reasons = tuple(str(one.get("Code", "None")) for one in answer.get("CancellationReasons", ()))
    given = {code, *reasons}
    if _THROTTLING & given:
        return Throttled("AWS_THROTTLED", f"{where} was throttled ({code}); try again, more slowly")
    if _CONTENTION & given and "ConditionalCheckFailed" not in given:
        return Unavailable(BUSY, f"{where} met another write of the same item; try again", retry_after_s=1.0)
    if status >= 500:
        return _unavailable(where, f"it answered {status} {code}", attempts)
    advice = "; the platform's role lacks the permission" if code.startswith("AccessDenied") else ""
    message = f"{where} was refused: {code or status}{advice}"
    return Refused(message, aws_code=code, reasons=reasons, item=answer.get("Item"))


def _unavailable(where: str, what: str, attempts: int) -> TransientError:
    return Unavailable("AWS_UNAVAILABLE", f"{where}: {what}, {attempts} times; try again later")
