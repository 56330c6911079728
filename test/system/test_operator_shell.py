"""What an operator's own shell can do after ``. DIR/env``: the aws command reaches the platform, and no AWS."""

import json
import os
import subprocess
import sys
from pathlib import Path

from platform_process import Platform

AWS = Path(sys.executable).with_name("aws")


def aws(platform: Platform, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true", **platform.env}
    return subprocess.run(
        [AWS, *arguments, "--output", "json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_aws_command_finds_the_results_queue_from_the_env_file_alone(platform: Platform) -> None:
    url = platform.env["RESULTS_QUEUE_URL"]
    asked = aws(platform, "sqs", "get-queue-attributes", "--queue-url", url, "--attribute-names", "FifoQueue")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["Attributes"]["FifoQueue"] == "true"


def test_the_aws_command_lists_the_output_bucket_from_the_env_file_alone(platform: Platform) -> None:
    asked = aws(platform, "s3api", "list-objects-v2", "--bucket", platform.env["OUTPUT_BUCKET"])
    assert asked.returncode == 0, asked.stderr
