"""What a deployment chooses, from the CDK's context (``-c name=value``). Checked here, all faults at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from medical_image_processing import naming

REACT_CLIENT = ("http://localhost:3000", "http://127.0.0.1:3000")
CLIENTS = ("keys", "oidc", "open")
TASK_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REPOSITORY = re.compile(r"[a-z0-9*][a-z0-9._/*-]*")
ORIGIN = re.compile(r"\*|https?://[^/\s,]+")
SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+")
URL = re.compile(r"https?://[^\s/]+(/\S*)?")
OURS = re.compile(r"[a-z_]+")
CONTEXT = (
    "allow_origins",
    "clients",
    "dicomweb_secret",
    "dicomweb_url",
    "emulator",
    "image_repositories",
    "insights",
    "log_days",
    "nat",
    "oidc_audience",
    "oidc_issuer",
    "pacs_api_base",
    "pacs_bucket",
    "pacs_image_tag",
    "pacs_link_buckets",
    "queue_limit",
    "reserve",
    "task_env",
)
INSIGHTS = ("own", "shared", "off")
LOG_DAYS = (7, 14, 30, 60, 90, 180, 365, 731)
"""Days that CloudWatch Logs offers."""


def port_of(address: str) -> int:
    """The TCP port of an http or https address."""
    parts = urlsplit(address)
    return parts.port or (443 if parts.scheme == "https" else 80)


class InvalidSettings(Exception):
    """The context says something that can't be deployed; one line for each fault."""


@dataclass(frozen=True)
class Settings:
    """One deployment's choices."""

    clients: str = "keys"
    """Who may call: holders of keys, of an OIDC issuer's tokens, or anybody."""
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    allow_origins: tuple[str, ...] = REACT_CLIENT
    """Origins whose pages may read answers (CORS)."""
    pacs_bucket: str | None = None
    """Bucket of DICOM files that the PACS API serves; without it and dicomweb_url, a bucket of the stack's own."""
    dicomweb_url: str | None = None
    dicomweb_secret: str | None = None
    """ARN of a secret: the Authorization header that the DICOMweb server wants."""
    pacs_image_tag: str = "latest"
    pacs_api_base: str | None = None
    """A PACS API that is there already; the stack then makes none."""
    pacs_link_buckets: tuple[str, ...] = ()
    """Buckets of this region that its links lead to."""
    image_repositories: tuple[str, ...] = (naming.ALGORITHM_IMAGES,)
    """Repositories of this account's ECR that algorithms' images may lie in; ``*`` stands for any text."""
    nat: bool = False
    """Whether workers have a way to the internet."""
    task_env: str = "{}"
    """JSON object: added to the environment of every worker."""
    queue_limit: int = 200_000
    log_days: int = 90
    reserve: bool = True
    """Whether what runs each minute has a place of its own among the account's concurrent Lambdas."""
    insights: str = "own"
    """Lambda Insights: with a log group of the stack's own, with one that the account has already, or not."""
    emulator: bool = False
    """Leave out what an emulator of AWS rejects, and keep nothing when the stack goes."""

    @property
    def can_store(self) -> bool:
        """Whether results can be put back into the PACS: the PACS API does it, into a DICOMweb server."""
        return self.dicomweb_url is not None


def parse_settings(given: dict[str, Any]) -> Settings:
    """Settings from context values, which are text when they come from a command line. InvalidSettings.

    The CDK's own names have other characters than ours, and are passed over.
    """
    unknown = [name for name in given if OURS.fullmatch(name) and name not in CONTEXT]
    faults = [f"{name}: there is no such choice; there are {', '.join(CONTEXT)}" for name in unknown]

    def take(name: str, read: Callable[[Any], Any], default: Any) -> Any:
        if given.get(name) in (None, ""):
            return default
        try:
            return read(given[name])
        except ValueError as error:
            faults.append(f"{name}: {error}")
            return default

    settings = Settings(
        clients=take("clients", _one_of(CLIENTS), "keys"),
        oidc_issuer=take("oidc_issuer", _url, None),
        oidc_audience=take("oidc_audience", str, None),
        allow_origins=take("allow_origins", _origins, REACT_CLIENT),
        pacs_bucket=take("pacs_bucket", _bucket, None),
        dicomweb_url=take("dicomweb_url", _url, None),
        dicomweb_secret=take("dicomweb_secret", _secret, None),
        pacs_image_tag=take("pacs_image_tag", str, "latest"),
        pacs_api_base=take("pacs_api_base", _url, None),
        pacs_link_buckets=take("pacs_link_buckets", _list_of(_bucket), ()),
        image_repositories=take("image_repositories", _list_of(_repository), (naming.ALGORITHM_IMAGES,)),
        nat=take("nat", _flag, False),
        task_env=take("task_env", _task_env, "{}"),
        queue_limit=take("queue_limit", _count, 200_000),
        log_days=take("log_days", _log_days, 90),
        reserve=take("reserve", _flag, True),
        insights=take("insights", _one_of(INSIGHTS), "own"),
        emulator=take("emulator", _flag, False),
    )
    faults += _contradictions(settings)
    if faults:
        raise InvalidSettings("\n".join(faults))
    return settings


