"""Which settings each Lambda is told: what its code reads (``engines/aws/settings.py``), and no more."""

from __future__ import annotations

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

ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "Admin": (*_REGISTRY, *_JOBS, *_CALLERS, *_QUEUES, *_PUSH, "MIP_ADMIN_SECRET", "MIP_ALLOW_ORIGINS"),
    "Processing": (
        *_REGISTRY,
        *_JOBS,
        *_CALLERS,
        *_QUEUES,
        "OUTPUT_BUCKET",
        "MIP_ALLOW_ORIGINS",
        "MIP_QUEUE_LIMIT",
    ),
    "Provisioner": (*_REGISTRY, *_JOBS, *_PUSH, *_RESOURCES),
    "Delivery": (*_REGISTRY, *_JOBS, *_QUEUES, *_PUSH),
    "Connect": (*_JOBS, *_CALLERS, *_QUEUES, *_PUSH),
    "Disconnect": (*_JOBS, *_QUEUES, *_PUSH),
    "Message": (*_JOBS, *_QUEUES, *_PUSH),
    "DeadLetters": (*_REGISTRY, *_JOBS, *_QUEUES, *_PUSH),
    "Scaler": (*_REGISTRY, *_JOBS, *_RESOURCES),
}
