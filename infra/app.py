"""The CDK app: both stacks, checked by cdk-nag's AwsSolutions rules while they are synthesized.

``run.py`` starts it. Context values are read and checked by ``stack/settings.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

INFRA = Path(__file__).resolve().parent
sys.path.insert(0, str(INFRA.parent / "src"))

from aws_cdk import App, Validations  # noqa: E402
from cdk_nag import AwsSolutionsChecks  # noqa: E402

from medical_image_processing import naming  # noqa: E402
from stack.images import ImagesStack  # noqa: E402
from stack.platform import PlatformStack  # noqa: E402
from stack.settings import InvalidSettings, read_settings  # noqa: E402

ZIP = INFRA / "build" / "lambda.zip"

FEATURE_FLAGS = {
    "@aws-cdk/aws-ecs:disableExplicitDeploymentControllerForCircuitBreaker": True,
    "@aws-cdk/aws-s3:createDefaultLoggingPolicy": True,
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/aws-iam:minimizePolicies": False,
    "@aws-cdk/core:checkSecretUsage": True,
    "@aws-cdk/core:target-partitions": ["aws", "aws-cn", "aws-us-gov"],
}
"""Here and not in cdk.json, so that the template is the same however the app is started."""


def main() -> int:
    """Synthesize; the exit status."""
    app = App(context=FEATURE_FLAGS)
    try:
        settings = read_settings(app.node)
    except InvalidSettings as error:
        print(f"infra: the context can't be deployed:\n{error}", file=sys.stderr)
        return 2
    if not ZIP.exists():
        print("infra: there is no zip of the Lambdas yet; start the CDK by run.py", file=sys.stderr)
        return 2
    ImagesStack(app, naming.IMAGES_STACK, emulator=settings.emulator)
    PlatformStack(app, naming.STACK, settings=settings, zip_path=str(ZIP))
    if not settings.emulator:
        Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    try:
        app.synth()
    except RuntimeError as error:  # all that the CDK's JavaScript raises; the findings stand above
        print(f"infra: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
