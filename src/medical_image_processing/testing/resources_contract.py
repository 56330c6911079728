"""The clauses of ports.resources, for every engine to inherit, on workers that really run.

A subclass provides ``run``: it opens a fresh engine whose results are delivered, awaits the given coroutine
function with the ports, and closes the engine. The algorithms are :mod:`testing.puppet`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from medical_image_processing import naming
from medical_image_processing.control.delivery import Delivery
from medical_image_processing.errors import NotFound, PermanentError
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.model.job import Job, JobMessage, JobStatus, PacsRef
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.queues import Queues
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.resources import Logs, Observed, Resources
from medical_image_processing.testing.registry_contract import refused

ALGO = "puppet"
PIECES = ("queue", "dead_letter_queue", "role", "log_group", "task_definition", "service")
WAIT_S = 60.0
LASTS = {"do": "wait", "study": "1.2.826.0.1.3680043.10.543.99"}
"""Parameters of a job that runs until :meth:`EnginePorts.let_go`."""


@dataclass(frozen=True)
class EnginePorts:
    """A running engine.

    ``spec(**changes)`` is a spec of :data:`ALGO` whose workers run; ``refused`` are changes that make one
    the engine can't run, ``broken`` changes whose workers start and die. ``image`` lies in the PACS.
    ``allowed(algo_id, action, resource)`` tries, with the credentials of the algorithm's workers, an action
    named as IAM names it, on a queue's name or an object's key. ``remove_by_hand(algo_id, piece)`` takes one
    of :data:`PIECES` away behind the platform's back; ``kill_worker(algo_id)`` ends a worker. A job is given back
    within ``given_back_s``: where the engine can't see a worker die, its lease must end (law J4). ``pacs`` is the
    folder that the PACS is.
    """

    registry: Registry
    logs: Logs
    resources: Resources
    jobs: Jobs
    queues: Queues
    delivery: Delivery
    image: PacsRef
    spec: Callable[..., AlgorithmSpec]
    refused: dict[str, Any]
    broken: dict[str, Any]
    audit: Callable[[str], list[str]]
    allowed: Callable[[str, str, str], Awaitable[bool]]
    remove_by_hand: Callable[[str, str], Awaitable[None]]
    kill_worker: Callable[[str], Awaitable[None]]
    pacs: Path
    given_back_s: float = 0.0

    async def submit(self, job_id: str, **parameters: Any) -> None:
        """A job of :data:`ALGO` on the image."""
        message = JobMessage(
            job_id=job_id, client_id="client-1", algo_id=ALGO, pacs=self.image, parameters=parameters
        )
        await self.jobs.accept(message, "same")

    async def occupy(self, job_id: str) -> None:
        """A job of :data:`ALGO` that runs until :meth:`let_go`, however fast or slow this machine is."""
        await self.submit(job_id, **LASTS)
        await self.until(job_id, JobStatus.RUNNING)

    def let_go(self) -> None:
        """All that last may end: what they wait for comes into the PACS."""
        image: Any = pydicom.dcmread(next(self.pacs.rglob("*.dcm")))
        image.StudyInstanceUID, image.SeriesInstanceUID = LASTS["study"], f"{LASTS['study']}.1"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{LASTS['study']}.1.1"
        image.save_as(self.pacs.with_name("let-go"))
        (self.pacs / "let-go").mkdir()
        self.pacs.with_name("let-go").rename(self.pacs / "let-go" / "image.dcm")

    async def let_go_after(self, change: Coroutine[Any, Any, object]) -> None:
        """Await a change, and let go: after it, or where it waits for workers to end once they were asked to."""
        making = asyncio.create_task(change)

        async def is_made_or_waits() -> bool:
            lines = (await self.logs.read(ALGO, lines=100)).lines
            return making.done() or any("stopping" in line for line in lines)

        await eventually(is_made_or_waits, "the change is made, or waits for workers")
        self.let_go()
        await making

    async def job(self, job_id: str) -> Job:
        """The record."""
        job = await self.jobs.get(job_id)
        assert job is not None, f"job {job_id} is lost"
        return job

    async def until(self, job_id: str, *statuses: JobStatus, wait_s: float = WAIT_S) -> Job:
        """Wait until the job is in one of ``statuses``."""

        async def reached() -> bool:
            return (await self.job(job_id)).status in statuses

        await eventually(reached, f"job {job_id} is {' or '.join(statuses)}", wait_s=wait_s)
        return await self.job(job_id)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, *, wait_s: float = WAIT_S) -> None:
    """Wait until ``condition`` holds; AssertionError after ``wait_s``."""
    end = time.monotonic() + wait_s
    while not await condition():
        assert time.monotonic() < end, f"not within {wait_s:.0f} s: {what}"
        await asyncio.sleep(0.02)


async def provide(ports: EnginePorts, spec: AlgorithmSpec, *, revision: int = 1) -> None:
    """Everything an algorithm needs, in the order of the provisioner."""
    make, algo_id = ports.resources, spec.algorithm_id
    await make.create_queues(algo_id)
    await make.put_role(algo_id, legacy_output_keys=spec.legacy_output_keys)
    await make.create_log_group(algo_id)
    await make.register_task_definition(spec, revision=revision)
    await make.put_service(algo_id, task_fingerprint=spec.task_fingerprint(), desired_count=spec.desired_count)


async def take_away(ports: EnginePorts, algo_id: str) -> None:
    """Everything an algorithm has."""
    make = ports.resources
    await make.delete_service(algo_id)
    await _until_running(ports, algo_id, 0)
    await make.delete_service(algo_id)
    for task in (await make.observe(algo_id)).task_definitions:
        await make.delete_task_definition(algo_id, task)
    await make.delete_queues(algo_id)
    await make.delete_role(algo_id)
    await make.delete_log_group(algo_id)


async def _until_running(ports: EnginePorts, algo_id: str, count: int) -> None:
    async def reached() -> bool:
        service = (await ports.resources.observe(algo_id)).service
        return (service.running_count if service else 0) == count

    await eventually(reached, f"{count} workers of {algo_id} run")


async def _provide_and_wait(ports: EnginePorts) -> None:
    await provide(ports, ports.spec())
    await ports.submit("first")
    await ports.until("first", JobStatus.SUCCEEDED)


def _missing(observed: Observed) -> set[str]:
    there = {
        "queue": observed.queue_url is not None,
        "dead_letter_queue": observed.dead_letter_queue,
        "role": observed.role_is_legacy is not None,
        "log_group": observed.log_group,
        "task_definition": bool(observed.task_definitions),
        "service": observed.service is not None,
    }
    return {piece for piece, is_there in there.items() if not is_there}


class ResourcesContract:
    """Clauses S1 to S6."""

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        raise NotImplementedError

    def test_s1_everything_may_be_made_and_taken_away_twice(self) -> None:
        async def work(ports: EnginePorts) -> None:
            spec = ports.spec(desired_count=0)
            await provide(ports, spec)
            first = await ports.resources.observe(ALGO)
            assert _missing(first) == set()
            await ports.submit("waits")
            await provide(ports, spec)
            assert await ports.resources.observe(ALGO) == first
            assert await ports.queues.depth(naming.queue(ALGO)) == 1, "the second creation emptied the queue"
            for _ in range(2):
                await take_away(ports, ALGO)
                assert (await ports.resources.observe(ALGO)).is_empty

        self.run(work)

    def test_s2_observe_shows_what_is_there_also_after_somebody_removed_it_by_hand(self) -> None:
        async def work(ports: EnginePorts) -> None:
            assert (await ports.resources.observe(ALGO)).is_empty
            for piece in PIECES:
                await provide(ports, ports.spec(desired_count=0))
                await ports.remove_by_hand(ALGO, piece)
                assert _missing(await ports.resources.observe(ALGO)) == {piece}
            await provide(ports, ports.spec(desired_count=0), revision=7)
            observed = await ports.resources.observe(ALGO)
            assert observed.task_definitions.keys() == {ports.spec().task_fingerprint()}
            assert (await ports.resources.observe("another")).is_empty

        self.run(work)

    def test_s2_the_running_count_is_of_workers_that_run_and_one_that_died_comes_back(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec(desired_count=2))
            await _until_running(ports, ALGO, 2)
            await ports.submit("first")
            await ports.until("first", JobStatus.SUCCEEDED)
            await ports.kill_worker(ALGO)
            await ports.submit("second")
            await ports.until("second", JobStatus.SUCCEEDED)
            await _until_running(ports, ALGO, 2)
            await ports.resources.put_service(
                ALGO, task_fingerprint=ports.spec().task_fingerprint(), desired_count=1
            )
            await _until_running(ports, ALGO, 1)

        self.run(work)

    def test_s3_a1_a_role_opens_its_own_queue_its_own_output_and_the_results_and_nothing_else(self) -> None:
        async def work(ports: EnginePorts) -> None:
            own, key = naming.queue(ALGO), f"{ALGO}/study-1/image-1.dcm"
            await provide(ports, ports.spec(algo_id="puppet-2", desired_count=0))
            await _provide_and_wait(ports)
            for action, resource in (
                ("sqs:ReceiveMessage", own),
                ("sqs:GetQueueAttributes", own),
                ("sqs:SendMessage", naming.RESULTS_QUEUE),
                ("s3:PutObject", key),
            ):
                assert await ports.allowed(ALGO, action, resource), f"{action} on {resource} is denied"
            for action, resource in (
                ("sqs:SendMessage", own),
                ("sqs:SendMessage", naming.queue("puppet-2")),
                ("sqs:ReceiveMessage", naming.queue("puppet-2")),
                ("sqs:GetQueueAttributes", naming.queue("puppet-2")),
                ("sqs:ReceiveMessage", naming.RESULTS_QUEUE),
                ("sqs:ReceiveMessage", naming.dead_letter_queue(ALGO)),
                ("sqs:PurgeQueue", own),
                ("sqs:DeleteQueue", own),
                ("s3:GetObject", key),
                ("s3:DeleteObject", key),
                ("s3:ListBucket", ""),
                ("s3:PutObject", "puppet-2/study-1/image-1.dcm"),
                ("s3:PutObject", "image-1.dcm"),
                ("s3:PutObject", f"{ALGO}-2/image-1.dcm"),
                ("s3:PutObject", f"study-1/image-1_{ALGO}.dcm"),
            ):
                assert not await ports.allowed(ALGO, action, resource), f"{action} on {resource} is allowed"

        self.run(work)

    def test_s3_the_earlier_keys_are_open_exactly_while_the_role_says_so(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await ports.registry.create(ports.spec(algo_id="puppet-2", desired_count=0), actor="anna")
            await _provide_and_wait(ports)
            for legacy in (True, False):
                other = f"puppet-2/series-1/image-1_{ALGO}.dcm"
                await ports.resources.put_role(ALGO, legacy_output_keys=legacy)
                assert (await ports.resources.observe(ALGO)).role_is_legacy is legacy
                for key, may in ((f"study-1/image-1_{ALGO}.dcm", legacy), ("study-1/image-1_other.dcm", False)):
                    assert await ports.allowed(ALGO, "s3:PutObject", key) is may
                assert not await ports.allowed(ALGO, "s3:PutObject", other), "that is another algorithm's place"

        self.run(work)

    def test_a3_what_an_algorithm_says_of_a_patient_is_in_no_error_and_no_log(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec(env={**ports.spec().env, "TOKEN": "hush-hush"}))
            await ports.submit("raises", do="raise")
            job = await ports.until("raises", JobStatus.FAILED)

            async def logged() -> bool:
                return any("raises" in line for line in (await ports.logs.read(ALGO, lines=1000)).lines)

            await eventually(logged, "the log says that the job failed")
            said = job.model_dump_json() + "\n".join((await ports.logs.read(ALGO, lines=1000)).lines)
            assert "RuntimeError" in said, "what happened is not said"
            assert "PUPPET^SECRET" not in said, "the algorithm's own words are"
            assert "hush-hush" not in said, "the environment is"

        self.run(work)

    def test_s4_p7_a_running_job_ends_as_it_began_when_its_task_definition_is_replaced(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec())
            await ports.occupy("long")
            env = {**ports.spec().env, "NEW": "1"}
            await ports.let_go_after(provide(ports, ports.spec(env=env), revision=2))
            await ports.submit("next")
            for job_id in ("next", "long"):
                job = await ports.until(job_id, JobStatus.SUCCEEDED, JobStatus.FAILED)
                assert (job.status, job.attempts) == (JobStatus.SUCCEEDED, 1)
            await _until_running(ports, ALGO, 1)
            service = (await ports.resources.observe(ALGO)).service
            assert service and service.task_fingerprint == ports.spec(env=env).task_fingerprint()

        self.run(work)

    def test_s4_p7_a_running_job_ends_when_the_count_goes_to_nothing(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec())
            await ports.occupy("long")
            await ports.submit("waits")
            await provide(ports, ports.spec(desired_count=0))
            service = (await ports.resources.observe(ALGO)).service
            assert service and (service.desired_count, service.running_count) == (0, 1)
            ports.let_go()
            await ports.until("long", JobStatus.SUCCEEDED)
            await _until_running(ports, ALGO, 0)
            assert (await ports.job("waits")).status is JobStatus.QUEUED
            assert await ports.queues.depth(naming.queue(ALGO)) == 1

        self.run(work)

    def test_j4_the_job_of_a_worker_that_died_is_given_back_and_finished_by_another(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await _provide_and_wait(ports)
            await ports.occupy("orphan")
            await ports.kill_worker(ALGO)
            ports.let_go()
            wait_s = WAIT_S + ports.given_back_s
            job = await ports.until("orphan", JobStatus.SUCCEEDED, JobStatus.FAILED, wait_s=wait_s)
            # Where a lease ends unseen, the dead worker's last poll may have taken the message along once more.
            most = 3 if ports.given_back_s else 2
            assert job.status is JobStatus.SUCCEEDED and 2 <= job.attempts <= most

        self.run(work)

    def test_j6_jobs_of_one_algorithm_run_side_by_side(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec(desired_count=2))
            await _until_running(ports, ALGO, 2)
            for job_id in ("one", "two"):
                await ports.submit(job_id, **LASTS)

            async def both_run() -> bool:
                return all([(await ports.job(name)).status is JobStatus.RUNNING for name in ("one", "two")])

            await eventually(both_run, "both run at once")
            ports.let_go()
            for job_id in ("one", "two"):
                await ports.until(job_id, JobStatus.SUCCEEDED)

        self.run(work)

    def test_s5_p5_a_service_whose_workers_die_says_why_and_a_good_task_heals_it(self) -> None:
        async def work(ports: EnginePorts) -> None:
            await provide(ports, ports.spec(**ports.broken))
            reason = ""

            async def said() -> bool:
                nonlocal reason
                service = (await ports.resources.observe(ALGO)).service
                reason = (service and service.failure) or ""
                return bool(reason)

            await eventually(said, "the service says why its workers don't run")
            assert len(reason) > 20 and "\n" not in reason
            await provide(ports, ports.spec(), revision=2)
            await ports.submit("after")
            await ports.until("after", JobStatus.SUCCEEDED)
            service = (await ports.resources.observe(ALGO)).service
            assert service and service.failure is None

        self.run(work)

    def test_a_spec_that_the_engine_cannot_run_is_refused_when_it_is_registered(self) -> None:
        async def work(ports: EnginePorts) -> None:
            try:
                await ports.resources.register_task_definition(ports.spec(**ports.refused), revision=1)
            except PermanentError as error:
                assert len(error.message) > 20
            else:
                raise AssertionError("it was not refused")
            assert (await ports.resources.observe(ALGO)).task_definitions == {}
            await ports.resources.create_queues(ALGO)
            service = ports.resources.put_service(ALGO, task_fingerprint="none", desired_count=1)
            await refused(NotFound, "UNKNOWN_TASK_DEFINITION", service)

        self.run(work)

    def test_s6_worker_counts_show_what_services_are_set_to(self) -> None:
        async def work(ports: EnginePorts) -> None:
            spec, other = ports.spec(desired_count=1), ports.spec(algo_id="puppet2", desired_count=0)
            assert await ports.resources.worker_counts([ALGO, "puppet2"]) == {}
            for one in (spec, other):
                await provide(ports, one)
            assert await ports.resources.worker_counts([ALGO, "puppet2", "nobody"]) == {ALGO: 1, "puppet2": 0}
            assert await ports.resources.worker_counts([]) == {}
            task = spec.task_fingerprint()
            await ports.resources.put_service(ALGO, task_fingerprint=task, desired_count=2)
            assert await ports.resources.worker_counts([ALGO]) == {ALGO: 2}

        self.run(work)
