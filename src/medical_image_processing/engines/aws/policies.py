"""What an algorithm's role says: who may have it, and what it opens (law A1).

The embedded engine's ``credentials`` says the same; the contract suite holds both to it.
"""

from __future__ import annotations

from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.place import Place

Policy = dict[str, Any]

OWN_QUEUE = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
)
RESULTS_QUEUE = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage")
OWN_OUTPUT = ("s3:AbortMultipartUpload", "s3:PutObject")
OWN_TASKS = ("ecs:GetTaskProtection", "ecs:UpdateTaskProtection")


def permissions(place: Place, algo_id: str, *, bucket: str, legacy_output_keys: bool) -> Policy:
    """The inline policy.

    IAM can't say "not below another algorithm's prefix" of the earlier keys, which end in ``_{algo_id}.dcm``
    wherever they are; delivery, which trusts no worker, refuses results from there.
    """
    outputs = [f"{place.bucket(bucket)}/{naming.output_prefix(algo_id)}*"]
    if legacy_output_keys:
        outputs.append(f"{place.bucket(bucket)}/*_{algo_id}.dcm")
    own_tasks = {"StringEquals": {f"aws:ResourceTag/{naming.ALGORITHM_TAG}": algo_id}}
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow(OWN_QUEUE, [place.queue(naming.queue(algo_id))]),
            _allow(RESULTS_QUEUE, [place.queue(naming.RESULTS_QUEUE)]),
            _allow(OWN_OUTPUT, outputs),
            {**_allow(OWN_TASKS, [place.tasks]), "Condition": own_tasks},
        ],
    }


def trust(place: Place) -> Policy:
    """ECS may take the role for tasks of this account, and nobody else.

    The condition keeps other accounts' tasks out (Amazon ECS developer guide, "Task IAM role", confused deputy).
    """
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ecs-tasks.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {
                    "ArnLike": {"aws:SourceArn": place.ecs},
                    "StringEquals": {"aws:SourceAccount": place.account},
                },
            }
        ],
    }


def _allow(actions: tuple[str, ...], resources: list[str]) -> Policy:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resources}
