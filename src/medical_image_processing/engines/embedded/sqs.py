"""The SQS endpoint: the JSON protocol, the actions of CONTRACT.md, FIFO queues only.

Source: Amazon SQS API reference. ReceiveRequestAttemptId is accepted and has no
effect; AWSTraceHeader is not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from medical_image_processing.engines.embedded import sqs_messages
from medical_image_processing.engines.embedded.authentication import Authenticator, Caller
from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.aws_request import AwsRequest, ClientGone, Response
from medical_image_processing.engines.embedded.credentials import Algorithm
from medical_image_processing.engines.embedded.fifo import HandleTrouble, Sent
from medical_image_processing.engines.embedded.queues import FifoQueues, QueueAttributes
from medical_image_processing.engines.embedded.sqs_messages import MAX_MESSAGE_BYTES, invalid, missing
from medical_image_processing.errors import NotFound
from medical_image_processing.ports.queues import OutgoingMessage, ReceivedMessage

TARGET = "AmazonSQS."
MAX_VISIBILITY_S = 43_200
MAX_WAIT_S = 20
MAX_BATCH = 10

_MAX_BODY = 2 * 1024 * 1024  # a batch of 256 KiB, most of it escaped in JSON
_JSON = "application/x-amz-json-1.0"
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_EARLIER = "AWS.SimpleQueueService."

_Given = Mapping[str, Any]


class SqsEndpoint:
    """Answers SQS requests from :class:`FifoQueues`."""

    def __init__(self, queues: FifoQueues, authenticator: Authenticator, *, region: str, account: str) -> None:
        self._queues = queues
        self._authenticator = authenticator
        self._region = region
        self._account = account
        self._actions: dict[str, Callable[[AwsRequest, Caller, _Given], Awaitable[dict[str, Any]]]] = {
            "GetQueueUrl": self._get_queue_url,
            "GetQueueAttributes": self._get_queue_attributes,
            "SendMessage": self._send_message,
            "SendMessageBatch": self._send_message_batch,
            "ReceiveMessage": self._receive_message,
            "DeleteMessage": self._delete_message,
            "DeleteMessageBatch": self._delete_message_batch,
            "ChangeMessageVisibility": self._change_message_visibility,
            "ChangeMessageVisibilityBatch": self._change_message_visibility_batch,
        }

    async def answer(self, request: AwsRequest) -> Response:
        """The answer to one request. AwsError."""
        body = await request.body(max_bytes=_MAX_BODY)
        caller = self._authenticator.authenticate(request, "sqs", lambda _: _hash(request, body))
        if request.method != "POST" or caller.signature.expires_s is not None:
            raise AwsError(
                "UnsupportedOperation",
                "SQS requests are signed POSTs",
                query_code=f"{_EARLIER}UnsupportedOperation",
            )
        action = self._actions.get(request.headers.get("x-amz-target", "").removeprefix(TARGET))
        if action is None:
            raise AwsError(
                "UnsupportedOperation",
                f"the platform's SQS endpoint offers {', '.join(self._actions)}",
                query_code=f"{_EARLIER}UnsupportedOperation",
            )
        try:
            answer = await action(request, caller, _parsed(body))
        except NotFound as error:
            raise _no_such_queue() from error
        return Response(headers={"content-type": _JSON}, body=_json(answer))

    async def _get_queue_url(self, request: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        name = given.get("QueueName")
        if not isinstance(name, str) or not name:
            raise missing("QueueName")
        caller.require("sqs:GetQueueUrl", name)
        if not _QUEUE_NAME.fullmatch(name) or not self._queues.exists(name):
            raise _no_such_queue()
        return {"QueueUrl": f"{request.base_url}/{self._account}/{name}"}

    async def _get_queue_attributes(self, _: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        queue = _queue(caller, "sqs:GetQueueAttributes", given)
        names = given.get("AttributeNames") or []
        if not isinstance(names, list):
            raise invalid("AttributeNames", "It is a list of names.")
        found = self._queues.attributes(queue)
        if found is None:
            raise _no_such_queue()
        known = self._attributes(found)
        if unknown := [name for name in names if name not in known and name not in _ABSENT_ATTRIBUTES]:
            raise AwsError("InvalidAttributeName", f"Unknown Attribute {str(unknown[0])[:64]}.")
        chosen = {n: v for n, v in known.items() if v is not None and (n in names or "All" in names)}
        return {"Attributes": chosen} if chosen else {}

    def _attributes(self, queue: QueueAttributes) -> dict[str, str | None]:
        redrive = None
        if queue.redrive_to is not None:
            redrive = json.dumps(
                {"deadLetterTargetArn": self._arn(queue.redrive_to), "maxReceiveCount": queue.max_receives}
            )
        return {
            "QueueArn": self._arn(queue.name),
            "ApproximateNumberOfMessages": str(queue.visible),
            "ApproximateNumberOfMessagesNotVisible": str(queue.in_flight),
            "ApproximateNumberOfMessagesDelayed": "0",
            "CreatedTimestamp": str(int(queue.created_at)),
            "LastModifiedTimestamp": str(int(queue.created_at)),
            "VisibilityTimeout": str(int(queue.visibility_s)),
            "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
            "MessageRetentionPeriod": "1209600",
            "DelaySeconds": "0",
            "ReceiveMessageWaitTimeSeconds": "0",
            "RedrivePolicy": redrive,
            "FifoQueue": "true",
            "ContentBasedDeduplication": "false",
            "DeduplicationScope": "queue",
            "FifoThroughputLimit": "perQueue",
            "SqsManagedSseEnabled": "false",
        }

    def _arn(self, name: str) -> str:
        return f"arn:aws:sqs:{self._region}:{self._account}:{name}"

    async def _send_message(self, _: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        queue = _queue(caller, "sqs:SendMessage", given)
        message = sqs_messages.outgoing(given, sender=_sender(caller))
        sent = (await self._queues.post(queue, [message]))[0]
        return _sent(message, sent)

    async def _send_message_batch(self, _: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        queue = _queue(caller, "sqs:SendMessage", given)
        entries = _entries(given)
        messages: list[OutgoingMessage | AwsError] = []
        for entry in entries:
            try:
                messages.append(sqs_messages.outgoing(entry, sender=_sender(caller)))
            except AwsError as error:
                messages.append(error)
        good = [message for message in messages if isinstance(message, OutgoingMessage)]
        if sum(map(sqs_messages.size, good)) > MAX_MESSAGE_BYTES:
            raise AwsError(
                "BatchRequestTooLong",
                f"Batch requests cannot be longer than {MAX_MESSAGE_BYTES} bytes.",
                query_code=f"{_EARLIER}BatchRequestTooLong",
            )
        sent = iter(await self._queues.post(queue, good))
        return _batch_answer(entries, [m if isinstance(m, AwsError) else _sent(m, next(sent)) for m in messages])

    async def _receive_message(self, request: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        queue = _queue(caller, "sqs:ReceiveMessage", given)
        limit = _integer(given, "MaxNumberOfMessages", 1, MAX_BATCH, default=1)
        wait_s = _integer(given, "WaitTimeSeconds", 0, MAX_WAIT_S, default=0)
        visibility_s = _integer(given, "VisibilityTimeout", 0, MAX_VISIBILITY_S, default=None)
        system = sqs_messages.system_attribute_names(given)
        wanted = sqs_messages.attribute_filter(given)

        def receive(wait_s: float) -> Awaitable[list[ReceivedMessage]]:
            return self._queues.receive(
                queue,
                limit=limit or 1,
                wait_s=wait_s,
                visibility_s=visibility_s,
                receiver=caller.access_key_id,
            )

        messages = await receive(0)
        if not messages and wait_s:
            messages = await self._while_connected(request, asyncio.ensure_future(receive(wait_s)))
        answer = [sqs_messages.received(message, system, wanted, self._account) for message in messages]
        return {"Messages": answer} if answer else {}

    async def _while_connected(
        self, request: AwsRequest, receiving: asyncio.Future[list[ReceivedMessage]]
    ) -> list[ReceivedMessage]:
        """What ``receiving`` receives, unless the client has gone: then nobody receives it. ClientGone."""
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((receiving, gone), return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                return await receiving
            if receiving.done():
                await self._queues.give_back(receiving.result())
            raise ClientGone
        finally:
            for task in (receiving, gone):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _delete_message(self, _: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        queue = _queue(caller, "sqs:DeleteMessage", given)
        trouble = (await self._queues.delete_batch(queue, [_handle(given)]))[0]
        if trouble is not None:
            raise _handle_error(trouble)
        return {}

    async def _delete_message_batch(self, _: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        queue = _queue(caller, "sqs:DeleteMessage", given)
        entries = _entries(given)
        troubles = await self._queues.delete_batch(queue, [_handle(entry) for entry in entries])
        return _batch_answer(entries, [_handle_error(t) if t is not None else {} for t in troubles])

    async def _change_message_visibility(self, _: AwsRequest, caller: Caller, given: _Given) -> dict[str, Any]:
        queue = _queue(caller, "sqs:ChangeMessageVisibility", given)
        trouble = (await self._queues.change_visibility(queue, [_change(given)]))[0]
        if trouble is not None:
            raise _handle_error(trouble)
        return {}

    async def _change_message_visibility_batch(
        self, _: AwsRequest, caller: Caller, given: _Given
    ) -> dict[str, Any]:
        queue = _queue(caller, "sqs:ChangeMessageVisibility", given)
        entries = _entries(given)
        troubles = await self._queues.change_visibility(queue, [_change(entry) for entry in entries])
        return _batch_answer(entries, [_handle_error(t) if t is not None else {} for t in troubles])


_ABSENT_ATTRIBUTES = frozenset(
    {"All", "Policy", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds", "RedriveAllowPolicy"}
)


def error_response(error: AwsError) -> Response:
    """The answer that SQS clients parse: the code of the JSON protocol, and the earlier protocol's beside it."""
    fault = "Sender" if error.status < 500 else "Receiver"
    return Response(
        error.status,
        {"content-type": _JSON, "x-amzn-query-error": f"{error.query_code};{fault}"},
        _json({"__type": f"com.amazonaws.sqs#{error.code}", "message": error.message}),
    )


