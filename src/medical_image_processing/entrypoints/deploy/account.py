"""The AWS account of whoever types the command."""

from __future__ import annotations

import asyncio
from typing import Any

from medical_image_processing.errors import InvalidRequest, PermanentError


class Account:
    """Calls AWS in one region. ``region`` None is what the person's own AWS settings say."""

    def __init__(self, region: str | None = None) -> None:
        from medical_image_processing.engines.aws.clients import AwsClients  # boto3 loads slowly

        self._clients = AwsClients(region=region)
        try:
            self.region = self._clients.region
        except PermanentError as error:
            raise InvalidRequest("NO_REGION", "no AWS region is set: give --region, or set AWS_REGION") from error

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call, by boto3's names. TransientError; ``engines.aws.clients.Refused``."""
        return asyncio.run(self._clients.client(service).call(operation, **parameters))

    def number(self) -> str:
        """The account's twelve digits. PermanentError ``AWS_CREDENTIALS``."""
        return str(self.call("sts", "get_caller_identity")["Account"])

    def secret(self, arn: str, *, stage: str = "AWSCURRENT") -> str | None:
        """The text of a secret's version; None when there is none at that stage."""
        from medical_image_processing.engines.aws.clients import Refused

        try:
            answer = self.call("secretsmanager", "get_secret_value", SecretId=arn, VersionStage=stage)
        except Refused as error:
            if stage != "AWSCURRENT" and error.aws_code == "ResourceNotFoundException":
                return None
            raise
        return str(answer["SecretString"])
