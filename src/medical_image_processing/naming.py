"""What everything is called, on both engines. ``infra/`` imports this module and nothing else.

The queue and log group names are the seed's (CONTRACT.md, "Job message", "Log groups").
"""

from __future__ import annotations

import re
from collections.abc import Callable

ALGO_ID_PATTERN = r"^[a-z][a-z0-9_-]{0,47}$"
PACS_ID_PATTERN = r"^[A-Za-z0-9._/-]{1,512}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,119}$"
"""Job and client ids: a deduplication id of SQS has 128 characters, and a replay adds its attempt."""

RESULTS_QUEUE = "mip-results.fifo"
RESULTS_DEAD_LETTER_QUEUE = "mip-results-dlq.fifo"
MAX_RECEIVES = 3

STACK = "ImgPipeline"
IMAGES_STACK = "ImgPipelineImages"
CHOICES = "MipChoices"
"""Where the stack's template says what its deployment chose."""
ALGORITHM_IMAGES = "mip-algos"
PACS_IMAGE = "mip-pacs"
"""Repositories of container images."""

REIDENTIFIED = "_reidentified"
"""The prefix of the output bucket where results that were given their patient back lie. No algorithm has it."""

PACS_OPERATOR = "operator"
"""Who reads with the operator's key, on the access record. No new algorithm may be called so."""

ROLE_PATH = "/mip/"
"""IAM path of the algorithms' roles, and of nothing else."""

ALGORITHM_TAG = "mip:algorithm"
"""The tag that says on AWS whose something is."""

METRICS_NAMESPACE = "Mip"

RESERVED_ENV = frozenset(
    {
        "QUEUE_URL",
        "RESULT_QUEUE",
        "OUTPUT_BUCKET",
        "ALGO_ID",
        "PACS_API_BASE",
        "PACS_API_KEY",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }
)

_ALGO_ID = re.compile(ALGO_ID_PATTERN)


def is_algo_id(text: str) -> bool:
    """Whether ``text`` may name an algorithm: its queues must not be another's, or the results queue."""
    return _ALGO_ID.fullmatch(text) is not None and text != "results" and not text.endswith("-dlq")


def queue(algo_id: str) -> str:
    """The algorithm's job queue."""
    return f"mip-{algo_id}.fifo"


def dead_letter_queue(algo_id: str) -> str:
    """Where a job goes after :data:`MAX_RECEIVES` receives."""
    return f"mip-{algo_id}-dlq.fifo"


def service(algo_id: str) -> str:
    """The service that keeps the algorithm's workers running; also its task family."""
    return f"mip-{algo_id}"


def role(algo_id: str) -> str:
    """The role whose permissions an algorithm's workers have."""
    return f"mip-{algo_id}-task"


def pacs_key_parameter(algo_id: str) -> str:
    """The parameter that holds the algorithm's PACS key."""
    return f"/mip/{algo_id}/pacs-key"


def log_group(algo_id: str) -> str:
    """Where the algorithm's workers write their logs."""
    return f"/ecs/mip-{algo_id}"


def output_bucket(account: str, region: str) -> str:
    """The bucket that holds every algorithm's results, each under its own prefix."""
    return f"mip-output-{account}-{region}"


def output_prefix(algo_id: str) -> str:
    """The only prefix of the output bucket that an algorithm may write."""
    return f"{algo_id}/"


def output_key(
    algo_id: str, study_id: str, series_id: str | None, image_id: str | None, job_id: str, *, kind: str = ""
) -> str:
    """The key of a job's result (CONTRACT.md, "Result message"); parts a scope lacks are left out.

    ``kind``: of what comes beside the first output, "SEG" for example. No job id has a tilde, so no other job's
    first output is named so.
    """
    image = image_id.removesuffix(".dcm") if image_id else None
    ending = f"~{kind.lower()}.dcm" if kind else ".dcm"
    name = f"{image}_{job_id}{ending}" if image else f"{job_id}{ending}"
    folder = "/".join(part for part in (study_id, series_id) if part)
    return f"{output_prefix(algo_id)}{folder}/{name}"


def reidentified_key(algo_id: str, job_id: str, content: str) -> str:
    """The key of a result that was given its patient back; ``content`` names its bytes."""
    return f"{REIDENTIFIED}/{algo_id}/{job_id}/{content}.dcm"


def is_output_key(
    algo_id: str, key: str, *, legacy: bool, is_algorithm: Callable[[str], bool] = lambda _: False
) -> bool:
    """Whether an algorithm may write ``key``; ``legacy`` is the record's ``legacy_output_keys``.

    An earlier key begins with a study, which may look like an algorithm's id. Where it is one, known to
    ``is_algorithm``, the key lies under that algorithm's own prefix and is not for others.
    """
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        return False  # clients and file systems would resolve these to another place
    if key.startswith(f"{REIDENTIFIED}/"):
        return False
    if key.startswith(output_prefix(algo_id)):
        return True
    return legacy and key.endswith(f"_{algo_id}.dcm") and not is_algorithm(key.partition("/")[0])
