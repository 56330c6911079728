"""How many workers services are to have, for whoever may see nothing else: ports.resources.WorkerCounts."""

from __future__ import annotations

from collections.abc import Sequence

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients

SERVICES_A_CALL = 10  # Amazon ECS API reference, "DescribeServices"


class EcsWorkerCounts:
    """Asks ECS, ten services a call. Its client, which takes a while to make, is made when it is first asked."""

    def __init__(self, clients: AwsClients, cluster: str) -> None:
        self._clients = clients
        self._cluster = cluster

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        """The desired count of each service there is."""
        counts: dict[str, int] = {}
        ecs = self._clients.client("ecs")
        for start in range(0, len(algo_ids), SERVICES_A_CALL):
            names = {naming.service(algo_id): algo_id for algo_id in algo_ids[start : start + SERVICES_A_CALL]}
            answer = await ecs.call("describe_services", cluster=self._cluster, services=list(names))
            for service in answer["services"]:
                if service["status"] == "ACTIVE":
                    counts[names[service["serviceName"]]] = int(service["desiredCount"])
        return counts
