"""The stack on an emulator: the synthesized template, deployed by CloudFormation without the CDK's command line.

``deploy(emulator)`` takes some seconds and gives the stack's outputs and the addresses at which the emulator
serves them. The synthesis behind it is kept by a hash of everything it is made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.config import Config

from aws_emulator import REGION, AwsEmulator
from medical_image_processing import naming

ROOT = Path(__file__).resolve().parent.parent
INFRA = ROOT / "infra"
ASSEMBLIES = INFRA / "build" / "assemblies"
KEPT = 12
EMULATOR_CONTEXT = {"emulator": "true"}
DEPLOY_S = 120.0
_QUALIFIER = "hnb659fds"
_STAGE = "prod"


class StackFailed(Exception):
    """The template could not be synthesized or deployed; the message has what was said."""


@dataclass(frozen=True)
class AwsStack:
    """A deployed platform. ``outputs`` are the stack's own; the addresses are the emulator's for them."""

    emulator: AwsEmulator
    name: str
    outputs: Mapping[str, str]
    resources: Mapping[str, str] = field(repr=False)
    """Logical id → physical id."""

    @property
    def api_base(self) -> str:
        """The REST API."""
        return f"{self.emulator.endpoint}/restapis/{self.rest_api_id}/{_STAGE}/_user_request_"

    @property
    def ws_endpoint(self) -> str:
        """The WebSocket API."""
        host = self.emulator.endpoint.partition("://")[2]
        return f"ws://{host}/_aws/execute-api/{self.websocket_id}/{_STAGE}"

    @property
    def rest_api_id(self) -> str:
        """The REST API's id."""
        return self._id("ProcessingApiEndpoint")

    @property
    def websocket_id(self) -> str:
        """The WebSocket API's id."""
        return self._id("WebSocketEndpoint")

    @property
    def admin_key(self) -> str:
        """The root admin key."""
        secrets = self.emulator.session().client("secretsmanager", endpoint_url=self.emulator.endpoint)
        return str(secrets.get_secret_value(SecretId=self.outputs["AdminKeySecretArn"])["SecretString"])

    def function_environment(self, name: str) -> dict[str, str]:
        """What the Lambda of that name in the stack's table is told."""
        functions = self.emulator.session().client("lambda", endpoint_url=self.emulator.endpoint)
        found = functions.get_function_configuration(FunctionName=f"{naming.STACK}-{name}Fn")
        return dict(found["Environment"]["Variables"])

    def _id(self, output: str) -> str:
        return self.outputs[output].partition("://")[2].partition(".")[0]


def deploy(
    emulator: AwsEmulator,
    *,
    parameters: Mapping[str, str] | None = None,
    context: Mapping[str, str] = EMULATOR_CONTEXT,
) -> AwsStack:
    """Deploy both stacks into the emulator's account. StackFailed.

    ``context`` has more choices than the emulator's own. ``parameters`` of the emulator's template: Clients,
    OidcIssuer, OidcAudience, PacsBase, QueueLimit and
    TaskEnv (a JSON object of texts); Emulator is given.
    """
    assembly = assemble(context)
    _prepare(emulator)
    given = {"Emulator": emulator.endpoint, **(parameters or {})}
    _create(emulator, assembly, naming.IMAGES_STACK, {})
    _create(emulator, assembly, naming.STACK, given)
    formation = _client(emulator, "cloudformation")
    described = formation.describe_stacks(StackName=naming.STACK)["Stacks"][0]
    pages = formation.get_paginator("list_stack_resources").paginate(StackName=naming.STACK)
    return AwsStack(
        emulator,
        naming.STACK,
        {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]},
        {
            found["LogicalResourceId"]: found.get("PhysicalResourceId", "")
            for page in pages
            for found in page["StackResourceSummaries"]
        },
    )


def assemble(context: Mapping[str, str]) -> Path:
    """The folder of the templates for ``context``; made when anything they come from has changed. StackFailed."""
    folder = ASSEMBLIES / content_hash(context)
    ASSEMBLIES.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the same tests may be at it
        if not (folder / "manifest.json").exists():
            _assemble(folder, context)
    return folder