def _hash(request: AwsRequest, body: bytes) -> str:
    found = sha256(body).hexdigest()
    if request.headers.get("x-amz-content-sha256", found) != found:
        raise AwsError("SignatureDoesNotMatch", "the body is not the one that was signed", status=403)
    return found


def _parsed(body: bytes) -> _Given:
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise AwsError("SerializationException", "the body is not JSON") from error
    if not isinstance(given, dict):
        raise AwsError("SerializationException", "the body is not a JSON object")
    return given


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _queue(caller: Caller, action: str, given: _Given) -> str:
    """The queue's name, if the caller may do that there."""
    url = given.get("QueueUrl")
    if not isinstance(url, str) or not url:
        raise missing("QueueUrl")
    name = url.rpartition("/")[2]
    caller.require(action, name)
    if not _QUEUE_NAME.fullmatch(name):
        raise _no_such_queue()
    return name


def _no_such_queue() -> AwsError:
    return AwsError(
        "QueueDoesNotExist", "The specified queue does not exist.", query_code=f"{_EARLIER}NonExistentQueue"
    )


def _sender(caller: Caller) -> str | None:
    return caller.principal.algo_id if isinstance(caller.principal, Algorithm) else None


def _sent(message: OutgoingMessage, sent: Sent) -> dict[str, Any]:
    answer = {
        "MD5OfMessageBody": sqs_messages.md5(message.body),
        "MessageId": sent.message_id,
        "SequenceNumber": sqs_messages.sequence_number(sent.seq),
    }
    if message.attributes is not None:
        answer["MD5OfMessageAttributes"] = sqs_messages.attributes_md5(json.loads(message.attributes))
    return answer


