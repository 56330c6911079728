"""SQS FIFO queues: ports.queues.

SQS itself keeps the clauses Q1 to Q7 (Amazon SQS developer guide, "FIFO queues", "Exactly-once processing",
"Visibility timeout"). What is added: queues by name instead of URL, and whose message it is.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import READ_TIMEOUT_S, AwsClient, Refused
from medical_image_processing.errors import NotFound, Throttled, TransientError, Unavailable
from medical_image_processing.ports.queues import DeadLetter, OutgoingMessage, ReceivedMessage

_LOG = logging.getLogger(__name__)
_BATCH = 10  # Amazon SQS API reference, "SendMessageBatch" and others
_BATCH_BYTES = 262_144
_DEPTH_FOR_S = 5.0
_LONGEST_WAIT_S = READ_TIMEOUT_S - 2
_LETTER_LEASE_S = 60
QUEUE_GONE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_BUSY = frozenset({"RequestThrottled", "ThrottlingException", "KmsThrottled", "ServiceUnavailable"})
_COUNTS = tuple(f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed"))
_IN_FLIGHT = "ApproximateNumberOfMessagesNotVisible"

SenderLookup = Callable[[str], Awaitable[str | None]]
"""The algorithm of a role, by the role's unique id (``AROA…``); None for a role of no algorithm."""
UNKNOWN_ROLE = "an unknown role"
"""The sender of what a role sent that is no algorithm's. No algorithm has such a name: none is believed."""


class OpenJobs(Protocol):
    """What is known of the jobs that wait for a message to be handled."""

    async def algorithms(self) -> Sequence[str]:
        """The algorithms that have open jobs: only their dead letters can matter."""

    async def has_another_message(self, job_id: str, message_id: str, dedup_id: str) -> bool:
        """Whether the job is open and was sent with a newer message than this one."""


