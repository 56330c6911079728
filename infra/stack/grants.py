"""Which Lambda may do what: one table, of the capabilities in ``permissions.py``.

Read it beside ``lambdas.ENVIRONMENT``: what a Lambda is not told, it may not use.
"""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from stack import arns
from stack import permissions as may
from stack.api import STAGE
from stack.boundary import Boundary
from stack.lambdas import function_name
from stack.tables import Tables


@dataclass(frozen=True)
class Parts:
    """What there is to be used."""

    tables: Tables
    output: s3.IBucket
    results_arn: str
    failed_events_arn: str
    cluster: ecs.ICluster
    boundary: Boundary
    repositories: list[str]
    websocket_id: str
    admin_secret_arn: str


def grant(parts: Parts) -> dict[str, list[iam.PolicyStatement]]:
    """The statements of each Lambda's role."""
    tables = parts.tables
    cluster, cluster_arn = parts.cluster.cluster_name, parts.cluster.cluster_arn
    algorithms, jobs, connections = tables.algorithms, tables.jobs, tables.connections
    push = may.push(parts.websocket_id, STAGE)
    sign = may.sign_results(parts.output)
    answer_for_jobs = may.jobs(jobs, *may.FIND, *may.CHANGE)
    reach_clients = [may.table("Connections", connections, *may.FIND, *may.CHANGE, *may.REMOVE), *push, *sign]
    record = may.table("Audit", tables.audit, *may.PUT)
    return {
        "Admin": [
            may.table("Algorithms", algorithms, *may.LIST, *may.CHANGE),
            *answer_for_jobs,
            may.table("Keys", tables.keys, *may.LIST, *may.CHANGE, *may.REMOVE),
            may.table("Connections", connections, *may.LIST, *may.REMOVE),
            may.table("Audit", tables.audit, *may.PUT, "dynamodb:Query"),
            *push,
            *may.send_jobs(),
            *may.read_worker_logs(),
            *may.count_workers(cluster, cluster_arn),
            *may.read_secret(parts.admin_secret_arn),
        ],
        "Processing": [
            may.table("Algorithms", algorithms, *may.LIST),
            *may.jobs(jobs, *may.FIND, *may.CHANGE, *may.REMOVE),
            may.table("Keys", tables.keys, *may.GET, *may.CHANGE),
            record,
            *reach_clients,
            *may.send_jobs(),
            *may.count_workers(cluster, cluster_arn),
        ],
        "Provisioner": [
            may.table("Algorithms", algorithms, *may.LIST, *may.CHANGE, *may.REMOVE),
            may.table("Keys", tables.keys, *may.FIND, *may.CHANGE, *may.REMOVE),
            *answer_for_jobs,
            record,
            *reach_clients,
            *may.read_stream(algorithms.table_stream_arn or ""),
            *may.dead_letter_to(parts.failed_events_arn),
            *may.make_queues(),
            *may.make_roles(parts.boundary.policy.managed_policy_arn, parts.boundary.execution_role.role_arn),
            *may.make_services(cluster, cluster_arn),
            *may.make_log_groups(),
            *may.make_parameters(),
            *may.read_images(parts.repositories),
        ],
        "Delivery": [
            may.table("Algorithms", algorithms, *may.LIST),
            *answer_for_jobs,
            *reach_clients,
            *may.take_results(parts.results_arn),
            *may.know_task_roles(tables.keys),
        ],
        "Connect": [
            may.table("Keys", tables.keys, *may.GET),
            *answer_for_jobs,
            *reach_clients,
            *may.invoke(arns.of("lambda", f"function:{function_name('Connect')}")),
        ],
        "Disconnect": [
            may.table("Connections", connections, *may.FIND, *may.REMOVE),
            *answer_for_jobs,
        ],
        "Message": [*answer_for_jobs, *reach_clients],
        "DeadLetters": [
            may.table("Algorithms", algorithms, *may.LIST),
            *answer_for_jobs,
            *reach_clients,
            *may.send_jobs(),
            *may.look_at_open_jobs(jobs),
            *may.take_dead_letters(),
        ],
        "Scaler": [
            may.table("Algorithms", algorithms, *may.LIST),
            *may.jobs(jobs, *may.FIND),
            may.allow("SeeQueues", may.QUEUE_STATE, [arns.algorithm_queues()]),
            *may.scale_services(cluster, cluster_arn),
        ],
    }
