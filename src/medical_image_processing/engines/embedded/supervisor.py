"""Keeps the workers of every service running, whatever the runtime.

A service has a task and a desired count. A worker of another task, or one too many, drains: its queue hands it
nothing more, and once it holds nothing it gets SIGTERM (law P7), whether or not its program knows what to do
with a signal. A worker that dies gives its messages back at once (law J4), its jobs learn why, and it is
replaced, with backoff when it dies again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from medical_image_processing.engines.embedded.credentials import Credentials
from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.runtime import Ending, RunningWorker, Runtime
from medical_image_processing.engines.embedded.task import Task
from medical_image_processing.errors import MipError, PermanentError
from medical_image_processing.model.job import JobError, JobStatus
from medical_image_processing.ports.jobs import Report

_LOG = logging.getLogger(__name__)
_QUICK_DEATH_S = 5.0
_FIRST_BACKOFF_S = 0.25
_LAST_BACKOFF_S = 30.0
_LAST_BACKOFF_WITH_JOB_S = 0.5
_DEATHS_TO_FAIL = 3
_EXPECTED_DEATHS_TO_FAIL = 8
"""Of workers that end themselves after a job, as after one that hung; any program may say so of itself."""
_IDLE_CHECK_S = 0.1
_ASK_AGAIN_S = 0.5
_STOP_TIMEOUT_S = 30.0


@dataclass(eq=False)
class _Worker:
    task: Task
    running: RunningWorker
    access_key_id: str
    secrets: tuple[str, ...]
    started: float
    draining: bool = False


@dataclass
class _Service:
    task: Task
    desired_count: int
    workers: list[_Worker] = field(default_factory=list)
    starting: int = 0
    deaths: int = 0
    not_before: float = 0.0
    failure: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when waiting out a backoff has lost its point."""


