"""Takes jobs in: checks that the algorithm is ACTIVE, then records and enqueues."""

from __future__ import annotations

import secrets
import uuid

from medical_image_processing import naming
from medical_image_processing.errors import Conflict, InvalidRequest, MipError, NotFound, Throttled
from medical_image_processing.model.algorithm import Algorithm
from medical_image_processing.model.job import JobMessage, PacsRef, ProcessRequest
from medical_image_processing.model.parameters import find_problems
from medical_image_processing.ports.jobs import Accepted, Jobs
from medical_image_processing.ports.pseudonyms import Pseudonyms
from medical_image_processing.ports.queues import Queues
from medical_image_processing.ports.registry import Registry

DEIDENTIFY_UNSUPPORTED = "DEIDENTIFY_UNSUPPORTED"
CAN_NOT_STORE = "this platform's PACS takes no results (on AWS only a DICOMweb server does)"
_MOST_PROBLEMS = 20


class Router:
    """Turns a request into a job. ``queue_limit``: messages one algorithm's queue may hold. ``can_store``: whether
    this platform puts results back into its PACS. ``pseudonyms``: what algorithms with ``deidentify`` get for ids;
    without them they get no jobs."""

    def __init__(
        self,
        registry: Registry,
        jobs: Jobs,
        queues: Queues,
        *,
        queue_limit: int,
        can_store: bool = False,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._registry = registry
        self._jobs = jobs
        self._queues = queues
        self._queue_limit = queue_limit
        self._can_store = can_store
        self._pseudonyms = pseudonyms

    async def submit(
        self,
        algo_id: str,
        request: ProcessRequest,
        *,
        sender: str | None = None,
        client_id: str | None = None,
        send_to: str | None = None,
    ) -> Accepted:
        """Accept one job (laws J1, J3); one accepted before is that job still, whatever the algorithm does now.

        For a request that names no client_id: ``sender``, whose it is, and the ``client_id`` it gets.
        ``send_to`` is the node that its results are sent to.
        NotFound ``UNKNOWN_ALGORITHM``; Conflict ``ALGORITHM_NOT_ACTIVE``, ``JOB_ID_TAKEN``; Throttled
        ``QUEUE_FULL``; InvalidRequest ``STORE_NOT_AVAILABLE``, ``INVALID_PARAMETERS``,
        ``DEIDENTIFY_UNSUPPORTED``.
        """
        if request.store and not self._can_store:
            raise InvalidRequest("STORE_NOT_AVAILABLE", f"store: {CAN_NOT_STORE}; leave it out")
        fingerprint = request.fingerprint(algo_id, sender=sender)
        try:
            algorithm = await self._check_takes_jobs(algo_id)
            store = self._is_to_store(algorithm, request)
            _check_parameters(algorithm, request)
        except MipError:
            known = await self._jobs.find(request.job_id, fingerprint) if request.job_id else None
            if known is None:
                raise
            return known
        message = JobMessage(
            job_id=request.job_id or str(uuid.uuid4()),
            client_id=request.client_id or client_id or new_client_id(),
            algo_id=algo_id,
            pacs=await self._deidentified(request.pacs) if algorithm.deidentify else request.pacs,
            sent=request.pacs if algorithm.deidentify else None,
            parameters=request.parameters,
            store=store or None,
            send_to=send_to,
        )
        return await self._jobs.accept(message, fingerprint)

    async def _deidentified(self, place: PacsRef) -> PacsRef:
        """The place as the algorithm may know it: a PACS path may be a patient's name."""
        if self._pseudonyms is None:
            raise InvalidRequest(DEIDENTIFY_UNSUPPORTED, "this platform can't de-identify what an algorithm gets")
        ids = {name: getattr(place, name) for name in ("study_id", "series_id", "image_id")}
        given = {name: one for name, one in ids.items() if one is not None}
        await self._pseudonyms.keep(given.values())
        return place.model_copy(update={name: self._pseudonyms.of(one) for name, one in given.items()})

    def _is_to_store(self, algorithm: Algorithm, request: ProcessRequest) -> bool:
        store = algorithm.store_results if request.store is None else request.store
        if store and not self._can_store:  # the record is from when it could
            raise InvalidRequest(
                "STORE_NOT_AVAILABLE",
                f"'{algorithm.algorithm_id}' says store_results, and {CAN_NOT_STORE}; "
                'change the record, or say "store": false',
            )
        return store

    async def _check_takes_jobs(self, algo_id: str) -> Algorithm:
        algorithm = await self._registry.get(algo_id)
        if algorithm is None:
            raise NotFound("UNKNOWN_ALGORITHM", f"no algorithm '{algo_id}' is registered")
        if not algorithm.takes_jobs:
            raise Conflict(
                "ALGORITHM_NOT_ACTIVE",
                f"'{algo_id}' is {algorithm.status} with desired_count {algorithm.desired_count}; "
                "it takes jobs when it is ACTIVE and desired_count is at least 1",
            )
        if await self._queues.depth(naming.queue(algo_id)) >= self._queue_limit:
            raise Throttled("QUEUE_FULL", f"'{algo_id}' has {self._queue_limit} jobs waiting; try later")
        return algorithm


def _check_parameters(algorithm: Algorithm, request: ProcessRequest) -> None:
    """InvalidRequest with each field that is not as the record says."""
    if algorithm.parameters is None or not (problems := find_problems(algorithm.parameters, request.parameters)):
        return
    found = [{"field": f"parameters.{name}", "problem": problem} for name, problem in problems.items()]
    raise InvalidRequest(
        "INVALID_PARAMETERS",
        f"{found[0]['field']} {found[0]['problem']}",
        details={"fields": found[:_MOST_PROBLEMS]},
    )


def new_client_id() -> str:
    """A client_id that can't be guessed: 128 random bits."""
    return f"client-{secrets.token_urlsafe(16)}"
