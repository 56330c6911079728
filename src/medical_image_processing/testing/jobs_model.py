"""What a job may become, as a few lines of plain Python, and a state machine that holds an engine to it.

Hypothesis sends, receives, reports, deletes, gives back, cancels, replays and kills the platform in any order;
after each step the engine must agree with the model (laws J1, J2, J3).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from medical_image_processing import naming
from medical_image_processing.errors import Conflict, MipError
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.ports.jobs import DEAD_LETTERED, Report
from medical_image_processing.ports.queues import ReceivedMessage
from medical_image_processing.testing.engine_machine import EngineMachine
from medical_image_processing.testing.jobs_contract import ALGO, GIVEN_UP, JobPorts, a_message, failed, succeeded

QUEUE = naming.queue(ALGO)
CLIENT = "client-1"
JOB_IDS = ("j0", "j1")
_OPEN = (JobStatus.QUEUED, JobStatus.RUNNING)


class ModelledJobs(Protocol):
    """What the machine does beyond the ports. ``takes_back``: whether a cancelled job's message goes at once."""

    ports: JobPorts
    takes_back: bool

    async def give_back(self, receipt_handles: Sequence[str]) -> None:
        """These leases have ended, as when a worker dies."""

    async def restart(self) -> None:
        """The platform is killed and started again."""


@dataclass
class Known:
    """A job as the model sees it. ``end``: as it was when it ended."""

    status: JobStatus = JobStatus.QUEUED
    end: Job | None = None
    is_dead: bool = False


class JobsMachine(EngineMachine[ModelledJobs]):
    """Subclass it, implement ``open_engine`` and ``close_engine``, and test its ``TestCase``."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Known] = {}
        self.ended: list[str] = []
        self.held: list[ReceivedMessage] = []

    @rule(job_id=st.sampled_from(JOB_IDS), body=st.sampled_from(["same", "same", "other"]))
    def submit(self, job_id: str, body: str) -> None:
        """The same job_id with the same body is the same job, whatever has become of it."""
        known = self.known.get(job_id)
        if known is not None and body == "other":
            assert self._refusal(self.engine.ports.jobs.accept(a_message(job_id), body)) == "JOB_ID_TAKEN"
            return
        accepted = self._run(self.engine.ports.jobs.accept(a_message(job_id), "same"))
        assert accepted.created == (known is None)
        known = self.known.setdefault(job_id, Known())
        assert accepted.status is known.status

    @rule(limit=st.integers(1, 2))
    def receive(self, limit: int) -> None:
        """A worker takes what comes; where the engine takes messages back, never a cancelled job's."""
        received = self._run(self.engine.ports.queues.receive(QUEUE, limit=limit, wait_s=0))
        for message in received:
            assert message.group_id in self.known
            if self.engine.takes_back:
                assert self.known[message.group_id].status is not JobStatus.CANCELLED
        self.held += received

    @rule(job_id=st.sampled_from(JOB_IDS))
    def cancel(self, job_id: str) -> None:
        """What waits is cancelled, what was stays so, all else is refused and stays as it is."""
        known, work = self.known.get(job_id), self.engine.ports.jobs.cancel(job_id, actor="anna")
        if known is None or known.status not in (JobStatus.QUEUED, JobStatus.CANCELLED):
            assert self._refusal(work) == ("UNKNOWN_JOB" if known is None else "NOT_CANCELLABLE")
            return
        job = self._run(work)
        if known.status is JobStatus.QUEUED:
            self._end(job_id, job)
        assert job == known.end and job.status is JobStatus.CANCELLED

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """A worker says that it is at it."""
        self._report(data.draw(st.sampled_from(self.held)).group_id, "running")

    @precondition(lambda self: self.held)
    @rule(data=st.data(), kind=st.sampled_from(["succeeded", "failed", "dead"]))
    def end(self, data: st.DataObject, kind: str) -> None:
        """By a worker that holds or held the message, however late and often; only what is open heeds it."""
        self._report(data.draw(st.sampled_from(self.held)).group_id, kind)

    def _report(self, job_id: str, kind: str) -> None:
        known = self.known[job_id]
        reports = {
            "running": Report(job_id, ALGO, JobStatus.RUNNING, progress=0.5),
            "succeeded": succeeded(job_id),
            "failed": failed(job_id),
            "dead": failed(job_id, DEAD_LETTERED),
        }
        ended = self._run(self.engine.ports.jobs.apply([reports[kind]]))
        if kind == "running" or known.status not in _OPEN:
            assert ended == []
            if known.status in _OPEN:
                known.status = JobStatus.RUNNING
            return
        [job] = ended
        assert job.status is reports[kind].status
        self._end(job_id, job)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """A worker deletes what it holds, before or after its report."""
        message = data.draw(st.sampled_from(self.held))
        self._run(self.engine.ports.queues.delete(QUEUE, [message.receipt_handle]))

    @rule()
    def workers_die(self) -> None:
        """What they held comes again; their reports may still be on their way."""
        self._run(self.engine.give_back([message.receipt_handle for message in self.held]))

    @rule()
    def sweep(self) -> None:
        """What has no message is sent again or given up, and only what is open."""
        for job in self._run(self.engine.ports.jobs.resend_lost(after_s=0, given_up=GIVEN_UP)):
            assert self.known[job.job_id].status in _OPEN
            self._end(job.job_id, job)

    @rule(job_id=st.sampled_from(JOB_IDS))
    def replay(self, job_id: str) -> None:
        """Only a dead letter comes back."""
        known, work = self.known.get(job_id), self.engine.ports.jobs.replay(job_id, actor="anna")
        if known is None or not known.is_dead:
            assert self._refusal(work) == ("UNKNOWN_JOB" if known is None else "NOT_REPLAYABLE")
            return
        self._run(work)
        self.known[job_id] = Known()
        self.ended.remove(job_id)

    @rule()
    def kill(self) -> None:
        """Nothing that was answered is lost."""
        self._run(self.engine.restart())

    @invariant()
    def records_agree(self) -> None:
        """After every step."""
        jobs = self.engine.ports.jobs
        for job_id, known in self.known.items():
            job = self._run(jobs.get(job_id))
            assert job is not None and job.status is known.status
            assert known.end is None or job == known.end, "an end changed"
        unseen = self._run(jobs.unseen(CLIENT, after=None, limit=100))
        assert [job.job_id for job in unseen] == self.ended
        still_open = [known for known in self.known.values() if known.status in _OPEN]
        assert self._run(jobs.open_count(ALGO)) == len(still_open)

    def _end(self, job_id: str, job: Job) -> None:
        known = self.known[job_id]
        known.status, known.end = job.status, job
        known.is_dead = job.error is not None and job.error.code == DEAD_LETTERED
        self.ended.append(job_id)

    def _refusal(self, work: Awaitable[object]) -> str:
        """The code of what ``work`` raises."""
        try:
            self._run(work)
        except MipError as error:
            assert isinstance(error, Conflict) or error.code == "UNKNOWN_JOB"
            return error.code
        raise AssertionError("it was not refused")
