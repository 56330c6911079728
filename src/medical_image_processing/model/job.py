"""Jobs and the messages that carry them (CONTRACT.md, "Processing API", "Job message", "Result message")."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from medical_image_processing.model.algorithm import AlgoId
from medical_image_processing.naming import NAME_PATTERN, PACS_ID_PATTERN

MAX_PARAMETERS_BYTES = 65_536
MAX_ERROR_CHARS = 2000


def _no_dot_segments(value: str) -> str:
    if any(segment in ("", ".", "..") for segment in value.split("/")):
        raise ValueError("ids may hold slashes, but no empty, '.' or '..' segment")
    return value


PacsId = Annotated[str, StringConstraints(pattern=PACS_ID_PATTERN), AfterValidator(_no_dot_segments)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class Scope(StrEnum):
    """How much of a study a job processes."""

    IMAGE = "image"
    SERIES = "series"
    STUDY = "study"


class PacsRef(BaseModel):
    """What to process: a place in the PACS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study_id: PacsId
    series_id: PacsId | None = None
    image_id: PacsId | None = None
    scope: Scope

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.scope is not Scope.STUDY and self.series_id is None:
            raise ValueError(f"scope '{self.scope}' needs series_id")
        if self.scope is Scope.IMAGE and self.image_id is None:
            raise ValueError("scope 'image' needs image_id")
        return self


_PACS_OR_NONE: TypeAdapter[PacsRef | None] = TypeAdapter(PacsRef | None)


class ProcessRequest(BaseModel):
    """The body of POST /process/{algo_id}."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: Name | None = None
    client_id: Name | None = None
    pacs: PacsRef
    parameters: dict[str, Any] = {}
    store: Annotated[bool, Field(strict=True)] | None = None
    """Whether the results go back into the PACS; unless said, as the algorithm's record says."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.parameters:
            try:
                text = json.dumps(self.parameters, ensure_ascii=False, allow_nan=False).encode()
            except (ValueError, RecursionError) as error:
                raise ValueError("parameters must be plain JSON: no NaN, no lone surrogates") from error
            if len(text) > MAX_PARAMETERS_BYTES:
                raise ValueError(f"parameters are at most {MAX_PARAMETERS_BYTES} bytes of JSON")
        return self

    def fingerprint(self, algo_id: str, *, sender: str | None = None) -> str:
        """Two requests for a job_id are the same job exactly when these are equal (law J3).

        It is of the body as sent. One without a client_id is its ``sender``'s, and nobody else's the same.
        """
        said = self.model_dump(mode="json", exclude={"job_id", "store"})
        if self.store is not None:  # it came later; without it a job is the same as ever
            said["store"] = self.store
        whose = [sender] if sender is not None and self.client_id is None else []
        return hashlib.sha256(json.dumps([algo_id, said, *whose], sort_keys=True).encode()).hexdigest()


class JobMessage(BaseModel):
    """What stands on an algorithm's queue: the request as accepted, plus ``algo_id``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: Name
    client_id: Name
    algo_id: AlgoId
    pacs: PacsRef
    parameters: dict[str, Any] = {}
    store: bool | None = None
    """True where the results go back into the PACS, which is the platform's to do; else it is not there."""
    send_to: str | None = Field(default=None, exclude=True)
    """The AE title of the node that the results are sent to, once there are some. No worker is told."""
    sent: PacsRef | None = Field(default=None, exclude=True)
    """What its owner asked for, where ``pacs`` has pseudonyms in its place. No worker is told."""


class JobStatus(StrEnum):
    """A job is in exactly one of these, and moves only forward."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


def _clipped(value: Any) -> Any:
    return value[:MAX_ERROR_CHARS] if isinstance(value, str) else value


class JobError(BaseModel):
    """Why a job failed: a stable code, and a sentence a person can act on, without patient data."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Z][A-Z0-9_]*$")]
    message: Annotated[str, StringConstraints(max_length=MAX_ERROR_CHARS), BeforeValidator(_clipped)]
    """A longer one is cut."""


