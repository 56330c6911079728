"""Answers of the HTTP API, for the OpenAPI description. Requests are the models themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Self

from pydantic import BaseModel

from medical_image_processing.control.catalogue import Offer
from medical_image_processing.control.statistics import Statistics
from medical_image_processing.model.algorithm import Algorithm, AlgorithmStatus, OutputKind
from medical_image_processing.model.job import Job, JobStatus, Output, PacsRef, StoredObject
from medical_image_processing.model.parameters import ParametersSchema
from medical_image_processing.model.timestamps import to_iso
from medical_image_processing.ports.keys import KeyRole


class ErrorBody(BaseModel):
    """What went wrong: a stable code for programs, a sentence for people."""

    code: str
    message: str
    details: dict[str, Any] | None = None


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody


class AlgorithmPage(BaseModel):
    """One page of the registry."""

    algorithms: list[Algorithm]
    next_cursor: str | None


class OfferAnswer(BaseModel):
    """An algorithm as its users see it. ``queue_depth`` counts what waits and what is being run."""

    algo_id: str
    status: AlgorithmStatus
    takes_jobs: bool
    description: str
    parameters: ParametersSchema | None
    outputs: list[OutputKind]
    queue_depth: int
    workers: int

    @classmethod
    def of(cls, offer: Offer) -> Self:
        """What may be told of it."""
        record = offer.record
        return cls(
            algo_id=record.algorithm_id,
            status=record.status,
            takes_jobs=record.takes_jobs,
            description=record.description,
            parameters=record.parameters,
            outputs=list(record.outputs),
            queue_depth=offer.queue_depth,
            workers=offer.workers,
        )


class OfferPage(BaseModel):
    """One page of the algorithms, by id."""

    algorithms: list[OfferAnswer]
    next_cursor: str | None


class SignedObject(StoredObject):
    """An object that whoever has its ``url`` can fetch, until that expires."""

    url: str


class SignedOutput(Output):
    """One of several files; see :class:`SignedObject`."""

    url: str


class JobAnswerResult(BaseModel):
    """What a finished job made, with fresh URLs."""

    dicom: SignedObject
    outputs: list[SignedOutput] = []
    provenance: dict[str, Any] | None = None


class JobAnswer(Job):
    """A job as GET /jobs shows it. Times are ISO 8601, UTC."""

    pacs: PacsRef | None
    """What it was asked to process, as sent; None where the platform knows only what the algorithm got for it."""
    result: JobAnswerResult | None = None  # type: ignore[assignment]
    queue_position: int | None = None
    """Jobs of its algorithm that are taken before it, and itself; None once a worker has it, or where unknown."""
    expected_s: float | None = None
    """The median of what its algorithm's newest jobs took, while this one is open; None where there are none."""


class OneJobAnswer(JobAnswer):
    """A job by itself: with all that was asked for."""

    parameters: dict[str, Any]
    """As sent; a list of jobs does without, as they may be 64 KiB each."""


class JobPage(BaseModel):
    """One page of jobs, newest first."""

    jobs: list[JobAnswer]
    next_cursor: str | None


class ProvisionAnswer(BaseModel):
    """A client_id nobody can guess."""

    client_id: str


class ProcessAnswer(BaseModel):
    """The job is on record and will be run."""

    message: str = "Enqueued"
    job_id: str
    client_id: str
    status: JobStatus
    sqs_message_id: str


class ReplayAnswer(BaseModel):
    """The job was sent again."""

    job_id: str
    sqs_message_id: str


class LogAnswer(BaseModel):
    """Lines of an algorithm's log group, oldest first. ``cursor`` leads to those that come after them; ``gap``:
    some before these may be missing."""

    lines: list[str]
    cursor: str
    gap: bool


class DurationsAnswer(BaseModel):
    """Seconds from start to end of the jobs that succeeded."""

    count: int
    median_s: float
    p95_s: float


class BucketAnswer(BaseModel):
    """Jobs that ended from ``at`` on, until the next bucket."""

    at: str
    succeeded: int
    failed: int
    cancelled: int
    durations: DurationsAnswer | None


class StatisticsAnswer(BaseModel):
    """How an algorithm does. What ended before ``complete_since`` may be missing."""

    algo_id: str
    waiting: int
    running: int
    """Jobs that workers have, those they fetch images for included."""
    workers: int
    oldest_wait_s: float | None
    bucket_s: int
    buckets: list[BucketAnswer]
    complete_since: str
    durations: DurationsAnswer | None

    @classmethod
    def of(cls, algo_id: str, found: Statistics) -> Self:
        """As the API tells it."""
        return cls(
            algo_id=algo_id,
            waiting=found.backlog.waiting,
            running=found.backlog.held,
            workers=found.workers,
            oldest_wait_s=None if found.oldest_wait_s is None else round(found.oldest_wait_s, 3),
            bucket_s=found.bucket_s,
            buckets=[BucketAnswer(**asdict(one) | {"at": to_iso(one.at)}) for one in found.buckets],
            complete_since=to_iso(found.complete_since),
            durations=DurationsAnswer(**asdict(found.durations)) if found.durations else None,
        )


class AccessAnswer(BaseModel):
    """One image that an algorithm, or the operator, got from the PACS API."""

    at: str
    algo_id: str
    job_id: str | None
    study_uid: str
    series_uid: str
    image_uid: str


class AccessPage(BaseModel):
    """One page of the access record, newest first."""

    accesses: list[AccessAnswer]
    next_cursor: str | None


class KeyAnswer(BaseModel):
    """A key's holder; never the key."""

    name: str
    role: KeyRole
    client_ids: list[str]
    created_at: float


class NewKeyAnswer(KeyAnswer):
    """The one time the key itself is shown."""

    key: str


class KeyList(BaseModel):
    """All holders of keys, by name."""

    keys: list[KeyAnswer]


class HealthAnswer(BaseModel):
    """The platform takes jobs; those whose images can't be had now wait."""

    status: str
    version: str
    pacs: str | None = None
    dimse: str | None = None


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for its ``responses``. 400 and 422 can come from any body."""
    return {status: {"model": ErrorAnswer, "description": _WORDS[status]} for status in statuses}


_WORDS = {
    400: "The body is not JSON",
    401: "The key is missing or wrong",
    403: "The key is good, but for something else",
    404: "There is no such thing",
    409: "The state of things does not allow it",
    412: "If-Match names a revision that is not the newest",
    413: "The body is too large",
    422: "A field is wrong; details name it",
    429: "The queue is full; Retry-After says when to try again",
    503: "Something the platform needs does not answer",
}