class Supervisor:
    """Starts, drains and replaces workers.

    ``environment(task)`` gives what the platform sets for a worker, without credentials. ``on_change`` is
    called with the algorithm's id when a service's failure or running count has changed, ``report`` with the
    trouble of the jobs that a dead worker held.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        queues: FifoQueues,
        credentials: Credentials,
        logs: LogGroups,
        environment: Callable[[Task], dict[str, str]],
        report: Callable[[Sequence[Report]], Awaitable[object]],
    ) -> None:
        self.runtime = runtime
        self._queues = queues
        self._credentials = credentials
        self._logs = logs
        self._environment = environment
        self._report = report
        self.on_change: Callable[[str], None] = lambda _: None
        self._services: dict[str, _Service] = {}
        self._legacy: dict[str, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def put(self, task: Task, desired_count: int, *, legacy_output_keys: bool) -> None:
        """Run ``desired_count`` workers of ``task``."""
        self._legacy[task.algo_id] = legacy_output_keys
        service = self._services.get(task.algo_id)
        if service is None:
            service = self._services[task.algo_id] = _Service(task, desired_count)
        elif service.task != task:
            service.deaths, service.not_before, service.failure = 0, 0.0, None
            service.changed.set()
        service.task, service.desired_count = task, desired_count
        for worker in service.workers:
            self._credentials.permit(worker.access_key_id, legacy_output_keys=legacy_output_keys)
        self._adjust(service)

    def remove(self, algo_id: str) -> None:
        """Drain all workers of a service."""
        if (service := self._services.get(algo_id)) is not None:
            service.desired_count = 0
            service.changed.set()
            self._adjust(service)
            if not service.workers and not service.starting:
                del self._services[algo_id]

    def running_count(self, algo_id: str) -> int:
        """Workers alive, draining ones included."""
        service = self._services.get(algo_id)
        return len(service.workers) + service.starting if service else 0

    def failure(self, algo_id: str) -> str | None:
        """Why the service can't keep its workers running, or None."""
        service = self._services.get(algo_id)
        return service.failure if service else None

    async def stop(self, *, grace_s: float) -> None:
        """Let workers finish for ``grace_s``, ask them to give their jobs back, then end them."""
        self._stopping = True
        for service in self._services.values():
            service.changed.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            for worker in self._all():
                worker.running.send_signal(number)
            await self._until_gone(grace_s if number is signal.SIGTERM else 1.5)
        for worker in self._all():
            worker.running.kill()
        await self._until_gone(2.0)
        await self.runtime.close()

    def _all(self) -> list[_Worker]:
        return [worker for service in self._services.values() for worker in service.workers]

    async def _until_gone(self, timeout_s: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def _adjust(self, service: _Service) -> None:
        """Drain what is too much, start what is missing."""
        if self._stopping:
            return
        current = [w for w in service.workers if w.task == service.task and not w.draining]
        outdated = [w for w in service.workers if w.task != service.task and not w.draining]
        for worker in (*outdated, *current[service.desired_count :]):
            worker.draining = True
            self._spawn(self._drain(worker))
        for _ in range(service.desired_count - len(current) - service.starting):
            service.starting += 1
            self._spawn(self._start_later(service))

    async def _drain(self, worker: _Worker) -> None:
        """Ask the worker to stop when it holds no job, however long that takes; end it if it won't."""
        self._queues.close_to(worker.access_key_id)
        while self._queues.held_by(worker.access_key_id):
            await asyncio.sleep(_IDLE_CHECK_S)
            if self._stopping:
                return
        end = time.monotonic() + _STOP_TIMEOUT_S
        while self._credentials.find(worker.access_key_id) is not None and not self._stopping:
            # Again and again: a container's first process is deaf until it has said what a signal means to it.
            if time.monotonic() < end:
                worker.running.send_signal(signal.SIGTERM)
            else:
                worker.running.kill()
            await asyncio.sleep(_ASK_AGAIN_S)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_later(self, service: _Service) -> None:
        task = service.task
        try:
            await self._wait_out_backoff(service)
            task = service.task
            wanted = service.desired_count - sum(
                not w.draining and w.task == service.task for w in service.workers
            )
            if self._stopping or wanted <= 0:
                return
            worker = await self._start(task)
        except Exception as error:
            self._note_failed_start(service, task, error)
            return
        finally:
            service.starting -= 1
            self.on_change(service.task.algo_id)
            asyncio.get_running_loop().call_soon(self._adjust, service)
        service.workers.append(worker)
        self._spawn(self._watch(service, worker))
        asyncio.get_running_loop().call_later(_QUICK_DEATH_S, self._forgive, service)
        if self._stopping:
            worker.running.kill()  # it came too late to be asked

    def _note_failed_start(self, service: _Service, task: Task, error: Exception) -> None:
        foreseen = isinstance(error, MipError)
        said = error.message if isinstance(error, MipError) else type(error).__name__
        _LOG.warning("a worker of %s can't be started: %s", task.algo_id, said, exc_info=not foreseen)
        if task == service.task:
            hopeless = isinstance(error, PermanentError)
            self._note_death(service, f"can't be started: {said}", quick=True, hopeless=hopeless)

    async def _wait_out_backoff(self, service: _Service) -> None:
        if (delay := service.not_before - time.monotonic()) > 0 and not self._stopping:
            service.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.changed.wait(), delay)

    async def _start(self, task: Task) -> _Worker:
        credential = self._credentials.issue(task.algo_id, legacy_output_keys=self._legacy[task.algo_id])
        platform = {
            **self._environment(task),
            "AWS_ACCESS_KEY_ID": credential.access_key_id,
            "AWS_SECRET_ACCESS_KEY": credential.secret_access_key,
        }
        try:
            running = await self.runtime.start(task, task.environment(platform))
        except BaseException:
            self._credentials.revoke(credential.access_key_id)
            raise
        hidden = (credential.secret_access_key, platform["PACS_API_KEY"])
        return _Worker(task, running, credential.access_key_id, hidden, time.monotonic())

    async def _watch(self, service: _Service, worker: _Worker) -> None:
        ending = await worker.running.ended()
        service.workers.remove(worker)
        self._credentials.revoke(worker.access_key_id)
        asked = worker.draining or self._stopping
        held: list[str] = []
        try:
            held = self._queues.held_by(worker.access_key_id)
            if held and not asked:
                await self._report([_trouble(worker.task.algo_id, job_id, ending) for job_id in held])
            await self._queues.release(worker.access_key_id, counted=not asked)
        except MipError as error:
            _LOG.error("jobs of a dead worker come back only when their leases end: %s", error)
        quick = time.monotonic() - worker.started < _QUICK_DEATH_S
        if not asked and (quick or not ending.expected):
            reason = _hidden(f"{ending.sentence}: {self._logs.last_line(worker.task.algo_id)}", worker.secrets)
            _LOG.warning("a worker of %s (%s) %s", worker.task.algo_id, worker.running.name, ending.sentence)
            if worker.task == service.task:
                self._note_death(
                    service,
                    reason,
                    quick=quick,
                    hopeless=ending.hopeless,
                    held_jobs=bool(held),
                    deaths_to_fail=_EXPECTED_DEATHS_TO_FAIL if ending.expected else _DEATHS_TO_FAIL,
                )
        if not service.workers and not service.desired_count and service.starting == 0:
            self._services.pop(worker.task.algo_id, None)
        self.on_change(worker.task.algo_id)
        self._adjust(service)

    def _note_death(
        self,
        service: _Service,
        reason: str,
        *,
        quick: bool,
        hopeless: bool = False,
        held_jobs: bool = False,
        deaths_to_fail: int = _DEATHS_TO_FAIL,
    ) -> None:
        service.deaths = service.deaths + 1 if quick else 1
        delay = _FIRST_BACKOFF_S * 2 ** (service.deaths - 2) if service.deaths > 1 else 0.0
        # A worker that died with a job in hand died of the job; that is the job's story, not the service's:
        # the jobs behind it must not wait long for a new worker.
        most = _LAST_BACKOFF_WITH_JOB_S if held_jobs else _LAST_BACKOFF_S
        service.not_before = time.monotonic() + min(delay, most)
        if hopeless:
            service.not_before = time.monotonic() + min(_LAST_BACKOFF_S, 2.0**service.deaths)
        if hopeless or (service.deaths >= deaths_to_fail and not held_jobs):
            service.failure = f"the worker {reason}"

    def _forgive(self, service: _Service) -> None:
        """A service whose workers have all stayed up is well again."""
        now = time.monotonic()
        alive = [w for w in service.workers if not w.draining and now - w.started >= _QUICK_DEATH_S]
        if service.failure and len(alive) >= service.desired_count:
            service.failure, service.deaths = None, 0
            self.on_change(service.task.algo_id)


def _hidden(text: str, secrets: Sequence[str]) -> str:
    """A worker's log may say anything, and a record is shown to people: not the keys that it was given."""
    for secret in secrets:
        text = text.replace(secret, "(a key)")
    return text


def _trouble(algo_id: str, job_id: str, ending: Ending) -> Report:
    error = JobError(code=ending.code, message=f"the worker {ending.sentence} while it had this job")
    return Report(job_id, algo_id, JobStatus.RUNNING, error=error)
