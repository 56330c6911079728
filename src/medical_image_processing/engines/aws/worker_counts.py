"""How many workers services are to have, for whoever may see nothing else: ports.resources.WorkerCounts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients

SERVICES_A_CALL = 10  # Amazon ECS API reference, "DescribeServices"
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
        for start in range(0, len(asked), SERVICES_A_CALL):
            found = await self._ask(asked[start : start + SERVICES_A_CALL])
            self._known |= {algo_id: (now, count) for algo_id, count in found.items()}
        counts = {algo_id: self._known[algo_id][1] for algo_id in algo_ids}
        return {algo_id: count for algo_id, count in counts.items() if count is not None}

    async def _ask(self, algo_ids: Sequence[str]) -> dict[str, int | None]:
        names = {naming.service(algo_id): algo_id for algo_id in algo_ids}
        ecs = self._clients.client("ecs")
        answer = await ecs.call("describe_services", cluster=self._cluster, services=list(names))
        found: dict[str, int | None] = dict.fromkeys(algo_ids)
        for service in answer["services"]:
            if service["status"] == "ACTIVE":
                found[names[service["serviceName"]]] = int(service["desiredCount"])
        return found