def _assemble(folder: Path, context: Mapping[str, str]) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = [option for name, text in context.items() for option in ("-c", f"{name}={text}")]
    command = [sys.executable, str(INFRA / "run.py"), "assemble", str(unfinished), *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StackFailed(done.stderr.strip()[-4000:])
    unfinished.rename(folder)
    finished = sorted(ASSEMBLIES.glob("*/manifest.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in finished[KEPT:]:
        shutil.rmtree(old.parent, ignore_errors=True)


def template(context: Mapping[str, str], stack: str = naming.STACK) -> dict[str, Any]:
    """The synthesized template for ``context``."""
    text = (assemble(context) / f"{stack}.template.json").read_text()
    return dict(json.loads(text))


def content_hash(context: Mapping[str, str]) -> str:
    """A hash of everything that the folder for ``context`` comes from.

    Only what is deployed has to hold the Lambdas' newest code. The other templates are just read, and say the
    same whatever is in the zip.
    """
    package = ROOT / "src" / "medical_image_processing"
    code = (
        sorted(package.rglob("*.py")) if EMULATOR_CONTEXT.items() <= context.items() else [package / "naming.py"]
    )
    ours = [ROOT / "requirements-lambda.lock", INFRA / "requirements.lock", INFRA / "cdk.json"]
    ours += [*sorted(INFRA.glob("*.py")), *sorted((INFRA / "stack").glob("*.py")), *code]
    digest = hashlib.sha256(json.dumps(dict(context), sort_keys=True).encode())
    for file in ours:
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:24]


def _prepare(emulator: AwsEmulator) -> None:
    """What ``cdk bootstrap`` makes and the templates look at."""
    s3, ssm = _client(emulator, "s3"), _client(emulator, "ssm")
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
        s3.create_bucket(Bucket=_asset_bucket(emulator))
    ssm.put_parameter(Name=f"/cdk-bootstrap/{_QUALIFIER}/version", Value="30", Type="String", Overwrite=True)


def _asset_bucket(emulator: AwsEmulator) -> str:
    return f"cdk-{_QUALIFIER}-assets-{emulator.account}-{REGION}"


def _create(emulator: AwsEmulator, assembly: Path, stack: str, parameters: Mapping[str, str]) -> None:
    s3, formation = _client(emulator, "s3"), _client(emulator, "cloudformation")
    assets = json.loads((assembly / f"{stack}.assets.json").read_text())["files"]
    address = ""
    for asset in assets.values():
        source = assembly / asset["source"]["path"]
        key = next(iter(asset["destinations"].values()))["objectKey"]
        s3.put_object(Bucket=_asset_bucket(emulator), Key=key, Body=source.read_bytes())
        if source.name == f"{stack}.template.json":
            address = f"{emulator.endpoint}/{_asset_bucket(emulator)}/{key}"
    formation.create_stack(
        StackName=stack,
        TemplateURL=address,
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[{"ParameterKey": key, "ParameterValue": text} for key, text in parameters.items()],
    )
    _await_created(formation, stack)


def _await_created(formation: Any, stack: str) -> None:
    deadline = time.monotonic() + DEPLOY_S
    while time.monotonic() < deadline:
        status = formation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
        if status == "CREATE_COMPLETE":
            return
        if not status.endswith("_IN_PROGRESS") or status.startswith("ROLLBACK"):
            events = formation.describe_stack_events(StackName=stack)["StackEvents"]
            failed = [
                f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', '')}"
                for event in events
                if event["ResourceStatus"].endswith("_FAILED")
            ]
            raise StackFailed(f"stack {stack} is {status}:\n" + "\n".join(failed))
        time.sleep(0.1)
    raise StackFailed(f"stack {stack} is not there after {DEPLOY_S:.0f} s")


def _client(emulator: AwsEmulator, service: str) -> Any:
    config = Config(s3={"addressing_style": "path"}, read_timeout=60, retries={"max_attempts": 3})
    return emulator.session().client(service, endpoint_url=emulator.endpoint, config=config)
