"""What the stack tells its Lambdas, read once from their environment.

Each Lambda is given what it needs and no more. What is there is checked when it is read; a part that needs
what is missing says which.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from medical_image_processing.errors import PermanentError

T = TypeVar("T")
QUEUE_LIMIT = 200_000
CLIENT_MODES = ("keys", "oidc", "open")


class _Setting(Generic[T]):
    """One variable. ``read`` raises ValueError with what the value must be."""

    def __init__(self, variable: str, read: Callable[[str], T], default: str | None = None) -> None:
        self.variable = variable
        self._read = read
        self._default = default

    def __get__(self, settings: AwsSettings, _: type[AwsSettings]) -> T:
        text = settings.values.get(self.variable) or self._default
        if text is None:
            raise PermanentError(
                "SETTING_MISSING",
                f"{self.variable} is not set, and this part of the platform needs it; deploy the stack again",
            )
        try:
            return self._read(text)
        except ValueError as error:
            raise PermanentError("SETTING_WRONG", f"{self.variable} {error}") from error


def _texts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _endpoint(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise ValueError("must be an address that begins with https://")
    return text.rstrip("/")


def _client_mode(text: str) -> str:
    if text not in CLIENT_MODES:
        raise ValueError(f"must be one of {', '.join(CLIENT_MODES)}")
    return text


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("must be a number")
    return int(text)


def _environment(text: str) -> Mapping[str, str]:
    wrong = ValueError("must be a JSON object of texts")
    try:
        values = json.loads(text)
    except ValueError:
        raise wrong from None
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise wrong
    return MappingProxyType(values)


class AwsSettings:
    """The stack's names of things. PermanentError ``SETTING_MISSING`` on the first use of what isn't there."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = MappingProxyType(dict(values))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> AwsSettings:
        """Take what is there. PermanentError ``SETTING_WRONG`` when a value can't be meant."""
        known = {setting.variable: name for name, setting in vars(cls).items() if isinstance(setting, _Setting)}
        settings = cls({name: text for name, text in environment.items() if name in known and text})
        for variable in settings.values:
            getattr(settings, known[variable])
        return settings

    region = _Setting("AWS_REGION", str)
    algorithms_table = _Setting("MIP_ALGORITHMS_TABLE", str)
    jobs_table = _Setting("MIP_JOBS_TABLE", str)
    connections_table = _Setting("MIP_CONNECTIONS_TABLE", str)
    keys_table = _Setting("MIP_KEYS_TABLE", str)
    audit_table = _Setting("MIP_AUDIT_TABLE", str)
    results_queue_url = _Setting("MIP_RESULTS_QUEUE_URL", str)
    output_bucket = _Setting("OUTPUT_BUCKET", str)
    ws_endpoint = _Setting("MIP_WS_ENDPOINT", _endpoint)
    """Where connections are posted to: API Gateway's management endpoint."""
    admin_secret = _Setting("MIP_ADMIN_SECRET", str)
    """The root admin key's secret in Secrets Manager, by ARN."""
    cluster = _Setting("MIP_CLUSTER", str)
    subnets = _Setting("MIP_SUBNETS", _texts)
    security_group = _Setting("MIP_SECURITY_GROUP", str)
    execution_role = _Setting("MIP_EXECUTION_ROLE", str)
    task_boundary = _Setting("MIP_TASK_BOUNDARY", str)
    """The permissions boundary of every algorithm's role, by ARN."""
    pacs_api_base = _Setting("MIP_PACS_API_BASE", str)
    clients = _Setting("MIP_CLIENTS", _client_mode, "keys")
    oidc_issuer = _Setting("MIP_OIDC_ISSUER", str)
    oidc_audience = _Setting("MIP_OIDC_AUDIENCE", str)
    allow_origins = _Setting("MIP_ALLOW_ORIGINS", _texts, " ")
    queue_limit = _Setting("MIP_QUEUE_LIMIT", _count, str(QUEUE_LIMIT))
    can_store = _Setting("MIP_CAN_STORE", _flag, "false")
    """Whether the PACS is one that results can be put back into."""
    task_env = _Setting("MIP_TASK_ENV", _environment, "{}")
    """What the operator adds to every task's environment."""
