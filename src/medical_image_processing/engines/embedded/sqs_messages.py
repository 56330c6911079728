"""Message bodies and attributes of SQS: what is valid, and the MD5 digests that clients check.

Source: Amazon SQS developer guide, "Message metadata for Amazon SQS", with the digest's definition; API
reference, SendMessage.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.ports.queues import OutgoingMessage, ReceivedMessage

MAX_MESSAGE_BYTES = 262_144
_MAX_ATTRIBUTES = 10

_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ID = re.compile(r"[!-~]{1,128}")
_ATTRIBUTE_NAME = re.compile(r"(?!(?i:aws\.|amazon\.)|\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,256}(?<!\.)")
_DATA_TYPE = re.compile(r"(String|Number|Binary)(\..{1,240})?")
_SYSTEM_ATTRIBUTES = frozenset(
    {
        "All",
        "SenderId",
        "SentTimestamp",
        "ApproximateReceiveCount",
        "ApproximateFirstReceiveTimestamp",
        "SequenceNumber",
        "MessageDeduplicationId",
        "MessageGroupId",
        "AWSTraceHeader",
        "DeadLetterQueueSourceArn",
    }
)


def invalid(parameter: str, reason: str) -> AwsError:
    """A parameter that is there and wrong."""
    return AwsError("InvalidParameterValue", f"Value for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> AwsError:
    """A parameter that is not there."""
    return AwsError("MissingParameter", f"The request must contain the parameter {parameter}.")


def md5(text: str) -> str:
    """The digest of a body."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def outgoing(entry: Mapping[str, Any], *, sender: str | None) -> OutgoingMessage:
    """The message of a SendMessage request or of one entry of a batch. AwsError."""
    body = entry.get("MessageBody")
    if not isinstance(body, str) or not body:
        raise missing("MessageBody")
    if _NOT_XML.search(body):
        raise AwsError("InvalidMessageContents", "The message contains characters outside the allowed set.")
    if entry.get("DelaySeconds") is not None:
        raise invalid("DelaySeconds", "The request include parameter that is not valid for this queue type.")
    attributes = entry.get("MessageAttributes") or None
    if attributes is not None:
        _check_attributes(attributes)
    message = OutgoingMessage(
        body=body,
        group_id=_id(entry, "MessageGroupId"),
        dedup_id=_id(entry, "MessageDeduplicationId"),
        attributes=json.dumps(attributes, ensure_ascii=False) if attributes else None,
        sender=sender,
    )
    if size(message) > MAX_MESSAGE_BYTES:
        raise invalid("MessageBody", f"One or more parameters are invalid: over {MAX_MESSAGE_BYTES} bytes.")
    return message


def size(message: OutgoingMessage) -> int:
    """Bytes that count towards the limit: the body and the attributes."""
    total = len(message.body.encode())
    for name, value in json.loads(message.attributes or "{}").items():
        total += len(name.encode()) + len(value["DataType"].encode()) + len(_value(value)[1])
    return total


def _id(entry: Mapping[str, Any], parameter: str) -> str:
    value = entry.get(parameter)
    if value is None or value == "":
        if parameter == "MessageGroupId":
            raise missing(parameter)
        raise invalid(parameter, "The queue has no content-based deduplication, so each message needs one.")
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise invalid(parameter, "It has 1 to 128 letters, digits or punctuation marks.")
    return value


def _check_attributes(attributes: Any) -> None:
    if not isinstance(attributes, dict):
        raise invalid("MessageAttributes", "It is a map of names to values.")
    if len(attributes) > _MAX_ATTRIBUTES:
        raise invalid("MessageAttributes", f"At most {_MAX_ATTRIBUTES} attributes are allowed.")
    for name, value in attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise invalid("MessageAttributes", "A name has letters, digits, '_', '-' and single dots.")
        if not isinstance(value, dict) or not _DATA_TYPE.fullmatch(str(value.get("DataType", ""))):
            raise invalid("MessageAttributes", "DataType is String, Number or Binary, with an own label perhaps.")
        if _NOT_XML.search(str(value.get("StringValue", ""))) or not _value(value)[1]:
            raise invalid("MessageAttributes", "A value is not empty, and has no control characters.")


def _value(attribute: Mapping[str, Any]) -> tuple[int, bytes]:
    """The transport type of the digest's definition, and the value's bytes."""
    if str(attribute["DataType"]).startswith("Binary"):
        try:
            return 2, base64.b64decode(attribute.get("BinaryValue") or "", validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise invalid("MessageAttributes", "BinaryValue is not base64.") from error
    value = attribute.get("StringValue")
    return 1, value.encode() if isinstance(value, str) else b""


def attributes_md5(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """The digest of message attributes."""
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(attributes):
        transport, value = _value(attributes[name])
        for part in (name.encode(), attributes[name]["DataType"].encode()):
            digest.update(len(part).to_bytes(4, "big") + part)
        digest.update(bytes([transport]) + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()


def system_attribute_names(request: Mapping[str, Any]) -> frozenset[str]:
    """The system attributes that a ReceiveMessage asks for, by the current parameter or the earlier one."""
    names = {*_names(request, "AttributeNames"), *_names(request, "MessageSystemAttributeNames")}
    if unknown := names - _SYSTEM_ATTRIBUTES:
        raise AwsError("InvalidAttributeName", f"Unknown Attribute {min(unknown)[:64]}.")
    return _SYSTEM_ATTRIBUTES if "All" in names else frozenset(names)


def attribute_filter(request: Mapping[str, Any]) -> Sequence[str]:
    """Which message attributes a ReceiveMessage asks for: names, ``All``, or prefixes that end with ``.*``."""
    return _names(request, "MessageAttributeNames")


def _names(request: Mapping[str, Any], parameter: str) -> list[str]:
    names = request.get(parameter) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid(parameter, "It is a list of names.")
    return names


def received(
    message: ReceivedMessage, system: frozenset[str], wanted: Sequence[str], sender: str
) -> dict[str, Any]:
    """A message as ReceiveMessage gives it. ``sender`` stands for the platform's own messages."""
    answer: dict[str, Any] = {
        "MessageId": message.message_id,
        "ReceiptHandle": message.receipt_handle,
        "MD5OfBody": md5(message.body),
        "Body": message.body,
    }
    if system:
        known = {
            "SenderId": message.sender or sender,
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateReceiveCount": str(message.receive_count),
            "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
            "SequenceNumber": sequence_number(message.seq),
            "MessageDeduplicationId": message.dedup_id,
            "MessageGroupId": message.group_id,
        }
        answer["Attributes"] = {name: value for name, value in known.items() if name in system}
    if wanted and message.attributes is not None:
        chosen = {n: v for n, v in json.loads(message.attributes).items() if _is_wanted(n, wanted)}
        if chosen:
            answer["MessageAttributes"] = chosen
            answer["MD5OfMessageAttributes"] = attributes_md5(chosen)
    return answer


def _is_wanted(name: str, wanted: Sequence[str]) -> bool:
    return any(
        pattern in ("All", ".*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1]))
        for pattern in wanted
    )


def sequence_number(seq: int) -> str:
    """Twenty digits, which sort as text in the order of sending."""
    return f"{seq:020d}"
