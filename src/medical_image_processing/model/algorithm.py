"""An algorithm as the registry keeps it, and what a caller may say about one (CONTRACT.md)."""

from __future__ import annotations

import hashlib
import json
import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from medical_image_processing.model.parameters import ParametersSchema
from medical_image_processing.naming import ALGO_ID_PATTERN, RESERVED_ENV, is_algo_id


def _not_reserved(algo_id: str) -> str:
    if not is_algo_id(algo_id):
        raise ValueError("'results' and names that end in '-dlq' would share a queue with something else")
    return algo_id


class OutputKind(StrEnum):
    """What a result may be made into."""

    SC = "SC"
    """Secondary Capture, for any viewer."""
    SEG = "SEG"
    """Segmentation."""
    SR = "SR"
    """Structured Report of measurements."""


AlgoId = Annotated[str, StringConstraints(pattern=ALGO_ID_PATTERN), AfterValidator(_not_reserved)]
ImageUri = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[!-~]+$")]
Argument = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00]*$")]
Command = Annotated[tuple[Argument, ...], Field(min_length=1, max_length=64)]
EnvValue = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*$")]
Env = Annotated[dict[str, EnvValue], Field(max_length=32)]
Description = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f]*$")]
DesiredCount = Annotated[int, Field(ge=0, le=1000, strict=True)]


def _outputs_fit(outputs: tuple[OutputKind, ...]) -> tuple[OutputKind, ...]:
    if len(set(outputs)) < len(outputs):
        raise ValueError("each of the outputs may be named once")
    if OutputKind.SR in outputs and OutputKind.SEG not in outputs:
        raise ValueError("SR measures the segments of SEG and refers to them: name both")
    return outputs


Outputs = Annotated[tuple[OutputKind, ...], Field(min_length=1, max_length=3), AfterValidator(_outputs_fit)]
Units = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]

# Records inherit the spec, so what makes a task is listed, not what doesn't.
_TASK_FIELDS = {"algorithm_id", "image_uri", "cpu", "memory", "command", "env"}
# These came later: as long as one has its default, a task is named as before, and its workers stay.
_LATER_TASK_FIELDS = {"outputs"}
_ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")


def _gib(*values: int) -> frozenset[int]:
    return frozenset(value * 1024 for value in values)


# cpu units → memory sizes in MiB that Fargate accepts (Amazon ECS developer guide, "Task size").
FARGATE_SIZES: dict[int, frozenset[int]] = {
    256: frozenset({512, 1024, 2048}),
    512: _gib(*range(1, 5)),
    1024: _gib(*range(2, 9)),
    2048: _gib(*range(4, 17)),
    4096: _gib(*range(8, 31)),
    8192: _gib(*range(16, 61, 4)),
    16384: _gib(*range(32, 121, 8)),
}


class AlgorithmStatus(StrEnum):
    """Where an algorithm stands."""

    PENDING = "PENDING"
    """Registered, not yet provisioned."""
    ACTIVE = "ACTIVE"
    """Takes jobs."""
    INACTIVE = "INACTIVE"
    """Scaled down to nothing; takes no jobs."""
    FAILED = "FAILED"
    """Can't run; ``status_reason`` says why."""
    DELETING = "DELETING"
    """On its way out for good."""


def check_size(cpu: int, memory: int) -> None:
    """Raise ValueError unless Fargate has tasks of ``cpu`` units with ``memory`` MiB."""
    sizes = FARGATE_SIZES.get(cpu)
    if sizes is None:
        raise ValueError(f"cpu must be one of {sorted(FARGATE_SIZES)} (1024 = one vCPU), not {cpu}")
    if memory not in sizes:
        raise ValueError(f"with cpu {cpu}, memory must be one of {sorted(sizes)} MiB, not {memory}")


def check_env(env: dict[str, str]) -> None:
    """Raise ValueError if ``env`` sets a reserved name or one no shell could set."""
    for name in env:
        if name in RESERVED_ENV:
            raise ValueError(f"env may not set {name}: the platform sets it")
        if not _ENV_NAME.match(name):
            raise ValueError("env names are letters, digits and underscores, and start with no digit")


