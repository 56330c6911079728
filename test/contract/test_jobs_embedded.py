"""The job records' contract on the embedded engine."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from medical_image_processing import naming
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.model.job import JobMessage
from medical_image_processing.ports.queues import OutgoingMessage
from medical_image_processing.testing.jobs_contract import (
    ALGO,
    GIVEN_UP,
    JobPorts,
    JobsContract,
    a_message,
    succeeded,
)


class TestEmbeddedJobs(JobsContract):
    def run(self, work: Callable[[JobPorts], Awaitable[None]]) -> None:
        async def with_engine(folder: str) -> None:
            database = Database(Path(folder, "mip.db"))
            queues = FifoQueues(database)
            dead = naming.dead_letter_queue(ALGO)
            await queues.create(naming.RESULTS_QUEUE, redrive_to=None)
            await queues.create(dead, redrive_to=None)
            await queues.create(naming.queue(ALGO), redrive_to=dead)
            try:
                await work(JobPorts(SqliteJobs(database, queues, clock=time.time), queues))
            finally:
                queues.close()
                await database.close()

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(with_engine(folder))

    def test_b7_j1_among_jobs_that_wait_are_held_or_have_ended_the_lost_one_is_found(self) -> None:
        async def work(ports: JobPorts) -> None:
            for name in ("waits", "held", "answered", "ended", "gone"):
                await ports.jobs.accept(a_message(name), "same")
            await ports.jobs.apply([succeeded("ended")])
            queue = naming.queue(ALGO)
            received = {m.group_id: m for m in await ports.queues.receive(queue, limit=10, wait_s=0)}
            # Its report still waits, in a group that says nothing of the job: some containers send it so.
            told = OutgoingMessage(body="{}", group_id="client-1", dedup_id="told")
            await ports.queues.send(naming.RESULTS_QUEUE, [told])
            await ports.queues.delete(queue, [received[name].receipt_handle for name in ("answered", "ended")])
            assert await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
            assert await ports.queues.depth(queue) == 3
            (report,) = await ports.queues.receive(naming.RESULTS_QUEUE, limit=1, wait_s=0)
            await ports.jobs.apply([succeeded("answered")])
            await ports.queues.delete(naming.RESULTS_QUEUE, [report.receipt_handle])
            await ports.queues.delete(queue, [received["gone"].receipt_handle])
            assert await ports.jobs.resend_lost(after_s=60, given_up=GIVEN_UP) == []
            assert await ports.queues.depth(queue) == 2, "it was sent before its time"
            for _ in range(2):
                assert await ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP) == []
            (again,) = await ports.queues.receive(queue, limit=10, wait_s=0)
            assert (JobMessage.model_validate_json(again.body), again.group_id) == (a_message("gone"), "gone")
            assert await ports.queues.depth(queue) == 3

        self.run(work)
