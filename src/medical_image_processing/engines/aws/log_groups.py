"""The workers' log groups in CloudWatch Logs. Implements ports.resources.Logs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.errors import InvalidRequest, Unavailable
from medical_image_processing.ports.resources import LogLines

RETENTION_DAYS = 90
_GONE = "ResourceNotFoundException"
_STREAMS = 10
"""Of the newest workers, one stream each; older ones are for CloudWatch's own tools."""
_MOST_LINES = 10_000
_MOST_TOKEN_CHARS = 512
_MOST_CURSOR_CHARS = 4096
"""What the API takes; ten workers' places need half of it."""


@dataclass(frozen=True)
class LogGroupFound:
    """``drifted`` when it would keep its logs for ever."""

    drifted: bool


@dataclass(frozen=True)
class _Read:
    events: list[dict[str, Any]]
    token: str
    gap: bool = False


class LogGroups:
    """Makes, looks at, reads and deletes log groups."""

    def __init__(self, clients: AwsClients) -> None:
        self._logs = clients.client("logs")

    async def observe(self, algo_id: str) -> LogGroupFound | None:
        """What is there now. An operator may choose how long logs are kept, only not for ever."""
        name = naming.log_group(algo_id)
        answer = await self._logs.call("describe_log_groups", logGroupNamePrefix=name)
        for group in answer["logGroups"]:  # in the order of names, so that ours comes first
            if group["logGroupName"] == name:
                return LogGroupFound(drifted=group.get("retentionInDays") is None)
        return None

    async def create(self, algo_id: str) -> None:
        """The group, with an end to how long it keeps logs."""
        name = naming.log_group(algo_id)
        try:
            await self._logs.call("create_log_group", logGroupName=name, tags={naming.ALGORITHM_TAG: algo_id})
        except Refused as error:
            if error.aws_code != "ResourceAlreadyExistsException":
                raise
            if (found := await self.observe(algo_id)) is not None and not found.drifted:
                return
        try:
            await self._logs.call("put_retention_policy", logGroupName=name, retentionInDays=RETENTION_DAYS)
        except Refused as error:
            if error.aws_code not in (_GONE, "OperationAbortedException"):
                raise
            raise Unavailable(
                "LOG_GROUP_NOT_SETTLED",
                f"the log group {name} was just made or changed, by others too maybe; it takes seconds",
            ) from error

    async def delete(self, algo_id: str) -> None:
        """The group and its logs."""
        try:
            await self._logs.call("delete_log_group", logGroupName=naming.log_group(algo_id))
        except Refused as error:
            if error.aws_code != _GONE:
                raise

    async def read(self, algo_id: str, *, lines: int, cursor: str | None = None) -> LogLines:
        """The newest lines of the workers that spoke last, or those behind ``cursor``: a token for each stream."""
        group, known = naming.log_group(algo_id), _parse(cursor)
        try:
            answer = await self._logs.call(
                "describe_log_streams",
                logGroupName=group,
                orderBy="LastEventTime",
                descending=True,
                limit=_STREAMS,
            )
            streams = [stream["logStreamName"] for stream in answer["logStreams"]]
            # What each stream may give, so that together they give no more than was asked for.
            share = lines if known is None else max(1, lines // max(1, len(streams)))
            read = await asyncio.gather(*(self._behind(group, stream, share, known) for stream in streams))
        except Refused as error:
            if error.aws_code == _GONE:
                return LogLines((), _cursor({}), gap=bool(known))
            raise
        events = sorted((event for part in read for event in part.events), key=lambda event: event["timestamp"])
        shown = events[-lines:] if known is None else events
        tokens = {stream: part.token for stream, part in zip(streams, read, strict=True)}
        # Those that others came before keep their places: when they speak again, nothing comes twice.
        tokens |= {stream: token for stream, token in (known or {}).items() if stream not in tokens}
        text = tuple(_printable(event["message"].rstrip("\n")) for event in shown)
        return LogLines(text, _cursor(tokens), gap=any(part.gap for part in read))

    async def _behind(self, group: str, stream: str, lines: int, known: Mapping[str, str] | None) -> _Read:
        """A stream from its token on; one that came since, from its beginning; without a cursor, its newest."""
        if known is None:
            return await self._events(group, stream, lines, startFromHead=False)
        token = {"nextToken": known[stream]} if stream in known else {}
        try:
            return await self._events(group, stream, lines, startFromHead=True, **token)
        except Refused as error:
            if error.aws_code != "InvalidParameterException" or not token:
                raise
        # A token is good for a day (CloudWatch Logs API reference, "GetLogEvents").
        newest = await self._events(group, stream, lines, startFromHead=False)
        return _Read(newest.events, newest.token, gap=True)

    async def _events(self, group: str, stream: str, lines: int, **where: Any) -> _Read:
        answer = await self._logs.call(
            "get_log_events",
            logGroupName=group,
            logStreamName=stream,
            limit=min(lines, _MOST_LINES),
            **where,
        )
        return _Read(list(answer["events"]), answer["nextForwardToken"])

    async def last_line(self, algo_id: str, stream: str) -> str | None:
        """The last thing that one worker said."""
        try:
            events = (await self._events(naming.log_group(algo_id), stream, 20, startFromHead=False)).events
        except Refused:
            return None  # it said nothing, or its group is gone
        said = [text for event in events if (text := _printable(event["message"]).strip())]
        return said[-1] if said else None


def _cursor(tokens: Mapping[str, str]) -> str:
    """The first of them, which are the newest workers', as far as there is room for."""
    kept = dict(tokens)
    while len(cursor := _packed(kept)) > _MOST_CURSOR_CHARS:
        kept.popitem()
    return cursor


def _packed(tokens: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(tokens, separators=(",", ":")).encode()).decode()


def _parse(cursor: str | None) -> dict[str, str] | None:
    if cursor is None:
        return None
    try:
        tokens = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, RecursionError):
        tokens = None
    if not isinstance(tokens, dict) or not all(map(_is_token, tokens.values())):
        raise InvalidRequest("INVALID_CURSOR", "cursor: send the one that came with the lines before")
    return tokens


def _is_token(said: object) -> bool:
    """None that the SDK would not send."""
    return isinstance(said, str) and 0 < len(said) <= _MOST_TOKEN_CHARS and said.isascii() and said.isprintable()


def _printable(line: str) -> str:
    """A worker may write what would command a terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
