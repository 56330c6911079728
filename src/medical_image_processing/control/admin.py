"""The admin's decisions: register, change, scale, remove. Each writes the desired state and returns;
the provisioner does the rest."""

from __future__ import annotations

from medical_image_processing import naming
from medical_image_processing.control.router import CAN_NOT_STORE, DEIDENTIFY_UNSUPPORTED
from medical_image_processing.errors import Conflict, InvalidRequest, NotFound, StaleRevision
from medical_image_processing.model.algorithm import Algorithm, AlgorithmPatch, AlgorithmSpec, AlgorithmStatus
from medical_image_processing.model.page import Page
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.registry import Registry


class Admin:
    """Changes the registry on behalf of an admin, named ``actor`` in the audit.

    ``can_store``: whether this platform puts results back into its PACS; ``can_deidentify``: whether it takes the
    patient out of what algorithms get.
    """

    def __init__(
        self, registry: Registry, jobs: Jobs, *, can_store: bool = False, can_deidentify: bool = False
    ) -> None:
        self._registry = registry
        self._jobs = jobs
        self._can_store = can_store
        self._can_deidentify = can_deidentify

    async def register(self, spec: AlgorithmSpec, *, actor: str) -> tuple[Algorithm, bool]:
        """The record, and whether it is new. The same spec again is no error; another one is a Conflict.

        InvalidRequest ``STORE_NOT_AVAILABLE``, as of :meth:`update`, ``DEIDENTIFY_UNSUPPORTED`` and
        ``RESERVED_NAME``.
        """
        if spec.algorithm_id == naming.PACS_OPERATOR:
            raise InvalidRequest(
                "RESERVED_NAME",
                f"algorithm_id: '{spec.algorithm_id}' is who reads with the operator's key, on the access record",
            )
        self._check_can_store(spec.store_results)
        if spec.deidentify and not self._can_deidentify:
            raise InvalidRequest(
                DEIDENTIFY_UNSUPPORTED,
                "deidentify: this platform hands images out as they are; leave it out, or run `mip up`",
            )
        try:
            return await self._registry.create(spec, actor=actor), True
        except Conflict:
            record = await self.get(spec.algorithm_id)
            if record.spec() == spec and record.status is not AlgorithmStatus.DELETING:
                return record, False
            raise

    async def get(self, algo_id: str) -> Algorithm:
        """The record. NotFound ``UNKNOWN_ALGORITHM``."""
        record = await self._registry.get(algo_id)
        if record is None:
            raise NotFound("UNKNOWN_ALGORITHM", f"no algorithm '{algo_id}' is registered")
        return record

    async def page(self, *, status: AlgorithmStatus | None, limit: int, cursor: str | None) -> Page[Algorithm]:
        """One page of the registry."""
        return await self._registry.page(status=status, limit=limit, cursor=cursor)

    async def update(
        self, algo_id: str, patch: AlgorithmPatch, *, actor: str, if_revision: int | None = None
    ) -> Algorithm:
        """Change the desired state. StaleRevision when ``if_revision`` is not the newest (law P6).

        Conflict ``DEIDENTIFY_FIXED``: jobs that wait were written for what the record said, and workers that run
        may hold what it let them have.
        """
        self._check_can_store(patch.store_results)
        record = await self._changeable(algo_id)
        _check_revision(record, if_revision)
        spec = patch.apply_to(record.spec())
        if spec == record.spec():
            return record
        if spec.deidentify != record.deidentify:
            raise Conflict(
                "DEIDENTIFY_FIXED",
                f"deidentify of '{algo_id}' can't be changed; delete it with hard=true and register it anew",
            )
        # An algorithm that runs goes on taking jobs while its workers are replaced.
        status = record.status if record.takes_jobs and spec.desired_count else _waiting(record, spec)
        return await self._registry.update(
            spec, status=status, based_on=record.revision, actor=actor, action="update"
        )

    async def scale_down(self, algo_id: str, *, actor: str, if_revision: int | None = None) -> Algorithm:
        """desired_count 0; INACTIVE once the running jobs have ended."""
        return await self.update(algo_id, AlgorithmPatch(desired_count=0), actor=actor, if_revision=if_revision)

    async def remove(self, algo_id: str, *, actor: str, force: bool, if_revision: int | None = None) -> Algorithm:
        """Start the hard delete. Conflict ``JOBS_WAITING`` while jobs are open, unless ``force``."""
        record = await self.get(algo_id)
        _check_revision(record, if_revision)
        if record.status is AlgorithmStatus.DELETING:
            return record
        waiting = await self._jobs.open_count(algo_id)
        if waiting and not force:
            raise Conflict(
                "JOBS_WAITING",
                f"{waiting} jobs of '{algo_id}' are not finished; wait, or delete with force=true to fail them",
                details={"open_jobs": waiting},
            )
        return await self._registry.update(
            record.spec(),
            status=AlgorithmStatus.DELETING,
            based_on=record.revision,
            actor=actor,
            action="delete",
        )

    def _check_can_store(self, asked: bool | None) -> None:
        if asked and not self._can_store:
            raise InvalidRequest("STORE_NOT_AVAILABLE", f"store_results: {CAN_NOT_STORE}; leave it out")

    async def _changeable(self, algo_id: str) -> Algorithm:
        record = await self.get(algo_id)
        if record.status is AlgorithmStatus.DELETING:
            raise Conflict("ALGORITHM_DELETING", f"'{algo_id}' is being deleted; register it anew afterwards")
        return record


def _waiting(record: Algorithm, spec: AlgorithmSpec) -> AlgorithmStatus:
    return AlgorithmStatus.PENDING if spec.desired_count else record.status


def _check_revision(record: Algorithm, based_on: int | None) -> None:
    if based_on is not None and based_on != record.revision:
        raise StaleRevision(
            "STALE_REVISION",
            f"'{record.algorithm_id}' is at revision {record.revision}, not {based_on}; read it again and "
            "redo the change",
            details={"revision": record.revision},
        )
