"""The stack's tables, queue, bucket and secret in an account of the emulator, and the engine over them.

For tests of single Lambdas; the whole stack, as its template says, is ``aws_stack.py``.
"""

from __future__ import annotations

import secrets
from typing import Any

from aws_emulator import AwsEmulator
from aws_tables import ALGORITHMS, AUDIT, CONNECTIONS, JOBS, KEYS, create_tables
from medical_image_processing import naming
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.settings import AwsSettings

CLUSTER = "mip"


class AwsStage:
    """An account of its own. ``environment`` is what the stack tells a Lambda."""

    def __init__(self, emulator: AwsEmulator, **environment: str) -> None:
        self.account = emulator.fresh_account()
        self.clients = self.account.clients()
        create_tables(self.account)
        self.admin_key = secrets.token_urlsafe(24)
        self.bucket = f"mip-output-{self.account.account}"
        self.clients.client("s3").boto.create_bucket(Bucket=self.bucket)
        queue = self.boto("sqs").create_queue(QueueName=naming.RESULTS_QUEUE, Attributes={"FifoQueue": "true"})
        secret = self.boto("secretsmanager").create_secret(Name="admin", SecretString=self.admin_key)
        self.environment = {
            "AWS_REGION": "us-east-1",
            "MIP_ALGORITHMS_TABLE": ALGORITHMS,
            "MIP_AUDIT_TABLE": AUDIT,
            "MIP_JOBS_TABLE": JOBS,
            "MIP_CONNECTIONS_TABLE": CONNECTIONS,
            "MIP_KEYS_TABLE": KEYS,
            "OUTPUT_BUCKET": self.bucket,
            "MIP_CLUSTER": CLUSTER,
            "MIP_RESULTS_QUEUE_URL": queue["QueueUrl"],
            "MIP_ADMIN_SECRET": secret["ARN"],
            **environment,
        }
        self.engine = AwsEngine(AwsSettings.from_environment(self.environment), self.clients)

    def boto(self, service: str) -> Any:
        """boto3's own client."""
        return self.clients.client(service).boto