class StoredObject(BaseModel):
    """An object in the output bucket; ``url`` is whatever the sender put there, never trusted."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bucket: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    key: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    url: str | None = None


class Output(BaseModel):
    """One of several files that a job made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Annotated[str, StringConstraints(pattern=r"^(SC|SEG|SR|other)$")]
    bucket: Annotated[str, StringConstraints(min_length=1, max_length=63)]
    key: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    media_type: Annotated[str, StringConstraints(max_length=128)] = "application/dicom"


class ReportedStatus(StrEnum):
    """What a worker can say of its job."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class NamedResult(BaseModel):
    """What must be readable of a result message to know which job it ends, whatever else is wrong in it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: Name
    algo_id: AlgoId
    status: ReportedStatus = ReportedStatus.SUCCEEDED


class ResultMessage(NamedResult):
    """What stands on the results queue. Without ``status`` it means SUCCEEDED (the earlier containers)."""

    client_id: Name | None = None
    dicom: StoredObject | None = None
    outputs: tuple[Output, ...] = ()
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    attempt: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The receive count of the job message; how often the job was started."""
    started_at: Annotated[float, Field(gt=0, lt=32_503_680_000)] | None = None
    """When this attempt began, epoch seconds before the year 3000; for jobs too short to be reported RUNNING."""
    error: JobError | None = None
    provenance: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.status is ReportedStatus.SUCCEEDED and self.dicom is None:
            raise ValueError("a result that SUCCEEDED needs dicom.bucket and dicom.key")
        return self


class JobResult(BaseModel):
    """What a finished job made: kept on its record, sent to its client with fresh URLs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dicom: StoredObject
    outputs: tuple[Output, ...] = ()
    provenance: dict[str, Any] | None = None


class StoreStatus(StrEnum):
    """Where a result's way back into the PACS stands."""

    PENDING = "pending"
    """It will be stored, or is being stored; ``error`` says what went wrong the last time."""
    DONE = "done"
    FAILED = "failed"
    """It can't be stored, and ``error`` says why."""


class Stored(BaseModel):
    """How storing a job's results back goes."""

    model_config = ConfigDict(frozen=True)

    status: StoreStatus
    attempts: int = 0
    error: JobError | None = None


class _Placed(BaseModel):
    """Of a job message no more than this; the rest may be long."""

    model_config = ConfigDict(extra="ignore")

    pacs: PacsRef


class JobEnd(NamedTuple):
    """One end of a job. A replayed job ends again, and is sent with another message before that."""

    job_id: str
    message_id: str


class Job(BaseModel):
    """A job as GET /jobs/{job_id} shows it. Times are ISO 8601, UTC."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    algo_id: str
    client_id: str
    message_id: SkipJsonSchema[str] = Field(default="", exclude=True)
    """The message it was last sent with."""
    study_id: SkipJsonSchema[str] = Field(default="", exclude=True)
    """The study it was given, where its results are to be stored."""
    message: SkipJsonSchema[str] = Field(default="", exclude=True)
    """Its message as JSON, read only when it is asked for: parameters may be long, and lists too."""
    sent_pacs: SkipJsonSchema[str | None] = Field(default=None, exclude=True)
    """What it was asked to process, as JSON, where its message has pseudonyms; ``null`` where not known."""
    status: JobStatus
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    attempts: int = 0
    progress: float | None = None
    error: JobError | None = None
    result: JobResult | None = None
    stored: Stored | None = None
    """None where the results stay here, and until there are some."""
    send_to: str | None = None
    """The AE title of the node that its results are sent to, for a job whose images came by C-STORE."""
    sent: Stored | None = None
    """How that goes; None until the job has ended."""

    def asked_pacs(self) -> PacsRef | None:
        """What it was asked to process, as sent; None where only pseudonyms of that are left."""
        if self.sent_pacs is not None:
            return _PACS_OR_NONE.validate_json(self.sent_pacs)
        return _Placed.model_validate_json(self.message).pacs

    def asked_parameters(self) -> dict[str, Any]:
        """The parameters it was sent with."""
        return JobMessage.model_validate_json(self.message).parameters

    @property
    def end(self) -> JobEnd:
        """Which of its ends this is, once it has ended."""
        return JobEnd(self.job_id, self.message_id)
