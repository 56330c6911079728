"""DynamoDB as the engine uses it: one table, items of texts and numbers, conditions, transactions.

In expressions ``#name`` is the attribute ``name`` and ``:value`` the value given under that name, so that no
reserved word gets in the way. Reads of a table are consistent; reads of an index never are, so what an index
names is looked up in the table before anything is decided on it.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medical_image_processing.engines.aws.clients import BUSY, AwsClient, Refused
from medical_image_processing.errors import PermanentError, TransientError, Unavailable

Item = dict[str, Any]
"""Attributes by name: str, int, float, a list of str, or a frozenset of str, which comes back as a list. Those
that are None are not there."""

_NAME = re.compile(r"#(\w+)")
_BATCH_GET = 100  # DynamoDB API reference, "BatchGetItem" and "BatchWriteItem"
_BATCH_WRITE = 25
_TRIES = 8
_FIRST_PAUSE_S = 0.05


class ConditionFailed(PermanentError):
    """The item is not as the write asked for; ``item`` is as it is, None where there is none."""

    def __init__(self, item: Item | None) -> None:
        super().__init__("CONDITION_FAILED", "the item is not as the write asked for")
        self.item = item


@dataclass(frozen=True)
class Table:
    """One table, by the key it has."""

    client: AwsClient
    name: str

    async def get(self, key: Item) -> Item | None:
        """The item, or None."""
        answer = await self.client.call("get_item", TableName=self.name, Key=packed(key), ConsistentRead=True)
        return unpacked(answer["Item"]) if "Item" in answer else None

    async def put(self, item: Item, *, condition: str, values: Item | None = None) -> None:
        """Write the whole item. ConditionFailed."""
        await self._write("put_item", Item=packed(item), **_expressed(values, ConditionExpression=condition))

    async def delete(self, key: Item, *, condition: str | None = None, values: Item | None = None) -> None:
        """Remove the item. ConditionFailed."""
        given = _expressed(values, ConditionExpression=condition)
        await self._write("delete_item", Key=packed(key), **given)

    async def update(self, key: Item, change: str, *, condition: str | None = None, values: Item) -> Item:
        """Change the item; as it is then. ConditionFailed."""
        given = _expressed(values, UpdateExpression=change, ConditionExpression=condition)
        answer = await self._write("update_item", Key=packed(key), ReturnValues="ALL_NEW", **given)
        return unpacked(answer["Attributes"])

    def put_action(self, item: Item, *, condition: str | None = None, values: Item | None = None) -> Item:
        """``put`` as a part of :meth:`transact`."""
        given = _expressed(values, ConditionExpression=condition)
        return {"Put": {"TableName": self.name, "Item": packed(item), **given}}

    def update_action(self, key: Item, change: str, *, condition: str, values: Item) -> Item:
        """``update`` as a part of :meth:`transact`."""
        given = _expressed(values, UpdateExpression=change, ConditionExpression=condition)
        return {"Update": {"TableName": self.name, "Key": packed(key), **given}}

    def delete_action(self, key: Item, *, condition: str | None = None, values: Item | None = None) -> Item:
        """``delete`` as a part of :meth:`transact`."""
        given = _expressed(values, ConditionExpression=condition)
        return {"Delete": {"TableName": self.name, "Key": packed(key), **given}}

    async def transact(self, actions: Sequence[Item]) -> None:
        """All of them, on whichever tables, or none. ConditionFailed, without an item.

        botocore gives a call one token for all its tries, so that one whose answer was lost is not refused
        when it comes again (DynamoDB API reference, "TransactWriteItems").
        """
        try:
            await self._patiently("transact_write_items", TransactItems=list(actions))
        except Refused as error:
            if "ConditionalCheckFailed" in error.reasons:
                raise ConditionFailed(None) from error
            raise

    async def query(
        self, where: str, values: Item, *, index: str | None = None, forward: bool = True, limit: int | None = None
    ) -> list[Item]:
        """Items of the table or an index in its order, at most ``limit``, however many calls that takes."""
        found: list[Item] = []
        given = _expressed(values, KeyConditionExpression=where)
        given |= {"IndexName": index} if index else {"ConsistentRead": True}
        async for page in self._pages("query", limit, ScanIndexForward=forward, **given):
            found += map(unpacked, page["Items"])
            if limit is not None and len(found) >= limit:
                break
        return found[:limit]

    async def count(self, where: str, values: Item, *, index: str) -> int:
        """How many items of an index."""
        given = _expressed(values, KeyConditionExpression=where)
        pages = self._pages("query", None, IndexName=index, Select="COUNT", **given)
        return sum([page["Count"] async for page in pages])

    async def scan(self, *, where: str | None = None, values: Item | None = None) -> list[Item]:
        """Every item of the table, in no order."""
        given = _expressed(values, FilterExpression=where)
        pages = self._pages("scan", None, ConsistentRead=True, **given)
        return [unpacked(item) async for page in pages for item in page["Items"]]

    async def scan_index(self, index: str, *, limit: int, after: Item | None) -> tuple[list[Item], Item | None]:
        """Some items of an index, and where to go on; None at the end. ``after`` is what came back before."""
        start = {} if after is None else {"ExclusiveStartKey": packed(after)}
        answer = await self.client.call("scan", TableName=self.name, IndexName=index, Limit=limit, **start)
        last = answer.get("LastEvaluatedKey")
        return [unpacked(item) for item in answer["Items"]], unpacked(last) if last else None

    async def get_all(self, keys: Iterable[Item], *, only: Sequence[str] = ()) -> list[Item]:
        """The items that are there, in no order; of each all attributes, or ``only`` those."""
        found: list[Item] = []
        asked = [packed(key) for key in keys]
        how = _expressed(None, ProjectionExpression=", ".join(f"#{name}" for name in only))
        for start in range(0, len(asked), _BATCH_GET):
            left: Any = {self.name: {"Keys": asked[start : start + _BATCH_GET], "ConsistentRead": True, **how}}
            async for answer in self._batches("batch_get_item", left, "UnprocessedKeys"):
                found += map(unpacked, answer["Responses"].get(self.name, []))
        return found

    async def put_all(self, items: Sequence[Item]) -> None:
        """Write the items, each for itself and without a condition."""
        requests = [{"PutRequest": {"Item": packed(item)}} for item in items]
        for start in range(0, len(requests), _BATCH_WRITE):
            left: Any = {self.name: requests[start : start + _BATCH_WRITE]}
            async for _ in self._batches("batch_write_item", left, "UnprocessedItems"):
                pass

    async def _batches(self, operation: str, left: Any, unprocessed: str) -> AsyncIterator[Item]:
        """DynamoDB hands back what it had no capacity for, and that is asked for again."""
        for pause_s in _pauses():
            answer = await self.client.call(operation, RequestItems=left)
            yield answer
            if not (left := answer.get(unprocessed)):
                return
            if pause_s is None:
                raise Unavailable(
                    "AWS_UNAVAILABLE", f"DynamoDB {operation}: {_TRIES} times a part was left; try again later"
                )
            await asyncio.sleep(pause_s)

    async def _pages(self, operation: str, limit: int | None, **given: Any) -> AsyncIterator[Item]:
        given |= {"TableName": self.name} | ({"Limit": limit} if limit is not None else {})
        while True:
            page = await self.client.call(operation, **given)
            yield page
            if (last := page.get("LastEvaluatedKey")) is None:
                return
            given["ExclusiveStartKey"] = last

    async def _write(self, operation: str, **given: Any) -> Item:
        if "ConditionExpression" in given:
            given["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        try:
            return await self._patiently(operation, TableName=self.name, **given)
        except Refused as error:
            if error.aws_code != "ConditionalCheckFailedException":
                raise
            raise ConditionFailed(unpacked(error.item) if error.item else None) from error

    async def _patiently(self, operation: str, **given: Any) -> Item:
        """Again, where it met another's transaction on the same item: botocore does not try that again."""
        for pause_s in _pauses():
            try:
                return await self.client.call(operation, **given)
            except TransientError as error:
                if error.code != BUSY or pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("the last of the pauses is None")


