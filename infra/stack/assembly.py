"""The CDK app: both stacks, checked by cdk-nag's AwsSolutions rules while they are synthesized."""

from __future__ import annotations

import sys

from aws_cdk import App, Validations
from cdk_nag import AwsSolutionsChecks

from medical_image_processing import naming
from stack.images import ImagesStack
from stack.platform import PlatformStack
from stack.settings import CONTEXT, chosen, parse_settings

FEATURE_FLAGS = {
    "@aws-cdk/aws-ecs:disableExplicitDeploymentControllerForCircuitBreaker": True,
    "@aws-cdk/aws-s3:createDefaultLoggingPolicy": True,
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/aws-iam:minimizePolicies": False,
    "@aws-cdk/core:checkSecretUsage": True,
    "@aws-cdk/core:target-partitions": ["aws", "aws-cn", "aws-us-gov"],
}
"""Here and not in cdk.json, so that the template is the same however the app is started."""


def synthesize(*, zip_path: str) -> int:
    """Write the templates where the CDK wants them; the exit status. InvalidSettings."""
    app = App(context=FEATURE_FLAGS)
    context = {name: app.node.try_get_context(name) for name in CONTEXT}
    settings = parse_settings(context)
    ImagesStack(app, naming.IMAGES_STACK, emulator=settings.emulator)
    platform = PlatformStack(app, naming.STACK, settings=settings, zip_path=zip_path)
    # The next deployment reads from the deployed template what this one chose.
    platform.template_options.metadata = {naming.CHOICES: chosen(context)}
    if not settings.emulator:
        Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    try:
        app.synth()
    except RuntimeError as error:  # all that the CDK's JavaScript raises; the findings stand above
        print(f"infra: {error}", file=sys.stderr)
        return 1
    return 0
