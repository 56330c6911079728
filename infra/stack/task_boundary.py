"""The most that an algorithm's task role may do, as data: the stack makes the boundary from it, and tests of the
engine judge roles by it without the CDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TAKE = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]


def statements(*, queues: str, results: Sequence[str], output: str, tasks: str) -> list[dict[str, Any]]:
    """A policy's statements. All are ARNs: of the algorithms' queues, like which the results queue is named; of
    the results queue and then its dead-letter queue; of the output's objects; of the cluster's tasks."""
    return [
        {
            "Sid": "TakeJobs",
            "Effect": "Allow",
            "Action": ["sqs:GetQueueUrl", "sqs:GetQueueAttributes", *_TAKE],
            "Resource": queues,
        },
        {"Sid": "NeverReadResults", "Effect": "Deny", "Action": _TAKE, "Resource": list(results)},
        {"Sid": "SendResults", "Effect": "Allow", "Action": "sqs:SendMessage", "Resource": results[0]},
        {
            "Sid": "WriteOutput",
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
            "Resource": output,
        },
        {
            "Sid": "KeepTaskWhileItHoldsAJob",
            "Effect": "Allow",
            "Action": ["ecs:UpdateTaskProtection", "ecs:GetTaskProtection"],
            "Resource": tasks,
        },
    ]
