"""The job records' contract on the embedded engine."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from medical_image_processing import naming
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.fifo import HandleTrouble
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
from medical_image_processing.testing.jobs_model import JobsMachine


class Engine:
    """Implements testing.jobs_model.ModelledJobs over a file."""

    takes_back = True

    def __init__(self, folder: str) -> None:
        self._file = Path(folder, "mip.db")

    async def open(self) -> None:
        self._database = Database(self._file)
        self._queues = FifoQueues(self._database)
        dead = naming.dead_letter_queue(ALGO)
        await self._queues.create(naming.RESULTS_QUEUE, redrive_to=None)
        await self._queues.create(dead, redrive_to=None)
        await self._queues.create(naming.queue(ALGO), redrive_to=dead)
        jobs = SqliteJobs(self._database, self._queues, clock=time.time)
        self.ports = JobPorts(jobs, self._queues, self._audited)

    def _audited(self, subject: str) -> list[str]:
        rows = self._database.read("SELECT actor, action FROM audit WHERE subject = ? ORDER BY seq", subject)
        return [f"{row['actor']} {row['action']}" for row in rows]

    async def close(self) -> None:
        self._queues.close()
        await self._database.close()

    async def give_back(self, receipt_handles: Sequence[str]) -> None:
        await self._queues.change_visibility(naming.queue(ALGO), [(handle, 0) for handle in receipt_handles])

    async def restart(self) -> None:
        await self.close()
        await self.open()


def test_j1_j2_j3_whatever_is_done_in_any_order_jobs_move_as_the_model_says() -> None:
    class Machine(JobsMachine):
        async def open_engine(self) -> Engine:
            self._folder = tempfile.TemporaryDirectory()
            self._opened = Engine(self._folder.name)
            await self._opened.open()
            return self._opened

        async def close_engine(self) -> None:
            await self._opened.close()
            self._folder.cleanup()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class TestEmbeddedJobs(JobsContract):
    def run(self, work: Callable[[JobPorts], Awaitable[None]]) -> None:
        async def with_engine(folder: str) -> None:
            engine = Engine(folder)
            await engine.open()
            try:
                await work(engine.ports)
            finally:
                await engine.close()

        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(with_engine(folder))

    def test_b9_a_cancelled_jobs_message_is_gone_with_it_though_a_worker_has_it(self) -> None:
        async def work(ports: JobPorts) -> None:
            queue = naming.queue(ALGO)
            for name in ("held", "waits", "stays"):
                await ports.jobs.accept(a_message(name), "same")
            [held] = await ports.queues.receive(queue, limit=1, wait_s=0)
            for name in ("held", "waits"):
                await ports.jobs.cancel(name, actor="anna")
            assert isinstance(ports.queues, FifoQueues)
            trouble = await ports.queues.change_visibility(queue, [(held.receipt_handle, 30)])
            assert trouble == [HandleTrouble.NOT_IN_FLIGHT], "its worker isn't told"
            assert await ports.queues.depth(queue) == 1
            [message] = await ports.queues.receive(queue, limit=10, wait_s=0)
            assert message.group_id == "stays"

        self.run(work)

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
