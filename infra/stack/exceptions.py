"""Where cdk-nag's AwsSolutions rules don't hold, and in one line each, why that is right.

A wildcard in a policy's resource is acknowledged as that one resource, so that another one is found.
"""

from __future__ import annotations

import fnmatch

from aws_cdk import Acknowledgment, Aws, Stack, Validations
from constructs import IConstruct

from stack import arns
from stack.lambdas import LAMBDAS, function_name

PACK = "AwsSolutions"
GATEWAY_LOGS = "arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"

BY_CONSTRUCT = (
    ("SMG4", "*/Secrets/*", "Rotated by the operator, who hands the key on; the one before stays valid meanwhile"),
    (
        f"IAM4[Policy::{GATEWAY_LOGS}]",
        "*/GatewayLogs/Role",
        "The policy that AWS documents for API Gateway's account-wide log role",
    ),
    ("SQS3", "*/FailedEvents", "It is a dead-letter queue itself: of the provisioner's stream"),
    ("APIG3", "*/Api/Rest", "A firewall costs by the month; the operator associates one where the API is public"),
    ("APIG4", "*/Api/Rest", "Keys and tokens are checked by the Lambdas, against hashes that no gateway has"),
    ("APIG4", "*/WebSocket/*", "$connect's Lambda checks the key and refuses; the other routes need a connection"),
    (
        "APIG6",
        "*/Api/Rest",
        "Execution logs hold paths and headers, so ids of studies and keys; access logs don't",
    ),
    ("COG4", "*/Api/Rest", "Clients are programs with keys, or people of the hospital's own OIDC issuer"),
    ("ECS2", "*/Pacs/Task", "The environment names tables and a bucket; keys come as secrets"),
    (
        "ELB2",
        "*/Pacs/Balancer",
        "Load balancers that pass TCP on write no access log; the PACS API keeps the record",
    ),
    ("L1", "*/Functions/*", "All packages are tested on and locked for Python 3.11, which AWS supports"),
    ("IAM5[Resource::*]", "*/Boundary/TaskExecutionRole", "ecr:GetAuthorizationToken knows no resource"),
    ("IAM5[Resource::*]", "*/Pacs/ExecutionRole", "ecr:GetAuthorizationToken knows no resource"),
    (
        "IAM5[Resource::*]",
        "*/Functions/ProvisionerRole",
        "ListStreams and reading task definitions know no resource",
    ),
    ("IAM5[Resource::*]", "*/Functions/ScalerRole", "Reading task definitions knows no resource"),
)
"""Rule, path of the construct, reason."""


def by_resource(
    *, output: str, cluster: str, websocket: str, images: str | None, repositories: list[str]
) -> dict[str, str]:
    """Resource with a wildcard → reason. ``images`` is the ARN of a bucket, the others are logical ids."""
    made = "Made by the provisioner while the platform runs, and known by that name only"
    service, task = f"service/<{cluster}>/{arns.TASK_FAMILIES}", f"task/<{cluster}>/*"
    reasons = {
        arns.algorithm_queues(): made,
        arns.algorithm_dead_letter_queues(): made,
        arns.task_roles(): f"{made}; their boundary is fixed",
        arns.task_definitions(): made,
        arns.of("ecs", service): made,
        arns.of("ecs", task): "Tasks have no names",
        arns.algorithm_parameters(): made,
        arns.algorithm_log_groups()[0]: made,
        arns.algorithm_log_groups()[1]: made,
        arns.of("logs", "log-group:*"): "logs:DescribeLogGroups knows no narrower resource",
        arns.of("logs", "log-group:/aws/lambda-insights:*"): "Streams of a group that Lambda Insights fixes",
        arns.of("execute-api", f"<{websocket}>/prod/*/@connections/*"): "Connections have no names",
        f"<{output}.Arn>/*": "Objects of the output bucket, whose keys are made while the platform runs",
    }
    for name in LAMBDAS:
        reasons[arns.of("logs", f"log-group:/aws/lambda/{function_name(name)}:*")] = "Streams of its own log group"
    reasons |= dict.fromkeys((one for one in repositories if "*" in one), "Chosen so by the operator")
    if images:
        reasons[f"{images}/*"] = "Objects of the bucket of DICOM files"
    return {_as_found(resource): reason for resource, reason in reasons.items()}


def acknowledge(stack: Stack, resources: dict[str, str]) -> None:
    """Tell cdk-nag."""
    for resource, reason in resources.items():
        _acknowledge(stack, f"IAM5[Resource::{resource}]", reason)
    constructs = stack.node.find_all()
    for rule, pattern, reason in BY_CONSTRUCT:
        for construct in constructs:
            if fnmatch.fnmatchcase(construct.node.path, pattern):
                _acknowledge(construct, rule, reason)


def _acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    Validations.of(construct).acknowledge(Acknowledgment(id=f"{PACK}::{PACK}-{rule}", reason=reason))


def _as_found(resource: str) -> str:
    """As cdk-nag writes it: ``<AWS::Region>`` for what only a deployment knows."""
    for token, name in ((Aws.PARTITION, "Partition"), (Aws.REGION, "Region"), (Aws.ACCOUNT_ID, "AccountId")):
        resource = resource.replace(token, f"<AWS::{name}>")
    return resource
