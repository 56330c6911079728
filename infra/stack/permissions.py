"""What each Lambda's role may do, written out by action and resource. No managed policy, no wildcard action.

A function here gives the statements of one capability; ``functions.py`` says which Lambda has which.
"""

from __future__ import annotations

from collections.abc import Iterable

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from stack import arns
from stack.tables import JOB_INDEXES

TO_STORE = "to_store"

GET = ("dynamodb:GetItem", "dynamodb:BatchGetItem")
FIND = (*GET, "dynamodb:Query")
LIST = (*FIND, "dynamodb:Scan")
PUT = ("dynamodb:PutItem",)
CHANGE = (*PUT, "dynamodb:UpdateItem", "dynamodb:ConditionCheckItem")
REMOVE = ("dynamodb:DeleteItem",)

QUEUE_STATE = ("sqs:GetQueueUrl", "sqs:GetQueueAttributes")


def allow(
    sid: str, actions: Iterable[str], resources: Iterable[str], conditions: dict[str, object] | None = None
) -> iam.PolicyStatement:
    """One statement."""
    return iam.PolicyStatement(
        sid=sid, actions=list(actions), resources=list(resources), conditions=conditions or None
    )


def table(name: str, of: dynamodb.Table, *actions: str) -> iam.PolicyStatement:
    """A table, without its indexes."""
    return allow(name, dict.fromkeys(actions), [of.table_arn])


def jobs(of: dynamodb.Table, *actions: str) -> list[iam.PolicyStatement]:
    """The jobs, and to query them by each of their indexes, but that of the PACS API."""
    indexes = [f"{of.table_arn}/index/{name}" for name in JOB_INDEXES if name != TO_STORE]
    return [table("Jobs", of, *actions), allow("FindJobs", ["dynamodb:Query"], indexes)]


def store_results(of: dynamodb.Table, output: s3.IBucket) -> list[iam.PolicyStatement]:
    """Take results to the PACS: which ones, the files, and how that went."""
    return [
        allow("FindResultsToStore", ["dynamodb:Query"], [f"{of.table_arn}/index/{TO_STORE}"]),
        table("NoteWhatWasStored", of, "dynamodb:BatchGetItem", "dynamodb:UpdateItem"),
        allow("ReadResults", ["s3:GetObject"], [output.arn_for_objects("*")]),
    ]


def look_at_open_jobs(of: dynamodb.Table) -> list[iam.PolicyStatement]:
    """All jobs that are not ended, a window at a time."""
    return [allow("LookAtOpenJobs", ["dynamodb:Scan"], [f"{of.table_arn}/index/open"])]


def send_jobs() -> list[iam.PolicyStatement]:
    """Send to algorithms' queues; see how full they are."""
    return [
        allow("SendJobs", ["sqs:SendMessage"], [arns.algorithm_queues()]),
        allow("SeeQueues", QUEUE_STATE, [arns.algorithm_queues()]),
        iam.PolicyStatement(
            sid="NeverForgeResults",
            effect=iam.Effect.DENY,
            actions=["sqs:SendMessage"],
            resources=arns.results_queues(),
        ),
    ]


def take_dead_letters() -> list[iam.PolicyStatement]:
    """Read and settle what algorithms' dead-letter queues hold."""
    take = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]
    return [allow("TakeDeadLetters", take, [arns.algorithm_dead_letter_queues()])]


def take_results(queue_arn: str) -> list[iam.PolicyStatement]:
    """What an event source mapping does with the results queue."""
    take = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
    return [allow("TakeResults", take, [queue_arn])]


def push(api_id: str, stage: str) -> list[iam.PolicyStatement]:
    """Post to, look at and close WebSocket connections."""
    connections = arns.of("execute-api", f"{api_id}/{stage}/*/@connections/*")
    return [allow("PushToClients", ["execute-api:ManageConnections"], [connections])]


def sign_results(output: s3.IBucket) -> list[iam.PolicyStatement]:
    """A signed link opens what its signer may read."""
    return [allow("SignLinksToResults", ["s3:GetObject"], [output.arn_for_objects("*")])]


def read_secret(arn: str) -> list[iam.PolicyStatement]:
    """One secret's values."""
    return [allow("ReadAdminKey", ["secretsmanager:GetSecretValue"], [arn])]


def read_worker_logs() -> list[iam.PolicyStatement]:
    """The newest lines of algorithms' logs."""
    read = ["logs:GetLogEvents", "logs:DescribeLogStreams"]
    return [allow("ReadWorkerLogs", read, arns.algorithm_log_groups())]


def know_task_roles(keys: dynamodb.Table) -> list[iam.PolicyStatement]:
    """Which algorithm a result's sender is: the provisioner wrote it beside the keys' digests."""
    return [table("KnowTaskRoles", keys, "dynamodb:GetItem")]


def invoke(function_arn: str) -> list[iam.PolicyStatement]:
    """Start a Lambda."""
    return [allow("GoOnAfterAnswering", ["lambda:InvokeFunction"], [function_arn])]


def count_workers(cluster: str, cluster_arn: str) -> list[iam.PolicyStatement]:
    """See how many workers algorithms' services have."""
    return [
        allow(
            "CountWorkers",
            ["ecs:DescribeServices"],
            [arns.services(cluster)],
            {"ArnEquals": {"ecs:cluster": cluster_arn}},
        )
    ]


