"""The CDK's own command line, by our door: bootstrap, deploy, deploy again, destroy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from aws_emulator import REGION, AwsEmulator
from aws_stack import EMULATOR_CONTEXT, INFRA, assemble
from medical_image_processing import naming

RUN = INFRA / "run.py"
STACKS = (naming.STACK, naming.IMAGES_STACK)


def run(emulator: AwsEmulator, *arguments: str) -> str:
    """What the CDK said."""
    command = [sys.executable, str(RUN), *arguments, "--ci"]
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        command,
        env={**inherited, **emulator.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_the_cdk_deploys_changes_nothing_the_second_time_and_takes_all_away(
    aws_emulator: AwsEmulator, tmp_path: Path
) -> None:
    """Our app is started once. What it gave is deployed again, and is what it gives when it is started anew."""
    emulator = aws_emulator.fresh_account()
    anew, made = assemble(EMULATOR_CONTEXT), tmp_path / "cdk.out"
    run(emulator, "bootstrap", f"aws://{emulator.account}/{REGION}", "--app", str(anew))
    deploy = ["deploy", "--all", "--require-approval", "never"]
    first = run(emulator, *deploy, "-c", "emulator=true", "--output", str(made))
    assert f"{naming.STACK}.ProcessingApiEndpoint = https://" in first
    assert f"{naming.STACK}.WebSocketEndpoint = wss://" in first
    for stack in STACKS:
        assert (made / f"{stack}.template.json").read_bytes() == (anew / f"{stack}.template.json").read_bytes()
    second = run(emulator, *deploy, "--app", str(anew))
    for stack in STACKS:
        assert f"✅  {stack} (no changes)" in second
    run(emulator, "destroy", "--all", "--force", "--app", str(anew))
    session = emulator.session()
    formation = session.client("cloudformation", endpoint_url=emulator.endpoint)
    for stack in STACKS:
        with pytest.raises(ClientError, match="does not exist"):
            formation.describe_stacks(StackName=stack)
    tables = session.client("dynamodb", endpoint_url=emulator.endpoint).list_tables()["TableNames"]
    functions = session.client("lambda", endpoint_url=emulator.endpoint).list_functions()["Functions"]
    queues = session.client("sqs", endpoint_url=emulator.endpoint).list_queues().get("QueueUrls", [])
    secrets = session.client("secretsmanager", endpoint_url=emulator.endpoint).list_secrets()["SecretList"]
    assert (tables, functions, queues, secrets) == ([], [], [], [])


def test_the_door_knows_its_commands() -> None:
    done = subprocess.run([sys.executable, str(RUN), "dance"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "synth|deploy|diff|destroy|bootstrap|list" in done.stderr


@pytest.mark.parametrize(
    ("missing", "said"), [("node", "install Node.js 20 or newer"), ("npm", "comes with Node.js")]
)
def test_what_is_missing_is_said_with_how_to_get_it(tmp_path: Path, missing: str, said: str) -> None:
    """In a copy, so that nothing is set up yet, and with a PATH that lacks the program."""
    infra, programs = tmp_path / "infra", tmp_path / "bin"
    infra.mkdir()
    programs.mkdir()
    for name in ("run.py", "environment.py", "lambda_package.py", "requirements.lock", "package-lock.json"):
        (infra / name).write_bytes((INFRA / name).read_bytes())
    (infra / ".venv").mkdir()
    (programs / "uv").write_text("#!/bin/sh\nexit 0\n")
    (programs / "node").write_text("#!/bin/sh\necho v22.1.0\n")
    (programs / "npm").write_text("#!/bin/sh\nexit 0\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    (programs / missing).unlink()
    done = subprocess.run(
        [sys.executable, str(infra / "run.py"), "synth"],
        env={"PATH": f"{programs}:/nonexistent", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"infra: no {missing} on PATH" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
