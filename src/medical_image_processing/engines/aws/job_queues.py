"""An algorithm's job queue and its dead-letter queue in SQS.

FIFO in high throughput mode: order and deduplication within a message group, which is a job (Amazon SQS
developer guide, "High throughput for FIFO queues").
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.engines.aws.place import Place
from medical_image_processing.engines.aws.queues import QUEUE_GONE
from medical_image_processing.errors import Unavailable

VISIBILITY_S = 30
"""The lease of a job: short, because workers renew it (law J4)."""
RETENTION_S = 14 * 24 * 3600

_OTHER_ATTRIBUTES = frozenset({"QueueAlreadyExists", "QueueNameExists"})
_DELETED_RECENTLY = frozenset({"AWS.SimpleQueueService.QueueDeletedRecently", "QueueDeletedRecently"})
_NAME_BLOCKED_S = 60.0
"""How long SQS keeps the name of a deleted queue (API reference, DeleteQueue)."""

Attributes = dict[str, str]


@dataclass(frozen=True)
class QueuesFound:
    """What there is; ``drifted`` when an attribute is not what it should be."""

    queue_url: str | None
    dead_letter_queue: bool
    drifted: bool


class JobQueues:
    """Makes, looks at and deletes both queues of an algorithm."""

    def __init__(self, clients: AwsClients, place: Place) -> None:
        self._sqs = clients.client("sqs")
        self._place = place

    async def observe(self, algo_id: str) -> QueuesFound:
        """What is there now."""
        wanted = self._wanted(algo_id)
        found = await asyncio.gather(*(self._attributes(name) for name in wanted))
        drifted = any(
            attributes is not None and not _fits(attributes, wanted[name])
            for name, attributes in zip(wanted, found, strict=True)
        )
        dead, queue = found
        url = self._place.queue_url(naming.queue(algo_id)) if queue is not None else None
        return QueuesFound(url, dead is not None, drifted)

    async def create(self, algo_id: str) -> None:
        """Make what is missing, and give what is there its attributes. What it holds stays."""
        for name, attributes in self._wanted(algo_id).items():
            await self._put(name, attributes, algo_id)

    async def delete(self, algo_id: str) -> None:
        """Both, with what they hold."""
        for name in (naming.queue(algo_id), naming.dead_letter_queue(algo_id)):
            try:
                await self._sqs.call("delete_queue", QueueUrl=self._place.queue_url(name))
            except Refused as error:
                if error.aws_code not in QUEUE_GONE:
                    raise

    def _wanted(self, algo_id: str) -> dict[str, Attributes]:
        """The attributes by name, the dead-letter queue first: the other one needs it."""
        common = {
            "FifoQueue": "true",
            "ContentBasedDeduplication": "false",
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
            "SqsManagedSseEnabled": "true",
            "MessageRetentionPeriod": str(RETENTION_S),
            "VisibilityTimeout": str(VISIBILITY_S),
        }
        dead = naming.dead_letter_queue(algo_id)
        redrive = {"deadLetterTargetArn": self._place.queue(dead), "maxReceiveCount": naming.MAX_RECEIVES}
        return {dead: common, naming.queue(algo_id): {**common, "RedrivePolicy": json.dumps(redrive)}}

    async def _attributes(self, name: str) -> Attributes | None:
        url = self._place.queue_url(name)
        try:
            answer = await self._sqs.call("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        except Refused as error:
            if error.aws_code in QUEUE_GONE:
                return None
            raise
        return dict(answer.get("Attributes", {}))

    async def _put(self, name: str, attributes: Attributes, algo_id: str) -> None:
        found = await self._attributes(name)
        if found is None:
            try:
                tags = {naming.ALGORITHM_TAG: algo_id}
                await self._sqs.call("create_queue", QueueName=name, Attributes=attributes, tags=tags)
                return
            except Refused as error:
                if error.aws_code in _DELETED_RECENTLY:
                    raise Unavailable(
                        "QUEUE_DELETED_RECENTLY",
                        f"the queue {name} was deleted less than {_NAME_BLOCKED_S:.0f} s ago, and SQS keeps its "
                        "name that long; it is made when that is over",
                        retry_after_s=_NAME_BLOCKED_S,
                    ) from error
                if error.aws_code not in _OTHER_ATTRIBUTES:
                    raise
        elif _fits(found, attributes):
            return
        changeable = {key: value for key, value in attributes.items() if key != "FifoQueue"}
        wanted = {"RedrivePolicy": "", "Policy": "", **changeable}
        await self._sqs.call("set_queue_attributes", QueueUrl=self._place.queue_url(name), Attributes=wanted)


def _fits(found: Attributes, wanted: Attributes) -> bool:
    """Whether a queue is as it should be: its attributes, and no policy that lets others in."""
    if found.get("Policy"):
        return False
    return all(
        _value(name, found.get(name)) == _value(name, wanted.get(name)) for name in {*wanted, "RedrivePolicy"}
    )


def _value(name: str, text: str | None) -> object:
    if name != "RedrivePolicy" or not text:
        return text or None
    try:
        policy = json.loads(text)
        return policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        return text