def scale_services(cluster: str, cluster_arn: str) -> list[iam.PolicyStatement]:
    """See and move the counts of algorithms' services."""
    return [
        allow(
            "ScaleServices",
            ["ecs:DescribeServices", "ecs:UpdateService"],
            [arns.services(cluster)],
            {"ArnEquals": {"ecs:cluster": cluster_arn}},
        ),
        allow("ReadTaskDefinitions", ["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"], ["*"]),
        allow(
            "ReadTagsOfServices", ["ecs:ListTagsForResource"], [arns.services(cluster), arns.task_definitions()]
        ),
    ]


def write_logs(function_name: str) -> iam.PolicyStatement:
    """A Lambda's own log group, which the stack makes."""
    group = arns.of("logs", f"log-group:/aws/lambda/{function_name}:*")
    return allow("WriteOwnLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], [group])


def write_insights() -> iam.PolicyStatement:
    """The group that the Lambda Insights extension writes, which the stack makes."""
    group = arns.of("logs", "log-group:/aws/lambda-insights:*")
    return allow("WriteLambdaInsights", ["logs:CreateLogStream", "logs:PutLogEvents"], [group])


def read_stream(stream_arn: str) -> list[iam.PolicyStatement]:
    """A table's stream."""
    read = ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"]
    return [
        allow("ReadChanges", read, [stream_arn]),
        allow("FindStreams", ["dynamodb:ListStreams"], ["*"]),
    ]


def dead_letter_to(queue_arn: str) -> list[iam.PolicyStatement]:
    """Where events go that a Lambda failed on too often."""
    return [allow("KeepFailedEvents", ["sqs:SendMessage"], [queue_arn])]


def make_queues() -> list[iam.PolicyStatement]:
    """Algorithms' queues. The results queue has a like name and is not theirs to change."""
    make = [
        "sqs:CreateQueue",
        "sqs:DeleteQueue",
        "sqs:PurgeQueue",
        "sqs:SetQueueAttributes",
        "sqs:TagQueue",
        "sqs:ListQueueTags",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
    ]
    return [
        allow("MakeQueues", [*make, *QUEUE_STATE], [arns.algorithm_queues()]),
        iam.PolicyStatement(
            sid="NeverTouchResults",
            effect=iam.Effect.DENY,
            actions=[action for action in make if action != "sqs:ListQueueTags"],
            resources=arns.results_queues(),
        ),
    ]


def make_roles(boundary_arn: str, execution_role_arn: str) -> list[iam.PolicyStatement]:
    """Roles under our path that carry our boundary; hand those, and no others, to ECS."""
    bounded: dict[str, object] = {"StringEquals": {"iam:PermissionsBoundary": boundary_arn}}
    to_ecs: dict[str, object] = {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    roles = [arns.task_roles()]
    write = [
        "iam:CreateRole",
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
        "iam:DeleteRolePolicy",
        "iam:DetachRolePolicy",
    ]
    read = ["iam:GetRole", "iam:GetRolePolicy", "iam:ListRolePolicies", "iam:ListAttachedRolePolicies"]
    return [
        allow("MakeBoundedRoles", write, roles, bounded),
        allow("TendRoles", [*read, "iam:TagRole", "iam:UntagRole", "iam:DeleteRole"], roles),
        allow("HandRolesToTasks", ["iam:PassRole"], [*roles, execution_role_arn], to_ecs),
    ]


def make_services(cluster: str, cluster_arn: str) -> list[iam.PolicyStatement]:
    """Algorithms' task definitions and services, on our cluster."""
    ours: dict[str, object] = {"ArnEquals": {"ecs:cluster": cluster_arn}}
    services, definitions = arns.services(cluster), arns.task_definitions()
    return [
        allow(
            "MakeServices",
            ["ecs:CreateService", "ecs:UpdateService", "ecs:DeleteService", "ecs:DescribeServices"],
            [services],
            ours,
        ),
        allow("MakeTaskDefinitions", ["ecs:RegisterTaskDefinition", "ecs:DeleteTaskDefinitions"], [definitions]),
        allow(
            "TagServices",
            ["ecs:TagResource", "ecs:UntagResource", "ecs:ListTagsForResource"],
            [services, definitions],
        ),
        allow(
            "ReadTaskDefinitions",
            ["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions", "ecs:DeregisterTaskDefinition"],
            ["*"],
        ),
        allow("FindServicesAndTasks", ["ecs:ListServices", "ecs:ListTasks"], ["*"], ours),
        allow("SeeTasks", ["ecs:DescribeTasks"], [arns.tasks(cluster)], ours),
    ]


def make_log_groups() -> list[iam.PolicyStatement]:
    """Algorithms' log groups; and what a worker said last, for the reason why it died."""
    make = [
        "logs:CreateLogGroup",
        "logs:DeleteLogGroup",
        "logs:PutRetentionPolicy",
        "logs:TagResource",
        "logs:ListTagsForResource",
        "logs:GetLogEvents",
    ]
    return [
        allow("MakeLogGroups", make, arns.algorithm_log_groups()),
        allow("FindLogGroups", ["logs:DescribeLogGroups"], [arns.of("logs", "log-group:*")]),
    ]


def make_parameters() -> list[iam.PolicyStatement]:
    """Algorithms' PACS keys."""
    make = [
        "ssm:PutParameter",
        "ssm:GetParameter",
        "ssm:GetParameters",
        "ssm:DeleteParameter",
        "ssm:AddTagsToResource",
    ]
    return [allow("MakePacsKeys", make, [arns.algorithm_parameters()])]


def read_images(repositories: list[str]) -> list[iam.PolicyStatement]:
    """The digest that an image's tag stands for."""
    return [allow("PinImages", ["ecr:DescribeImages", "ecr:BatchGetImage"], repositories)]