class SqsQueues:
    """Implements :class:`ports.queues.Queues` for the queues of the results queue's account and region.

    A depth is at most five seconds old: each job that comes in asks for one.
    """

    def __init__(
        self,
        client: AwsClient,
        results_queue_url: str,
        *,
        open_jobs: OpenJobs,
        algorithm_of_role: SenderLookup,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._base = results_queue_url.rpartition("/")[0]
        self._open_jobs = open_jobs
        self._algorithm_of_role = algorithm_of_role
        self._clock = clock
        self._depths: dict[str, tuple[float, int]] = {}
        self._letters: dict[str, tuple[str, str]] = {}

    def url(self, queue: str) -> str:
        """Where a queue is found, whether there is one or not."""
        return f"{self._base}/{queue}"

    async def send(self, queue: str, messages: Sequence[OutgoingMessage]) -> list[str]:
        """Message ids, in order. NotFound ``UNKNOWN_QUEUE``. All of them are sent, or those that failed raise."""
        ids: list[str] = []
        for batch in _batches(messages):
            if len(batch) == 1:
                answer = await self._call("send_message", queue, **_outgoing(batch[0]))
                ids.append(answer["MessageId"])
                continue
            entries = [{"Id": str(number), **_outgoing(message)} for number, message in enumerate(batch)]
            answer = await self._call("send_message_batch", queue, Entries=entries)
            if failed := answer.get("Failed"):
                _raise_failed("SendMessageBatch", failed)
            ids += [sent["MessageId"] for sent in sorted(answer["Successful"], key=lambda one: int(one["Id"]))]
        return ids

    async def receive(self, queue: str, *, limit: int, wait_s: float) -> list[ReceivedMessage]:
        """Up to ``limit`` messages, leased for the queue's visibility timeout. Waits some seconds at the most: no
        call takes longer than its time limit, and Lambdas are handed their messages anyway.
        """
        received: list[ReceivedMessage] = []
        while len(received) < limit:
            wanted = min(_BATCH, limit - len(received))
            wait = 0 if received else math.ceil(min(wait_s, _LONGEST_WAIT_S))
            try:
                found = await self._receive(queue, wanted, WaitTimeSeconds=wait)
            except TransientError:
                if not received:
                    raise
                break
            received += [await self._received(message) for message in found]
            if len(found) < wanted:
                break
        return received

    async def received(self, record: Mapping[str, Any]) -> ReceivedMessage:
        """A message as SQS hands it to a Lambda, in ``Records`` of its event."""
        return await self._received(
            {
                "MessageId": record["messageId"],
                "ReceiptHandle": record["receiptHandle"],
                "Body": record["body"],
                "Attributes": record["attributes"],
            }
        )

    async def delete(self, queue: str, receipt_handles: Sequence[str]) -> None:
        """Done with these. A handle that holds nothing any more is passed over."""
        if not receipt_handles:
            await self._attributes(queue)  # says so when there is no such queue
        for start in range(0, len(receipt_handles), _BATCH):
            batch = receipt_handles[start : start + _BATCH]
            entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(batch)]
            answer = await self._call("delete_message_batch", queue, Entries=entries)
            if failed := [one for one in answer.get("Failed", ()) if not one.get("SenderFault", False)]:
                _raise_failed("DeleteMessageBatch", failed)

    async def depth(self, queue: str) -> int:
        """Messages on the queue, in flight or not; 0 when there is no such queue."""
        now = self._clock()
        asked_at, depth = self._depths.get(queue, (-math.inf, 0))
        if now - asked_at < _DEPTH_FOR_S:
            return depth
        try:
            depth = await self.count(queue)
        except NotFound:
            depth = 0
        self._depths[queue] = now, depth
        return depth

    async def count(self, queue: str) -> int:
        """Messages on the queue, asked anew. SQS counts approximately, within a minute of the last change.

        NotFound ``UNKNOWN_QUEUE``.
        """
        attributes = await self._attributes(queue)
        return sum(int(attributes[name]) for name in _COUNTS)

    async def in_flight(self, queue: str) -> int:
        """Messages that somebody has received and not deleted, asked anew. NotFound ``UNKNOWN_QUEUE``."""
        return int((await self._attributes(queue))[_IN_FLIGHT])

    async def purge(self, queue: str) -> None:
        """Take all messages off the queue, if there is one; what was asked for a minute ago is under way still."""
        try:
            await self._call("purge_queue", queue)
        except NotFound:
            return
        except Refused as error:
            if "PurgeQueueInProgress" not in error.aws_code:
                raise
            _LOG.info("%s is being purged already", queue)

    async def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Dead letters of open jobs' algorithms that nobody has answered for. They stay for a minute's lease.

        A letter from before its job was sent again is nobody's any more, and is taken away.
        """
        letters: list[DeadLetter] = []
        for algo_id in await self._open_jobs.algorithms():
            queue = naming.dead_letter_queue(algo_id)
            while (wanted := min(_BATCH, limit - len(letters))) > 0:
                try:
                    found = await self._receive(
                        queue, wanted, WaitTimeSeconds=0, VisibilityTimeout=_LETTER_LEASE_S
                    )
                except NotFound:
                    break
                for message in found:
                    if (letter := await self._letter(queue, message)) is not None:
                        letters.append(letter)
                if len(found) < wanted:
                    break
        return letters

    async def settle_dead_letters(self, message_ids: Sequence[str]) -> None:
        """These have been answered for: they leave the dead-letter queue; their jobs' records keep all of them."""
        handles: dict[str, list[str]] = {}
        for message_id in message_ids:
            queue, handle = self._letters.get(message_id, ("", ""))
            if queue:
                handles.setdefault(queue, []).append(handle)
        for queue, of_queue in handles.items():
            await self.delete(queue, of_queue)
        for message_id in message_ids:
            self._letters.pop(message_id, None)

    async def _letter(self, queue: str, message: Mapping[str, Any]) -> DeadLetter | None:
        message_id, attributes = message["MessageId"], message["Attributes"]
        job_id, dedup_id = attributes.get("MessageGroupId", ""), attributes.get("MessageDeduplicationId", "")
        if await self._open_jobs.has_another_message(job_id, message_id, dedup_id):
            await self.delete(queue, [message["ReceiptHandle"]])
            return None
        self._letters[message_id] = queue, message["ReceiptHandle"]
        return DeadLetter(message_id, queue, message["Body"])

    async def _receive(self, queue: str, wanted: int, **given: Any) -> list[dict[str, Any]]:
        """With an id for all tries of the call: one whose answer was lost gets the same messages again."""
        answer = await self._call(
            "receive_message",
            queue,
            MaxNumberOfMessages=wanted,
            MessageSystemAttributeNames=["All"],
            ReceiveRequestAttemptId=str(uuid.uuid4()),
            **given,
        )
        return list(answer.get("Messages", ()))

    async def _received(self, message: Mapping[str, Any]) -> ReceivedMessage:
        attributes: Mapping[str, str] = message["Attributes"]
        return ReceivedMessage(
            message_id=message["MessageId"],
            body=message["Body"],
            receipt_handle=message["ReceiptHandle"],
            receive_count=int(attributes["ApproximateReceiveCount"]),
            group_id=attributes.get("MessageGroupId", ""),
            dedup_id=attributes.get("MessageDeduplicationId", ""),
            seq=int(attributes.get("SequenceNumber", 0)),
            sent_at=int(attributes["SentTimestamp"]) / 1000,
            first_received_at=int(attributes["ApproximateFirstReceiveTimestamp"]) / 1000,
            sender=await self._sender(attributes.get("SenderId", "")),
        )

    async def _sender(self, sender_id: str) -> str | None:
        """A role's session is ``AROA…:session`` (IAM user guide, "Unique identifiers"); others are operators'.

        Nobody sends results with a role but workers, so a role that isn't theirs may speak for none of them.
        """
        role_id = sender_id.partition(":")[0]
        if not role_id.startswith("AROA"):
            return None
        return await self._algorithm_of_role(role_id) or UNKNOWN_ROLE

    async def _attributes(self, queue: str) -> Mapping[str, str]:
        answer = await self._call("get_queue_attributes", queue, AttributeNames=list(_COUNTS))
        attributes: Mapping[str, str] = answer["Attributes"]
        return attributes

    async def _call(self, operation: str, queue: str, **given: Any) -> dict[str, Any]:
        try:
            return await self._client.call(operation, QueueUrl=self.url(queue), **given)
        except Refused as error:
            if error.aws_code in QUEUE_GONE:
                raise NotFound("UNKNOWN_QUEUE", f"there is no queue '{queue}'") from error
            raise


