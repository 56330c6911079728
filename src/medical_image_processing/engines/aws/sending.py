"""The second and the third step of a send (see :mod:`jobs`), for whoever took the first."""

from __future__ import annotations

import logging
from collections.abc import Callable

from medical_image_processing import naming
from medical_image_processing.engines.aws.job_items import IS_OPEN, OPEN_VALUES
from medical_image_processing.engines.aws.queues import SqsQueues
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import TransientError, Unavailable
from medical_image_processing.model.job import JobStatus
from medical_image_processing.ports.queues import OutgoingMessage

_LOG = logging.getLogger(__name__)


class Sender:
    """Sends the messages that job records ask for."""

    def __init__(self, table: Table, queues: SqsQueues, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._queues = queues
        self._clock = clock

    async def send(self, item: Item) -> str:
        """The second and the third step: send the message that the record asks for, and note its id there."""
        job_id, dedup = item["job_id"], item["dedup"]
        outgoing = OutgoingMessage(body=item["body"], group_id=job_id, dedup_id=dedup)
        [message_id] = await self._queues.send(naming.queue(item["algo_id"]), [outgoing])
        try:
            await self._table.update(
                {"job_id": job_id},
                "SET #message_id = :message_id, #sent = :now REMOVE #unsent, #unsent_since",
                condition=f"#dedup = :dedup AND attribute_not_exists(#message_id) AND {IS_OPEN}",
                values={"message_id": message_id, "now": self._clock(), "dedup": dedup, **OPEN_VALUES},
            )
        except ConditionFailed as error:
            # Noted by another already, or the job is through. Without a record nobody would know of its end.
            if error.item is None:
                raise vanished(job_id) from error
        except TransientError as error:
            _LOG.warning("job %s was sent, which is not on its record yet: %s", job_id, error)
        return message_id

    async def forget_unsent(self, item: Item) -> None:
        """Take back a record whose message can't be sent, unless another call sent it."""
        try:
            await self._table.delete(
                {"job_id": item["job_id"]},
                condition="attribute_not_exists(#message_id) AND #dedup = :job_id AND #status = :queued",
                values={"job_id": item["job_id"], "queued": JobStatus.QUEUED.value},
            )
        except ConditionFailed:
            return


def vanished(job_id: str) -> Unavailable:
    """The record went away between two steps."""
    return Unavailable("JOB_VANISHED", f"the record of job '{job_id}' went away meanwhile; send it again")