def chosen(given: dict[str, Any]) -> dict[str, str]:
    """The context values that say something, as a command line would give them again."""
    said = {name: value for name, value in given.items() if value not in (None, "")}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in sorted(said.items())}


def _contradictions(settings: Settings) -> list[str]:
    faults = []
    if settings.clients == "oidc" and not settings.emulator:
        faults += [
            f"{name}: needed with clients=oidc; give it with -c {name}=…"
            for name in ("oidc_issuer", "oidc_audience")
            if getattr(settings, name) is None
        ]
    if settings.clients != "oidc" and (settings.oidc_issuer or settings.oidc_audience):
        faults.append(
            "oidc_issuer, oidc_audience: only read with clients=oidc; add -c clients=oidc or leave them out"
        )
    if settings.dicomweb_secret and not settings.dicomweb_url:
        faults.append("dicomweb_secret: only read with dicomweb_url; add -c dicomweb_url=… or leave it out")
    if settings.pacs_link_buckets and not settings.pacs_api_base:
        faults.append("pacs_link_buckets: only read with pacs_api_base; add -c pacs_api_base=… or leave it out")
    sources = [n for n in ("pacs_bucket", "dicomweb_url", "pacs_api_base") if getattr(settings, n) is not None]
    if len(sources) > 1:
        faults.append(f"{', '.join(sources)}: images come from one place; give one of them")
    return faults


def _one_of(values: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in values:
            raise ValueError(f"must be one of {', '.join(values)}, not {value!r}")
        return str(value)

    return read


def _flag(value: Any) -> bool:
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise ValueError(f"must be true or false, not {value!r}")


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise ValueError(f"must be {what}, not {value!r}")
        return value

    return read


_url = _matching(URL, "an address that begins with http:// or https://")
_secret = _matching(SECRET_ARN, "the ARN of a secret in Secrets Manager")
_bucket = _matching(BUCKET, "a bucket's name")
_repository = _matching(REPOSITORY, "a repository's name")


def _list_of(read: Callable[[Any], str]) -> Callable[[Any], tuple[str, ...]]:
    return lambda value: tuple(read(part.strip()) for part in str(value).split(",") if part.strip())


def _origins(value: Any) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in str(value).split(",") if part.strip())
    for origin in origins:
        if ORIGIN.fullmatch(origin) is None:
            raise ValueError(
                f"{origin!r} is no origin; write https://host or https://host:port, with commas between"
            )
    return origins


def _count(value: Any) -> int:
    if not str(value).isascii() or not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"must be a number of at least 1, not {value!r}")
    return int(value)


def _log_days(value: Any) -> int:
    if _count(value) not in LOG_DAYS:
        raise ValueError(f"must be one of {', '.join(map(str, LOG_DAYS))}, not {value!r}")
    return int(value)


def _task_env(value: Any) -> str:
    try:
        env = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f'must be a JSON object such as {{"NAME": "value"}}: {error}') from error
    if not isinstance(env, dict) or not all(isinstance(text, str) for text in env.values()):
        raise ValueError('must be a JSON object of texts, such as {"NAME": "value"}')
    for name in env:
        if TASK_ENV_NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} can't be the name of an environment variable")
        if name in naming.RESERVED_ENV and not name.startswith("AWS_"):
            raise ValueError(f"{name} is set by the platform")
    return json.dumps(env, sort_keys=True)