def _outgoing(message: OutgoingMessage) -> dict[str, Any]:
    given: dict[str, Any] = {
        "MessageBody": message.body,
        "MessageGroupId": message.group_id,
        "MessageDeduplicationId": message.dedup_id,
    }
    if message.attributes:
        given["MessageAttributes"] = json.loads(message.attributes)
    return given


def _batches(messages: Sequence[OutgoingMessage]) -> list[list[OutgoingMessage]]:
    """At most ten together, and no more than SQS takes at once."""
    batches: list[list[OutgoingMessage]] = []
    size = 0
    for message in messages:
        bytes_ = len(message.body.encode()) + len(message.attributes or "")
        if not batches or len(batches[-1]) == _BATCH or size + bytes_ > _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(message)
        size += bytes_
    return batches


def _raise_failed(operation: str, failed: Sequence[Mapping[str, Any]]) -> NoReturn:
    """Some of a batch failed, after the whole was taken; botocore tries none of these again."""
    code = str(failed[0].get("Code"))
    where = f"SQS {operation}: {len(failed)} messages failed ({code})"
    if code in _BUSY:
        raise Throttled("AWS_THROTTLED", f"{where}; try again, more slowly")
    if failed[0].get("SenderFault"):
        raise Refused(f"{where}; they are not as SQS wants them", aws_code=code)
    raise Unavailable("AWS_UNAVAILABLE", f"{where}; try again later")
