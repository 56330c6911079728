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
from medical_image_processing.testing.jobs_contract import ALGO, JobPorts, JobsContract


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
