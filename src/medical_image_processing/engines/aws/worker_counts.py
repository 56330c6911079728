"""How many workers services are to have, for whoever may see nothing else: ports.resources.WorkerCounts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClient, AwsClients

_SERVICES_A_CALL = 10  # Amazon ECS API reference, "DescribeServices"
KNOWN_S = 10.0
"""For so long a count is not asked for again: pages ask every few seconds, and what ECS answers in a second is one
limit for them and for those who make services (Amazon ECS API reference, "Request throttling")."""


class EcsWorkerCounts:
    """Asks ECS, ten services a call. Its client, which takes a while to make, is made when it is first asked."""

    def __init__(self, clients: AwsClients, cluster: str, *, clock: Callable[[], float]) -> None:
        self._clients = clients
        self._cluster = cluster
        self._clock = clock
        self._known: dict[str, tuple[float, int | None]] = {}

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        """The desired count of each service there is, as it was at most ten seconds ago."""
        now = self._clock()
        asked = [
            algo_id for algo_id in algo_ids if now - self._known.get(algo_id, (-math.inf, None))[0] >= KNOWN_S
        ]
        if asked:
            found = await describe_services(self._clients.client("ecs"), self._cluster, asked)
            counts = {algo_id: int(service["desiredCount"]) for algo_id, service in found.items()}
            self._known |= {algo_id: (now, counts.get(algo_id)) for algo_id in asked}
        known = {algo_id: self._known[algo_id][1] for algo_id in algo_ids}
        return {algo_id: count for algo_id, count in known.items() if count is not None}


async def describe_services(ecs: AwsClient, cluster: str, algo_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Algorithm → its service as ECS describes it; those without an active one are left out."""
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(algo_ids), _SERVICES_A_CALL):
        names = {naming.service(algo_id): algo_id for algo_id in algo_ids[start : start + _SERVICES_A_CALL]}
        answer = await ecs.call("describe_services", cluster=cluster, services=list(names))
        for service in answer["services"]:
            if service["status"] == "ACTIVE":
                found[names[service["serviceName"]]] = service
    return found