def check_bounds(least: int, desired: int, most: int) -> None:
    """Raise ValueError unless ``desired`` workers lie within the bounds and these are in order."""
    if not least <= desired <= most or most == 0:
        raise ValueError(
            f"min_count {least}, desired_count {desired}, max_count {most}: each must be at most the next"
        )


class AlgorithmSpec(BaseModel):
    """What a person says when registering an algorithm: the body of POST /admin/algorithms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm_id: AlgoId = Field(validation_alias=AliasChoices("algo_id", "algorithm_id"))
    image_uri: ImageUri
    cpu: Units
    memory: Units
    command: Command
    env: Env = {}
    desired_count: DesiredCount = 1
    """How many workers to start with; 0 turns the algorithm off, whatever the bounds say."""
    min_count: DesiredCount | None = None
    max_count: DesiredCount | None = None
    """Between these the platform chooses by what waits; without them it keeps desired_count workers."""
    legacy_output_keys: bool = False
    outputs: Outputs = (OutputKind.SC,)
    store_results: bool = False
    """Whether results go back into the PACS."""
    deidentify: bool = False
    """Whether the algorithm gets images without what identifies the patient (PS3.15, annex E)."""
    description: Description = ""
    """What it is for, in words for those who send it jobs."""
    parameters: ParametersSchema | None = None
    """What its jobs' parameters may be; a job that has others is refused. None: anything."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_size(self.cpu, self.memory)
        check_env(self.env)
        if self.desired_count:
            check_bounds(self.least_workers, self.desired_count, self.most_workers)
        return self

    @property
    def least_workers(self) -> int:
        """How few workers there may be while the algorithm is on."""
        return self.desired_count if self.min_count is None else self.min_count

    @property
    def most_workers(self) -> int:
        """How many workers there may be."""
        return max(self.desired_count, self.least_workers) if self.max_count is None else self.max_count

    @property
    def is_scaled(self) -> bool:
        """Whether the platform chooses how many workers there are."""
        return bool(self.desired_count) and self.least_workers < self.most_workers

    def task_fingerprint(self) -> str:
        """Names what a worker is started from; it changes exactly when workers must be replaced."""
        task = self.model_dump(mode="json", include=_TASK_FIELDS)
        task |= self.model_dump(mode="json", include=_LATER_TASK_FIELDS, exclude_defaults=True)
        return hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:16]


class AlgorithmPatch(BaseModel):
    """What may change later: the body of PATCH /admin/algorithms/{algo_id}."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_uri: ImageUri | None = None
    cpu: Units | None = None
    memory: Units | None = None
    desired_count: DesiredCount | None = None
    min_count: DesiredCount | None = None
    max_count: DesiredCount | None = None
    command: Command | None = None
    env: Env | None = None
    legacy_output_keys: bool | None = None
    outputs: Outputs | None = None
    store_results: bool | None = None
    deidentify: bool | None = None
    description: Description | None = None
    parameters: ParametersSchema | None = None

    def apply_to(self, spec: AlgorithmSpec) -> AlgorithmSpec:
        """The spec with the fields that were given replaced, and checked as a whole again."""
        given = self.model_dump(exclude_none=True)
        return AlgorithmSpec.model_validate({**spec.model_dump(), **given})


class ResourceStatus(BaseModel):
    """What the provisioner made. ``image_digest`` is the content that image_uri named when it was registered."""

    model_config = ConfigDict(frozen=True)

    queue_url: str | None = None
    task_definition: str | None = None
    image_digest: str | None = None
    service: str | None = None


class Algorithm(AlgorithmSpec):
    """A registry record. ``revision`` counts changes of the desired state, not of the status."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: AlgorithmStatus
    resource_status: ResourceStatus = ResourceStatus()
    revision: int
    status_reason: str | None = None
    created_at: str
    updated_at: str

    @property
    def takes_jobs(self) -> bool:
        """Whether a new job would be run: ACTIVE, and not being scaled down."""
        return self.status is AlgorithmStatus.ACTIVE and self.desired_count > 0

    def spec(self) -> AlgorithmSpec:
        """The desired state alone."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in AlgorithmSpec.model_fields}
        return AlgorithmSpec.model_validate(fields)
