"""The laws of provisioning, P1 to P7, through Admin and Provisioner on a real engine.

See :mod:`testing.resources_contract` for what a subclass provides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from medical_image_processing import naming
from medical_image_processing.control.admin import Admin
from medical_image_processing.control.provisioner.apply import Applier
from medical_image_processing.control.provisioner.loop import Provisioner
from medical_image_processing.control.provisioner.observe import observe
from medical_image_processing.control.provisioner.plan import plan
from medical_image_processing.control.router import Router
from medical_image_processing.errors import Conflict, PermanentError, StaleRevision, Throttled
from medical_image_processing.model.algorithm import Algorithm, AlgorithmPatch, AlgorithmStatus
from medical_image_processing.model.job import Job, JobStatus, ProcessRequest
from medical_image_processing.ports.jobs import Accepted
from medical_image_processing.testing.registry_contract import refused
from medical_image_processing.testing.resources_contract import (
    ALGO,
    LASTS,
    PIECES,
    WAIT_S,
    EnginePorts,
    eventually,
)


class _Clients:
    """Whom jobs are pushed to (ports.push)."""

    def __init__(self) -> None:
        self.pushed: list[Job] = []

    async def push(self, job: Job) -> None:
        self.pushed.append(job)


class _Control:
    """The control plane over the ports, driven by hand."""

    def __init__(self, ports: EnginePorts, *, queue_limit: int = 1000) -> None:
        self.clients = _Clients()
        self.admin = Admin(ports.registry, ports.jobs)
        self.router = Router(ports.registry, ports.jobs, ports.queues, queue_limit=queue_limit)
        self._ports = ports

    def provisioner(self) -> Provisioner:
        """A fresh one, as after a crash: nothing but the ports has a memory."""
        ports = self._ports
        return Provisioner(ports.registry, ports.resources, ports.jobs, self.clients)

    async def settle(self) -> Algorithm | None:
        """Reconcile until nothing is left to do, workers that drain included; the record then."""

        async def converged() -> bool:
            await self.provisioner().reconcile(ALGO)
            record = await self._ports.registry.get(ALGO)
            if record is None:
                return True
            wanted = AlgorithmStatus.ACTIVE if record.desired_count else AlgorithmStatus.INACTIVE
            return record.status in (wanted, AlgorithmStatus.FAILED)

        await eventually(converged, "the provisioner converges")
        return await self._ports.registry.get(ALGO)

    async def stop_after(self, count: int) -> None:
        """Do the first steps of the plan, and then no more, as if the platform were killed there."""
        ports = self._ports
        situation = await observe(ALGO, ports.registry, ports.resources)
        if situation is not None:
            applier = Applier(ports.registry, ports.resources, ports.jobs, self.clients)
            for step in plan(situation)[:count]:
                await applier.apply(step, situation.record)


async def _active(ports: EnginePorts, control: _Control) -> Algorithm:
    await control.admin.register(ports.spec(), actor="anna")
    record = await control.settle()
    assert record is not None and record.status is AlgorithmStatus.ACTIVE, record
    return record


async def _works(ports: EnginePorts, job_id: str) -> None:
    await ports.submit(job_id)
    # A worker that just went may have had it handed to it in its last moment.
    wait_s = WAIT_S + ports.given_back_s
    job = await ports.until(job_id, JobStatus.SUCCEEDED, JobStatus.FAILED, wait_s=wait_s)
    assert job.status is JobStatus.SUCCEEDED, job.error


class ProvisionerContract:
    """Laws P1 to P7."""

    def run(self, work: Callable[[EnginePorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        raise NotImplementedError

    def test_p1_a_registered_algorithm_works_and_a_second_plan_is_empty(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            record = await _active(ports, control)
            assert await control.provisioner().reconcile(ALGO) == ()
            resources = record.resource_status
            assert resources.queue_url and resources.task_definition
            assert resources.service == naming.service(ALGO)
            await _works(ports, "j1")
            assert await control.provisioner().reconcile(ALGO) == ()

        self.run(work)

    def test_p2_stopped_after_any_step_of_a_registration_it_converges(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            for count in range(7):
                await control.admin.register(ports.spec(desired_count=0), actor="anna")
                await control.stop_after(count)
                record = await control.settle()
                assert record is not None and record.status is AlgorithmStatus.INACTIVE
                assert await control.provisioner().reconcile(ALGO) == ()
                await control.admin.remove(ALGO, actor="anna", force=False)
                assert await control.settle() is None

        self.run(work)

    def test_p2_p4_stopped_after_any_step_of_a_removal_it_converges(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            for count in range(8):
                await control.admin.register(ports.spec(desired_count=0), actor="anna")
                await control.settle()
                await ports.submit(f"waits-{count}")
                await control.admin.remove(ALGO, actor="anna", force=True)
                await control.stop_after(count)
                assert await control.settle() is None
                assert (await ports.resources.observe(ALGO)).is_empty
                assert (await ports.job(f"waits-{count}")).status is JobStatus.FAILED

        self.run(work)

    def test_p2_stopped_after_any_step_of_a_change_it_converges_and_works(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await _active(ports, control)
            for count in range(4):
                patch = AlgorithmPatch(env={**ports.spec().env, "ROUND": str(count)})
                await control.admin.update(ALGO, patch, actor="anna")
                await control.stop_after(count)
                record = await control.settle()
                assert record is not None and record.status is AlgorithmStatus.ACTIVE
                observed = await ports.resources.observe(ALGO)
                assert observed.task_definitions.keys() == {record.task_fingerprint()}
            await _works(ports, "after")

        self.run(work)

    def test_p3_what_somebody_removed_by_hand_comes_back_and_works(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await _active(ports, control)
            for piece in PIECES:
                await ports.remove_by_hand(ALGO, piece)
                assert await control.provisioner().reconcile(ALGO), f"nobody missed the {piece}"
                record = await control.settle()
                assert record is not None and record.status is AlgorithmStatus.ACTIVE
                await _works(ports, f"after-{piece}")

        self.run(work)

    def test_p3_j1_a_job_that_waited_in_a_queue_removed_by_hand_is_run_all_the_same(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await control.admin.register(ports.spec(desired_count=0), actor="anna")
            await control.settle()
            await ports.submit("waits")
            await ports.remove_by_hand(ALGO, "queue")
            await ports.delivery.resend(after_s=0)
            assert (await ports.job("waits")).status is JobStatus.QUEUED
            await control.admin.update(ALGO, AlgorithmPatch(desired_count=1), actor="anna")
            await control.settle()
            await ports.delivery.resend(after_s=0)
            assert (await ports.until("waits", JobStatus.SUCCEEDED)).attempts == 1

        self.run(work)

    def test_j3_an_accepted_job_is_the_same_job_whatever_became_of_the_algorithm_since(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports, queue_limit=1)
            await _active(ports, control)
            first, second = (ProcessRequest(job_id=name, pacs=ports.image) for name in ("first", "second"))
            busy = ProcessRequest(job_id="first", pacs=ports.image, parameters=LASTS)
            accepted = await control.router.submit(ALGO, busy)
            assert accepted.created
            error = await refused(Throttled, "QUEUE_FULL", control.router.submit(ALGO, second))
            assert isinstance(error, Throttled) and error.retry_after_s > 0
            await self._is_still_accepted(control, busy, accepted)
            await refused(Conflict, "JOB_ID_TAKEN", control.router.submit(ALGO, first))
            await control.admin.scale_down(ALGO, actor="anna")
            await self._is_still_accepted(control, busy, accepted)
            ports.let_go()
            await ports.until("first", JobStatus.SUCCEEDED)
            await control.admin.remove(ALGO, actor="anna", force=True)
            assert await control.settle() is None
            await self._is_still_accepted(control, busy, accepted)

        self.run(work)

    async def _is_still_accepted(self, control: _Control, request: ProcessRequest, first: Accepted) -> None:
        again = await control.router.submit(ALGO, request)
        assert not again.created and again.message_id == first.message_id

    def test_p4_a_hard_delete_leaves_the_audit_and_loses_no_job_silently(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await control.admin.register(ports.spec(desired_count=0), actor="anna")
            await control.settle()
            for number in range(3):
                await ports.submit(f"waits-{number}")
            error = await refused(Conflict, "JOBS_WAITING", control.admin.remove(ALGO, actor="bert", force=False))
            assert error.details == {"open_jobs": 3}
            await control.admin.remove(ALGO, actor="bert", force=True)
            late = control.router.submit(ALGO, ProcessRequest(pacs=ports.image))
            await refused(Conflict, "ALGORITHM_NOT_ACTIVE", late)
            assert await control.settle() is None
            assert (await ports.resources.observe(ALGO)).is_empty
            for number in range(3):
                job = await ports.job(f"waits-{number}")
                assert job.status is JobStatus.FAILED and job.error and job.error.code == "ALGORITHM_DELETED"
            assert [job.job_id for job in control.clients.pushed] == [f"waits-{n}" for n in range(3)]
            told = [entry.split()[:2] for entry in ports.audit(ALGO)]
            assert told == [["anna", "register"], ["bert", "delete"], ["provisioner", "removed"]]
            await _active(ports, control)
            await _works(ports, "anew")

        self.run(work)

    def test_p5_a_spec_that_cannot_run_is_failed_with_a_reason_until_a_change_mends_it(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            good = ports.spec()
            await control.admin.register(ports.spec(**ports.refused), actor="anna")
            try:
                await control.provisioner().reconcile(ALGO)
            except PermanentError as error:
                said = error.message
            else:
                raise AssertionError("the failure was not raised")
            record = await control.admin.get(ALGO)
            assert (record.status, record.status_reason) == (AlgorithmStatus.FAILED, said)
            assert record.resource_status.queue_url, "what could be made was not made"
            mended = AlgorithmPatch.model_validate({name: getattr(good, name) for name in ports.refused})
            await control.admin.update(ALGO, mended, actor="anna")
            healed = await control.settle()
            assert healed and (healed.status, healed.status_reason) == (AlgorithmStatus.ACTIVE, None)
            await _works(ports, "after")

        self.run(work)

    def test_p5_workers_that_die_make_it_failed_with_a_reason_until_a_change_mends_it(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            good = ports.spec()
            await control.admin.register(ports.spec(**ports.broken), actor="anna")

            async def has_failed() -> bool:
                await control.provisioner().reconcile(ALGO)
                return (await control.admin.get(ALGO)).status is AlgorithmStatus.FAILED

            await eventually(has_failed, "its workers die, and the record says so")
            assert len((await control.admin.get(ALGO)).status_reason or "") > 20
            mended = AlgorithmPatch.model_validate({name: getattr(good, name) for name in ports.broken})
            await control.admin.update(ALGO, mended, actor="anna")
            healed = await control.settle()
            assert healed and (healed.status, healed.status_reason) == (AlgorithmStatus.ACTIVE, None)
            await _works(ports, "after")

        self.run(work)

    def test_p6_of_many_who_change_the_same_revision_one_succeeds(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await control.admin.register(ports.spec(desired_count=0), actor="anna")
            patches = [AlgorithmPatch(env={"WRITER": str(number)}) for number in range(8)]
            updates = (control.admin.update(ALGO, patch, actor="w", if_revision=1) for patch in patches)
            answers = await asyncio.gather(*updates, return_exceptions=True)
            winners = [answer for answer in answers if isinstance(answer, Algorithm)]
            assert len(winners) == 1
            assert sum(isinstance(answer, StaleRevision) for answer in answers) == 7
            assert await control.admin.get(ALGO) == winners[0]
            # Without a revision, none is lost either: whoever is refused hears of it.
            updates = (control.admin.update(ALGO, patch, actor="w") for patch in patches)
            answers = await asyncio.gather(*updates, return_exceptions=True)
            done = sum(isinstance(answer, Algorithm) and answer.revision > 2 for answer in answers)
            assert all(isinstance(answer, (Algorithm, StaleRevision)) for answer in answers)
            assert (await control.admin.get(ALGO)).revision == 2 + done

        self.run(work)

    def test_p6_the_provisioner_does_not_overwrite_what_changed_while_it_worked(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await control.admin.register(ports.spec(desired_count=0), actor="anna")
            situation = await observe(ALGO, ports.registry, ports.resources)
            assert situation is not None
            await control.admin.update(ALGO, AlgorithmPatch(env={"NEW": "1"}), actor="bert")
            applier = Applier(ports.registry, ports.resources, ports.jobs, control.clients)
            try:
                for step in plan(situation):
                    await applier.apply(step, situation.record)
            except StaleRevision:
                pass
            else:
                raise AssertionError("the provisioner wrote over a newer revision")
            record = await control.settle()
            assert record is not None and record.env == {"NEW": "1"}
            observed = await ports.resources.observe(ALGO)
            assert observed.task_definitions.keys() == {record.task_fingerprint()}

        self.run(work)

    def test_p7_a_change_and_a_scale_down_let_the_running_job_end(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await _active(ports, control)
            await ports.occupy("long")
            await control.admin.update(ALGO, AlgorithmPatch(cpu=2048, memory=4096), actor="anna")
            await control.provisioner().reconcile(ALGO)
            assert (await control.admin.get(ALGO)).status is AlgorithmStatus.ACTIVE
            await control.admin.scale_down(ALGO, actor="anna")
            await control.provisioner().reconcile(ALGO)
            assert (await control.admin.get(ALGO)).status is AlgorithmStatus.ACTIVE, "its job still runs"
            ports.let_go()
            record = await control.settle()
            assert record is not None and record.status is AlgorithmStatus.INACTIVE
            job = await ports.until("long", JobStatus.SUCCEEDED)
            assert job.attempts == 1

        self.run(work)

    def test_p7_a_hard_delete_lets_the_running_job_end_and_fails_what_waits(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            await _active(ports, control)
            await ports.occupy("long")
            await ports.submit("waits")
            await control.admin.remove(ALGO, actor="anna", force=True)
            await ports.let_go_after(control.provisioner().reconcile(ALGO))
            assert await control.settle() is None
            job = await ports.until("long", JobStatus.SUCCEEDED, JobStatus.FAILED)
            assert (job.status, job.attempts) == (JobStatus.SUCCEEDED, 1)
            assert (await ports.job("waits")).status is JobStatus.FAILED

        self.run(work)

    def test_driven_by_changes_it_converges_without_being_asked_and_retries_what_failed(self) -> None:
        async def work(ports: EnginePorts) -> None:
            control = _Control(ports)
            driver = control.provisioner()
            running = asyncio.create_task(driver.run())
            try:
                await control.admin.register(ports.spec(**ports.refused), actor="anna")
                driver.notify(ALGO)

                def is_now(status: AlgorithmStatus) -> Callable[[], Awaitable[bool]]:
                    async def check() -> bool:
                        return (await control.admin.get(ALGO)).status is status

                    return check

                await eventually(is_now(AlgorithmStatus.FAILED), "the record says FAILED")
                good = ports.spec()
                mended = {name: getattr(good, name) for name in ports.refused}
                await control.admin.update(ALGO, AlgorithmPatch.model_validate(mended), actor="anna")
                # Nobody notifies: the retry with backoff finds the change.
                await eventually(is_now(AlgorithmStatus.ACTIVE), "the retry succeeds")
                assert not running.done()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        self.run(work)
