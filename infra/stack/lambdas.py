"""The Lambdas: one table of what each runs, and one of what each is told. Plain values, for tests to read, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medical_image_processing import naming

HANDLERS = "medical_image_processing.entrypoints.lambdas"


@dataclass(frozen=True)
class Lambda:
    """What runs, and the least that it runs with. ``handler`` is ``module.function`` below :data:`HANDLERS`."""

    handler: str
    timeout_s: int
    memory_mib: int
    concurrency: int | None = None
    """Reserved: never more at once, and always that many."""


LAMBDAS: Mapping[str, Lambda] = {
    "Admin": Lambda("admin.handler", timeout_s=29, memory_mib=512),
    "Processing": Lambda("processing.handler", timeout_s=29, memory_mib=1024),
    "Provisioner": Lambda("provisioner.handler", timeout_s=300, memory_mib=512),
    "Delivery": Lambda("delivery.handler", timeout_s=30, memory_mib=512),
    "Connect": Lambda("websocket.connect", timeout_s=29, memory_mib=512),
    "Disconnect": Lambda("websocket.disconnect", timeout_s=29, memory_mib=256),
    "Message": Lambda("websocket.message", timeout_s=29, memory_mib=256),
    "DeadLetters": Lambda("dead_letters.handler", timeout_s=55, memory_mib=256, concurrency=1),
    "Scaler": Lambda("scaler.handler", timeout_s=55, memory_mib=256, concurrency=1),
}
"""API Gateway waits 29 s. The two that run every minute end before the next run, and never run twice at once."""


def function_name(name: str) -> str:
    """The Lambda's name, which is also its log group's."""
    return f"{naming.STACK}-{name}Fn"


_REGISTRY = ("MIP_ALGORITHMS_TABLE", "MIP_AUDIT_TABLE")
_QUEUES = ("MIP_RESULTS_QUEUE_URL",)
_JOBS = ("MIP_JOBS_TABLE", *_REGISTRY, *_QUEUES)
"""The job records are put together with what they look after: queues, registry and audit."""
_KEYS = ("MIP_KEYS_TABLE", "MIP_AUDIT_TABLE")
_CALLERS = (*_KEYS, "MIP_CLIENTS", "MIP_OIDC_ISSUER", "MIP_OIDC_AUDIENCE")
_PUSH = ("MIP_CONNECTIONS_TABLE", "MIP_WS_ENDPOINT", "OUTPUT_BUCKET")
_RESOURCES = (
    "MIP_CLUSTER",
    "MIP_EXECUTION_ROLE",
    "MIP_KEYS_TABLE",
    "MIP_PACS_API_BASE",
    "MIP_SECURITY_GROUP",
    "MIP_SUBNETS",
    "MIP_TASK_BOUNDARY",
    "MIP_TASK_ENV",
    "OUTPUT_BUCKET",
    *_QUEUES,
)

ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "Admin": (
        *_REGISTRY,
        *_JOBS,
        *_CALLERS,
        *_QUEUES,
        *_PUSH,
        "MIP_ADMIN_SECRET",
        "MIP_ALLOW_ORIGINS",
        "MIP_CAN_STORE",
        "MIP_CLUSTER",
    ),
    "Processing": (
        *_REGISTRY,
        *_JOBS,
        *_CALLERS,
        *_QUEUES,
        *_PUSH,
        "MIP_ALLOW_ORIGINS",
        "MIP_CAN_STORE",
        "MIP_CLUSTER",
        "MIP_QUEUE_LIMIT",
    ),
    "Provisioner": (*_REGISTRY, *_JOBS, *_PUSH, *_RESOURCES),
    "Delivery": (*_REGISTRY, *_JOBS, *_QUEUES, *_PUSH, "MIP_KEYS_TABLE"),
    "Connect": (*_JOBS, *_CALLERS, *_QUEUES, *_PUSH),
    "Disconnect": (*_JOBS, *_QUEUES, *_PUSH),
    "Message": (*_JOBS, *_QUEUES, *_PUSH),
    "DeadLetters": (*_REGISTRY, *_JOBS, *_QUEUES, *_PUSH),
    "Scaler": (*_REGISTRY, *_JOBS, *_RESOURCES),
}
"""Which settings each is told: what its code reads (``engines/aws/settings.py``), and no more."""
