"""The first stack: where images are pushed to, so that they are there when the platform is deployed."""

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_ecr as ecr
from constructs import Construct

from medical_image_processing import naming


class ImagesStack(Stack):
    """Repositories of the algorithms' images and of the PACS API's. What is pushed is scanned."""

    def __init__(self, scope: Construct, id: str, *, emulator: bool) -> None:
        super().__init__(scope, id, description="Medical image processing platform: container images")
        for id, name in {"Algorithms": naming.ALGORITHM_IMAGES, "Pacs": naming.PACS_IMAGE}.items():
            ecr.Repository(
                self,
                id,
                repository_name=name,
                image_scan_on_push=True,
                encryption=ecr.RepositoryEncryption.AES_256,
                lifecycle_rules=[
                    ecr.LifecycleRule(
                        description="Images that have lost their tag",
                        tag_status=ecr.TagStatus.UNTAGGED,
                        max_image_age=Duration.days(90),
                    )
                ],
                empty_on_delete=emulator,
                removal_policy=RemovalPolicy.DESTROY if emulator else RemovalPolicy.RETAIN,
            )
