"""A deployed stack: what it says of itself, and the same as ``export`` lines for a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import Refused
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.errors import Conflict, NotFound

_USABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")


@dataclass(frozen=True)
class Stack:
    """One that is there. ``changed_at`` is when it was last made or updated."""

    name: str
    region: str
    status: str
    changed_at: str
    outputs: Mapping[str, str]

    def output(self, name: str) -> str:
        """NotFound ``NO_OUTPUT`` when the stack says nothing of that name: it was made by another version."""
        if (value := self.outputs.get(name)) is None:
            raise NotFound(
                "NO_OUTPUT", f"the stack {self.name} has no output {name}; deploy it again with `mip deploy run`"
            )
        return value


def find_stack(account: Account, name: str) -> Stack | None:
    """The stack, in whatever state, or None."""
    try:
        (found,) = account.call("cloudformation", "describe_stacks", StackName=name)["Stacks"]
    except Refused as error:
        if error.aws_code == "ValidationError":  # CloudFormation's word for a stack that isn't there
            return None
        raise
    if found["StackStatus"] in ("DELETE_COMPLETE", "REVIEW_IN_PROGRESS"):
        return None
    return Stack(
        name=name,
        region=account.region,
        status=found["StackStatus"],
        changed_at=str(found.get("LastUpdatedTime") or found["CreationTime"]),
        outputs={one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", ())},
    )


def read_stack(account: Account, name: str) -> Stack:
    """A stack that can be used. NotFound ``NO_STACK``, Conflict ``STACK_NOT_READY``."""
    stack = find_stack(account, name)
    if stack is None:
        raise NotFound(
            "NO_STACK",
            f"there is no stack {name} in {account.region}; deploy it with `mip deploy run`, or give --region",
        )
    if stack.status not in _USABLE:
        raise Conflict(
            "STACK_NOT_READY",
            f"the stack {name} is {stack.status}; CloudFormation's events say why: "
            f"`aws cloudformation describe-stack-events --stack-name {name}`",
        )
    return stack


def addresses(stack: Stack) -> dict[str, str]:
    """What ``mip up`` writes into HOME/env, of a stack; no keys among it, but the admin key's place."""
    base = stack.output("ProcessingApiEndpoint").rstrip("/")
    found = {
        "API_BASE": base,
        "WS_ENDPOINT": stack.output("WebSocketEndpoint").rstrip("/"),
        "PACS_API_BASE": stack.outputs.get("PacsApiEndpoint", f"{base}/pacs").rstrip("/"),
        "RESULTS_QUEUE_URL": stack.output("ResultsQueueUrl"),
        "MIP_API_BASE": base,
        "MIP_RUNTIME": "fargate",
        "MIP_ADMIN_SECRET": stack.output("AdminKeySecretArn"),
        "OUTPUT_BUCKET": stack.outputs.get("OutputBucketName"),
        "AWS_REGION": stack.region,
        "AWS_DEFAULT_REGION": stack.region,
    }
    return {name: value for name, value in found.items() if value}


def keys(account: Account, stack: Stack) -> dict[str, str]:
    """The operator's keys, from Secrets Manager."""
    secrets = {
        "MIP_ADMIN_KEY": stack.output("AdminKeySecretArn"),
        "PACS_API_KEY": stack.outputs.get("PacsKeySecretArn"),
    }
    found = {name: account.secret(arn) for name, arn in secrets.items() if arn}
    return {name: key for name, key in found.items() if key}


def export_lines(values: Mapping[str, str]) -> str:
    """Lines for a shell, as in HOME/env."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


def choices_of(account: Account, stack: Stack) -> dict[str, str] | None:
    """What was chosen when the stack was deployed last, as ``--set`` has it; None where it doesn't say."""
    found = _template(account, stack.name).get("Metadata", {}).get(naming.CHOICES)
    return None if found is None else {str(name): str(value) for name, value in found.items()}


def _template(account: Account, name: str) -> dict[str, Any]:
    template: Any = account.call("cloudformation", "get_template", StackName=name)["TemplateBody"]
    return dict(json.loads(template) if isinstance(template, str) else template)


def retained(account: Account, name: str) -> list[tuple[str, str]]:
    """Type and name of what outlives the stack: tables, buckets and whatever else its template retains."""
    kept = {
        logical
        for logical, resource in _template(account, name)["Resources"].items()
        if str(resource.get("DeletionPolicy", "")).startswith("Retain")
    }
    found: list[tuple[str, str]] = []
    token: str | None = None
    while True:
        more: dict[str, str] = {"NextToken": token} if token else {}
        page = account.call("cloudformation", "list_stack_resources", StackName=name, **more)
        found += [
            (one["ResourceType"].removeprefix("AWS::"), one.get("PhysicalResourceId", one["LogicalResourceId"]))
            for one in page["StackResourceSummaries"]
            if one["LogicalResourceId"] in kept
        ]
        if (token := page.get("NextToken")) is None:
            return sorted(found)
