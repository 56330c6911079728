"""The clauses of ports.workload, for every engine to inherit (see :mod:`testing.registry_contract`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from medical_image_processing import naming
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.ports.jobs import Jobs, Report
from medical_image_processing.ports.queues import Queues
from medical_image_processing.ports.workload import RECENT, Backlog, Workload
from medical_image_processing.testing.jobs_contract import ALGO, a_message, failed, succeeded


@dataclass(frozen=True)
class WorkloadPorts:
    """What is looked at, and what it is made with. ``move_clock(seconds)`` moves the engine's clock on."""

    workload: Workload
    jobs: Jobs
    queues: Queues
    move_clock: Callable[[float], None]
    now: Callable[[], float]


class WorkloadContract:
    """Clauses W1 to W4."""

    def run(self, work: Callable[[WorkloadPorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        raise NotImplementedError

    def test_w1_what_waits_is_numbered_and_what_a_worker_has_is_not(self) -> None:
        async def work(ports: WorkloadPorts) -> None:
            jobs = [await _accept(ports, f"j{number}") for number in range(6)]
            assert await ports.workload.positions(jobs) == {f"j{number}": number + 1 for number in range(6)}
            assert await ports.workload.positions([jobs[4], jobs[2]]) == {"j2": 3, "j4": 5}
            received = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            assert [message.group_id for message in received] == ["j0"]
            await ports.jobs.apply([Report("j0", ALGO, JobStatus.RUNNING)])
            await ports.jobs.cancel("j2", actor="anna")
            now = [await _get(ports, job.job_id) for job in jobs]
            expected = {"j1": 1, "j3": 2, "j4": 3, "j5": 4}
            assert await ports.workload.positions(now) == expected
            assert await ports.workload.positions([]) == {}

        self.run(work)

    def test_w1_jobs_of_several_algorithms_are_numbered_apart(self) -> None:
        async def work(ports: WorkloadPorts) -> None:
            jobs = []
            for number in range(4):
                algo_id = ALGO if number % 2 else "kidney"
                jobs.append(await _accept(ports, f"j{number}", algo_id))
            assert await ports.workload.positions(jobs) == {"j0": 1, "j1": 1, "j2": 2, "j3": 2}

        self.run(work)

    def test_w2_the_newest_jobs_that_succeeded_tell_how_long_one_takes(self) -> None:
        async def work(ports: WorkloadPorts) -> None:
            assert await ports.workload.run_times([ALGO, "kidney"]) == {}
            for number in range(RECENT + 3):
                await _run(ports, f"j{number}", seconds=100.0 if number < 3 else 2.0)
            await _run(ports, "bad", seconds=50.0, status=JobStatus.FAILED)
            for number in range(3):
                await _accept(ports, f"waits-{number}")  # newer, and not done
            await ports.jobs.cancel("waits-0", actor="anna")
            ports.move_clock(61)
            times = await ports.workload.run_times([ALGO, "kidney", ALGO])
            assert set(times) == {ALGO} and RECENT // 2 < len(times[ALGO]) <= RECENT
            assert {round(seconds, 3) for seconds in times[ALGO]} == {2.0}

        self.run(work)

    def test_w3_ends_are_the_newest_first_and_none_is_older_than_asked(self) -> None:
        async def work(ports: WorkloadPorts) -> None:
            began = ports.now()
            order = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.SUCCEEDED)
            for number, status in enumerate(order):
                await _run(ports, f"j{number}", seconds=3.0, status=status)
                ports.move_clock(100)
            await _accept(ports, "open")
            await _accept(ports, "gone")
            await ports.jobs.cancel("gone", actor="anna")
            found = await ports.workload.ends(ALGO, since=began, limit=100)
            assert [end.status for end in found.ends] == [JobStatus.CANCELLED, *reversed(order)]
            assert found.complete_since == began
            gone, newest, *_ = found.ends
            assert gone.started_at is None
            assert newest.started_at is not None and round(newest.finished_at - newest.started_at, 3) == 3.0
            later = await ports.workload.ends(ALGO, since=began + 50, limit=100)
            assert [end.status for end in later.ends] == [JobStatus.CANCELLED, *reversed(order[1:])]
            cut = await ports.workload.ends(ALGO, since=began, limit=2)
            assert len(cut.ends) <= 2 and cut.complete_since > began
            assert (await ports.workload.ends("kidney", since=began, limit=5)).ends == ()

        self.run(work)

    def test_w4_what_waits_what_workers_have_and_since_when(self) -> None:
        async def work(ports: WorkloadPorts) -> None:
            assert await ports.workload.backlog(ALGO) == Backlog(0, 0, None)
            assert await ports.workload.backlog("no_such") == Backlog(0, 0, None)
            sent = []
            for number in range(3):
                sent.append(ports.now())
                await _accept(ports, f"j{number}")
                ports.move_clock(10)
            backlog = await ports.workload.backlog(ALGO)
            assert (backlog.waiting, backlog.held) == (3, 0)
            assert backlog.oldest_at is not None and abs(backlog.oldest_at - sent[0]) < 5
            await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
            await ports.jobs.cancel("j1", actor="anna")
            backlog = await ports.workload.backlog(ALGO)
            assert (backlog.waiting, backlog.held) == (1, 1)
            assert backlog.oldest_at is not None and abs(backlog.oldest_at - sent[2]) < 5

        self.run(work)


async def _accept(ports: WorkloadPorts, job_id: str, algo_id: str = ALGO) -> Job:
    message = a_message(job_id).model_copy(update={"algo_id": algo_id})
    await ports.jobs.accept(message, "same")
    return await _get(ports, job_id)


async def _get(ports: WorkloadPorts, job_id: str) -> Job:
    job = await ports.jobs.get(job_id)
    assert job is not None
    return job


async def _run(
    ports: WorkloadPorts, job_id: str, *, seconds: float, status: JobStatus = JobStatus.SUCCEEDED
) -> None:
    """A job that is sent, taken, run for so long, reported and deleted."""
    await _accept(ports, job_id)
    [message] = await ports.queues.receive(naming.queue(ALGO), limit=1, wait_s=0)
    started = Report(job_id, ALGO, JobStatus.RUNNING, started_at=ports.now())
    ports.move_clock(seconds)
    end = succeeded(job_id) if status is JobStatus.SUCCEEDED else failed(job_id)
    await ports.jobs.apply([started, end])
    await ports.queues.delete(naming.queue(ALGO), [message.receipt_handle])