def _handle(given: _Given) -> str:
    handle = given.get("ReceiptHandle")
    if not isinstance(handle, str) or not handle:
        raise missing("ReceiptHandle")
    return handle


def _change(given: _Given) -> tuple[str, int]:
    seconds = _integer(given, "VisibilityTimeout", 0, MAX_VISIBILITY_S, default=None)
    if seconds is None:
        raise missing("VisibilityTimeout")
    return _handle(given), seconds


def _handle_error(trouble: HandleTrouble) -> AwsError:
    if trouble is HandleTrouble.INVALID:
        return AwsError(trouble, "The input receipt handle is invalid.")
    return AwsError(
        trouble,
        "The message is not in flight: its lease ended, it was deleted, or it was received again since.",
        query_code=f"{_EARLIER}{trouble}",
    )


def _integer(given: _Given, parameter: str, lowest: int, highest: int, *, default: int | None) -> int | None:
    value = given.get(parameter)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise invalid(parameter, f"Must be an integer from {lowest} to {highest}.")
    return value


def _entries(given: _Given) -> Sequence[_Given]:
    entries = given.get("Entries")
    if not isinstance(entries, list) or not entries:
        raise _batch_error("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > MAX_BATCH:
        raise _batch_error(
            "TooManyEntriesInBatchRequest", f"Maximum number of entries per request are {MAX_BATCH}."
        )
    ids = [entry.get("Id") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(one, str) and _ENTRY_ID.fullmatch(one) for one in ids):
        raise _batch_error("InvalidBatchEntryId", "An Id has 1 to 80 letters, digits, hyphens and underscores.")
    if len(set(ids)) < len(ids):
        raise _batch_error("BatchEntryIdsNotDistinct", "Two entries have the same Id.")
    return entries


def _batch_error(code: str, message: str) -> AwsError:
    return AwsError(code, message, query_code=f"{_EARLIER}{code}")


def _batch_answer(entries: Sequence[_Given], outcomes: Sequence[dict[str, Any] | AwsError]) -> dict[str, Any]:
    answer: dict[str, Any] = {"Successful": [], "Failed": []}
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, AwsError):
            failure = {
                "Id": entry["Id"],
                "SenderFault": True,
                "Code": outcome.query_code,
                "Message": outcome.message,
            }
            answer["Failed"].append(failure)
        else:
            answer["Successful"].append({"Id": entry["Id"], **outcome})
    return answer
