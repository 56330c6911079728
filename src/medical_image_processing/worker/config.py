"""A worker's configuration: its environment (CONTRACT.md), read once.

Beside the contract's names the platform may set ``MIP_REVISION``, ``MIP_TASK``, ``MIP_IMAGE_DIGEST`` (they go into
the result's provenance), ``MIP_OUTPUTS`` (what results are made into, such as ``SC,SEG``), ``MIP_TIME_LIMIT_S``,
``MIP_STOP_TIMEOUT_S``, ``MIP_MAX_INPUT_MIB``, ``MIP_PARENT_PID``. Amazon ECS sets ``ECS_AGENT_URI``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from medical_image_processing import naming
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.model.algorithm import OutputKind
from medical_image_processing.worker.http import origin_of
from medical_image_processing.worker.memory import read_memory_limit

_PROCESS_BYTES = 160 * 2**20
"""The worker with its libraries, and the next job's files while it computes."""
_HIGHDICOM_BYTES = 80 * 2**20
"""What highdicom takes besides, once it has made a Segmentation or a Report: 67 MiB were measured."""
_VOLUMES_IN_ALL = 3.25
"""How often a volume fits beside what is made of it: its mask (half as large), a Secondary Capture in colour (half
as large again as the volume), and what is taken on the way."""
_VOLUMES_WITHOUT_CAPTURE = 2.25
_INPUT_SHARE = 0.6
"""Of the same memory, for the files: the volume grows while they are let go."""
_MOST_INPUT_BYTES = 2**31


@dataclass(frozen=True)
class WorkerConfig:
    """``endpoint``s are None on AWS, ``ecs_agent`` elsewhere. ``parent_pid``: whose death ends this process."""

    algo_id: str
    queue_url: str
    results_queue_url: str
    output_bucket: str
    pacs_base: str
    pacs_key: str
    region: str
    sqs_endpoint: str | None
    s3_endpoint: str | None
    revision: str
    task: str
    image_digest: str
    time_limit_s: float
    stop_timeout_s: float
    max_input_bytes: int
    parent_pid: int | None
    ecs_agent: str | None = None
    outputs: tuple[OutputKind, ...] = (OutputKind.SC,)
    max_volume_bytes: int | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """InvalidRequest ``BAD_ENVIRONMENT`` that names the variable, never its value."""
        endpoint, limit, outputs = env.get("AWS_ENDPOINT_URL"), read_memory_limit(), _outputs(env)
        algo_id = _required(env, "ALGO_ID")
        if not naming.is_algo_id(algo_id):
            raise _bad("ALGO_ID", f"does not match {naming.ALGO_ID_PATTERN}")
        return cls(
            algo_id=algo_id,
            queue_url=_address(env, "QUEUE_URL"),
            results_queue_url=_address(env, "RESULT_QUEUE"),
            output_bucket=_required(env, "OUTPUT_BUCKET"),
            pacs_base=_address(env, "PACS_API_BASE").rstrip("/"),
            pacs_key=env.get("PACS_API_KEY", ""),
            region=_required(
                {"AWS_REGION": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION", "")}, "AWS_REGION"
            ),
            sqs_endpoint=env.get("AWS_ENDPOINT_URL_SQS") or endpoint,
            s3_endpoint=env.get("AWS_ENDPOINT_URL_S3") or endpoint,
            revision=env.get("MIP_REVISION", "0"),
            task=env.get("MIP_TASK", ""),
            image_digest=env.get("MIP_IMAGE_DIGEST", ""),
            time_limit_s=_number(env, "MIP_TIME_LIMIT_S", 900),
            stop_timeout_s=_number(env, "MIP_STOP_TIMEOUT_S", 25),
            max_input_bytes=_max_input_bytes(env, limit, outputs),
            parent_pid=int(_number(env, "MIP_PARENT_PID", 0)) or None,
            ecs_agent=env.get("ECS_AGENT_URI") or None,
            outputs=outputs,
            max_volume_bytes=max_volume_bytes(limit, outputs),
        )


def _required(env: Mapping[str, str], name: str) -> str:
    if not (value := env.get(name, "").strip()):
        raise _bad(name, "is not set")
    return value


def _address(env: Mapping[str, str], name: str) -> str:
    value = _required(env, name)
    try:
        origin_of(value)
    except ValueError as error:
        raise _bad(name, str(error)) from error
    return value


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(env.get(name) or default)
    except ValueError as error:
        raise _bad(name, "is not a number") from error
    if not (math.isfinite(value) and value >= 0):
        raise _bad(name, "must be a number, not negative")
    return value


def _outputs(env: Mapping[str, str]) -> tuple[OutputKind, ...]:
    """Each kind once, in the order of the record."""
    said = [part.strip() for part in (env.get("MIP_OUTPUTS") or OutputKind.SC).split(",")]
    try:
        return tuple(dict.fromkeys(map(OutputKind, said)))
    except ValueError as error:
        raise _bad("MIP_OUTPUTS", f"must name some of {', '.join(OutputKind)}, separated by commas") from error


def max_volume_bytes(limit: int | None, outputs: Sequence[OutputKind]) -> int | None:
    """What images may take of a container's ``limit``, so that mask and ``outputs`` find room beside them."""
    if limit is None:
        return None
    volumes = _VOLUMES_IN_ALL if OutputKind.SC in outputs else _VOLUMES_WITHOUT_CAPTURE
    return int(_room(limit, outputs) / volumes)


def _max_input_bytes(env: Mapping[str, str], limit: int | None, outputs: Sequence[OutputKind]) -> int:
    """As the platform says, else what the container's memory lets be; 2 GiB where nothing limits it."""
    if env.get("MIP_MAX_INPUT_MIB"):
        return int(_number(env, "MIP_MAX_INPUT_MIB", 0) * 2**20)
    return (
        _MOST_INPUT_BYTES if limit is None else min(_MOST_INPUT_BYTES, int(_room(limit, outputs) * _INPUT_SHARE))
    )


def _room(limit: int, outputs: Sequence[OutputKind]) -> int:
    """What the process itself leaves."""
    needs_highdicom = set(outputs) - {OutputKind.SC}
    return max(0, limit - _PROCESS_BYTES - (_HIGHDICOM_BYTES if needs_highdicom else 0))


def _bad(name: str, fault: str) -> InvalidRequest:
    return InvalidRequest("BAD_ENVIRONMENT", f"the environment variable {name} {fault}; the platform sets it")