def packed(item: Item) -> Item:
    """As DynamoDB wants it."""
    return {name: _packed(value) for name, value in item.items() if value is not None}


def unpacked(item: Mapping[str, Any]) -> Item:
    """As we want it."""
    return {name: _unpacked(value) for name, value in item.items()}


def _packed(value: Any) -> Item:
    match value:
        case str():
            return {"S": value}
        case int() | float():
            return {"N": repr(value)}
        case list():
            return {"L": [_packed(one) for one in value]}
        case frozenset():
            return {"SS": sorted(value)}
    raise TypeError(f"no attribute is a {type(value).__name__}")


def _unpacked(value: Mapping[str, Any]) -> Any:
    [(kind, content)] = value.items()
    match kind:
        case "N":
            return float(content) if "." in content or "E" in content.upper() else int(content)
        case "L":
            return [_unpacked(one) for one in content]
    return content


def _expressed(values: Item | None, **expressions: str | None) -> Item:
    """The expressions, and the names and values that they speak of."""
    given: Item = {name: text for name, text in expressions.items() if text}
    names = {f"#{name}": name for text in given.values() for name in _NAME.findall(text)}
    if names:
        given["ExpressionAttributeNames"] = names
    if values:
        given["ExpressionAttributeValues"] = {f":{name}": value for name, value in packed(values).items()}
    return given


def _pauses() -> Iterable[float | None]:
    """How long to wait after each try, with jitter; None after the last."""
    for number in range(_TRIES - 1):
        yield random.uniform(0.5, 1.0) * _FIRST_PAUSE_S * 2**number  # noqa: S311 - spreads writers, keeps no secret
    yield None
