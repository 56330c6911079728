"""The workers' log groups in CloudWatch Logs. Implements ports.resources.Logs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.errors import Unavailable

RETENTION_DAYS = 90
_GONE = "ResourceNotFoundException"
_STREAMS = 10
"""Of the newest workers, one stream each; older ones are for CloudWatch's own tools."""
_MOST_LINES = 10_000


@dataclass(frozen=True)
class LogGroupFound:
    """``drifted`` when it would keep its logs for ever."""

    drifted: bool


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

    async def tail(self, algo_id: str, *, lines: int) -> list[str]:
        """The newest lines, oldest first; of the workers that spoke last."""
        if lines < 1:
            return []
        group = naming.log_group(algo_id)
        try:
            answer = await self._logs.call(
                "describe_log_streams",
                logGroupName=group,
                orderBy="LastEventTime",
                descending=True,
                limit=_STREAMS,
            )
            streams = [stream["logStreamName"] for stream in answer["logStreams"]]
            parts = await asyncio.gather(*(self._newest(group, stream, lines) for stream in streams))
        except Refused as error:
            if error.aws_code == _GONE:
                return []
            raise
        events = sorted((event for part in parts for event in part), key=lambda event: event["timestamp"])
        return [_printable(event["message"].rstrip("\n")) for event in events[-lines:]]

    async def last_line(self, algo_id: str, stream: str) -> str | None:
        """The last thing that one worker said."""
        try:
            events = await self._newest(naming.log_group(algo_id), stream, 20)
        except Refused:
            return None  # it said nothing, or its group is gone
        said = [text for event in events if (text := _printable(event["message"]).strip())]
        return said[-1] if said else None

    async def _newest(self, group: str, stream: str, lines: int) -> list[dict[str, Any]]:
        answer = await self._logs.call(
            "get_log_events",
            logGroupName=group,
            logStreamName=stream,
            limit=min(lines, _MOST_LINES),
            startFromHead=False,
        )
        return list(answer["events"])


def _printable(line: str) -> str:
    """A worker may write what would command a terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
