"""Where the platform's things on AWS are: account, partition and region, and the ARNs that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from medical_image_processing import naming
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.errors import PermanentError


@dataclass(frozen=True)
class Place:
    """One deployment's. Built from its settings alone, so that asking costs no call."""

    partition: str
    account: str
    region: str
    cluster: str
    """The cluster's name."""
    queue_base: str
    """What comes before a queue's name in its URL."""

    @classmethod
    def of(cls, settings: AwsSettings) -> Self:
        """PermanentError when the execution role, which tells account and partition, is no ARN of a role."""
        parts = settings.execution_role.split(":")
        if len(parts) != 6 or parts[0] != "arn" or not parts[5].startswith("role/"):
            raise PermanentError(
                "SETTING_WRONG", "MIP_EXECUTION_ROLE is not the ARN of a role; deploy the stack again"
            )
        base, _, _ = settings.results_queue_url.rpartition("/")
        return cls(parts[1], parts[4], settings.region, settings.cluster.rpartition("/")[2], base)

    def queue_url(self, name: str) -> str:
        """A queue's URL; all queues of an account and region have it alike."""
        return f"{self.queue_base}/{name}"

    def queue(self, name: str) -> str:
        """A queue's ARN."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account}:{name}"

    def role(self, algo_id: str) -> str:
        """The ARN of an algorithm's role."""
        return f"arn:{self.partition}:iam::{self.account}:role{naming.ROLE_PATH}{naming.role(algo_id)}"

    def parameter(self, name: str) -> str:
        """An SSM parameter's ARN."""
        return f"arn:{self.partition}:ssm:{self.region}:{self.account}:parameter{name}"

    def bucket(self, name: str) -> str:
        """A bucket's ARN."""
        return f"arn:{self.partition}:s3:::{name}"

    @property
    def tasks(self) -> str:
        """The ARNs of all tasks of the cluster."""
        return f"arn:{self.partition}:ecs:{self.region}:{self.account}:task/{self.cluster}/*"

    @property
    def ecs(self) -> str:
        """The ARNs of all that ECS has here."""
        return f"arn:{self.partition}:ecs:{self.region}:{self.account}:*"
