"""ARNs of what the provisioner makes while the platform runs: by the naming rules, for policies."""

from __future__ import annotations

from aws_cdk import Aws

from medical_image_processing import naming

ANY = "*"
JOB_QUEUES = naming.queue(ANY)
TASK_FAMILIES = naming.service(ANY)


def of(service: str, resource: str) -> str:
    """An ARN in this account and region."""
    return f"arn:{Aws.PARTITION}:{service}:{Aws.REGION}:{Aws.ACCOUNT_ID}:{resource}"


def algorithm_queues() -> str:
    """Job queues and their dead-letter queues, and the results queue, which is named alike."""
    return of("sqs", JOB_QUEUES)


def results_queues() -> list[str]:
    """The results queue and its dead-letter queue."""
    return [of("sqs", naming.RESULTS_QUEUE), of("sqs", naming.RESULTS_DEAD_LETTER_QUEUE)]


def algorithm_dead_letter_queues() -> str:
    """Dead-letter queues."""
    return of("sqs", naming.dead_letter_queue(ANY))


def task_roles() -> str:
    """The algorithms' roles."""
    return f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role{naming.ROLE_PATH}{ANY}"


def services(cluster: str) -> str:
    """The algorithms' services."""
    return of("ecs", f"service/{cluster}/{naming.service(ANY)}")


def tasks(cluster: str) -> str:
    """The tasks of a cluster."""
    return of("ecs", f"task/{cluster}/{ANY}")


def task_definitions() -> str:
    """The algorithms' task definitions."""
    return of("ecs", f"task-definition/{TASK_FAMILIES}:{ANY}")


def algorithm_log_groups() -> list[str]:
    """The algorithms' log groups, and the streams in them."""
    group = of("logs", f"log-group:{naming.log_group(ANY)}")
    return [group, f"{group}:{ANY}"]


def algorithm_parameters() -> str:
    """The parameters that hold algorithms' PACS keys."""
    return of("ssm", f"parameter{naming.pacs_key_parameter(ANY).partition(ANY)[0]}{ANY}")


def repository(name: str) -> str:
    """A repository of this account's ECR."""
    return of("ecr", f"repository/{name}")
