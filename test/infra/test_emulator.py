"""The synthesized template on an emulator that enforces IAM: the Lambdas' roles, by calls that are theirs and
calls that aren't; the Lambdas themselves, under their roles; and what is left when the stack goes.

What an emulator doesn't decide (IAM's and ECS's own calls, conditions of theirs) is in ``test_rights.py``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from aws_emulator import REGION, AwsEmulator, EmulatorMissing, running_emulator
from aws_stack import AwsStack, deploy
from medical_image_processing import naming
from medical_image_processing.engines.aws.settings import AwsSettings

DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "AccessDeniedFault", "AuthorizationError", "Forbidden"}
)

ADMINISTRATOR = "arn:aws:iam::aws:policy/AdministratorAccess"

Call = tuple[str, str, dict[str, Any]]
"""Service, operation, parameters."""


@pytest.fixture(scope="module")
def emulator(samples_cache: Path) -> Iterator[AwsEmulator]:
    """One that refuses what no policy allows."""
    try:
        with running_emulator(samples_cache, enforce_iam=True) as running:
            yield running
    except EmulatorMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def stack(emulator: AwsEmulator) -> AwsStack:
    """The platform, with an algorithm's queues beside it, as the provisioner would have made them."""
    deployed = deploy(emulator, parameters={"Clients": "keys"})
    sqs = client(emulator.session(), "sqs", emulator)
    for name in (naming.queue("liver"), naming.dead_letter_queue("liver")):
        sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
    sqs.create_queue(QueueName="other.fifo", Attributes={"FifoQueue": "true"})
    s3 = client(emulator.session(), "s3", emulator)
    s3.create_bucket(Bucket="elsewhere")
    s3.put_object(Bucket=deployed.outputs["OutputBucketName"], Key="liver/result.dcm", Body=b"DICM")
    return deployed


class Names:
    """What the calls below name."""

    def __init__(self, stack: AwsStack) -> None:
        variables = [stack.function_environment(name) for name in ("Admin", "Provisioner", "Connect")]
        self.settings = AwsSettings.from_environment({k: v for each in variables for k, v in each.items()})
        self.results = stack.outputs["ResultsQueueUrl"]
        base = self.results.rpartition("/")[0]
        self.jobs_queue = f"{base}/{naming.queue('liver')}"
        self.dead_letters = f"{base}/{naming.dead_letter_queue('liver')}"
        self.foreign_queue = f"{base}/other.fifo"
        self.secret = stack.outputs["AdminKeySecretArn"]


def get(table: str, **key: str) -> Call:
    return "dynamodb", "get_item", {"TableName": table, "Key": {name: {"S": text} for name, text in key.items()}}


def put(table: str, **item: str) -> Call:
    return "dynamodb", "put_item", {"TableName": table, "Item": {name: {"S": text} for name, text in item.items()}}


def scan(table: str, index: str | None = None) -> Call:
    return "dynamodb", "scan", {"TableName": table, **({"IndexName": index} if index else {})}


def query(table: str, index: str, key: str) -> Call:
    return (
        "dynamodb",
        "query",
        {
            "TableName": table,
            "IndexName": index,
            "KeyConditionExpression": "#k = :k",
            "ExpressionAttributeNames": {"#k": key},
            "ExpressionAttributeValues": {":k": {"S": "x"}},
        },
    )


def send(queue: str) -> Call:
    return (
        "sqs",
        "send_message",
        {
            "QueueUrl": queue,
            "MessageBody": "{}",
            "MessageGroupId": "g",
            "MessageDeduplicationId": str(time.monotonic_ns()),
        },
    )


def receive(queue: str) -> Call:
    return "sqs", "receive_message", {"QueueUrl": queue, "WaitTimeSeconds": 0}


def depth(queue: str) -> Call:
    return "sqs", "get_queue_attributes", {"QueueUrl": queue, "AttributeNames": ["All"]}


def secret(names: Names) -> Call:
    return "secretsmanager", "get_secret_value", {"SecretId": names.secret}


def read(bucket: str) -> Call:
    return "s3", "get_object", {"Bucket": bucket, "Key": "liver/result.dcm"}


def read_audit(table: str) -> Call:
    given = {"ExpressionAttributeNames": {"#k": "subject"}, "ExpressionAttributeValues": {":v": {"S": "x"}}}
    return "dynamodb", "query", {"TableName": table, "KeyConditionExpression": "#k = :v", **given}


def write(bucket: str) -> Call:
    return "s3", "put_object", {"Bucket": bucket, "Key": "liver/forged.dcm", "Body": b""}


def create_queue(name: str) -> Call:
    return "sqs", "create_queue", {"QueueName": name, "Attributes": {"FifoQueue": "true"}}


def log_group(name: str) -> Call:
    return "logs", "create_log_group", {"logGroupName": name}


def parameter(name: str) -> Call:
    return "ssm", "put_parameter", {"Name": name, "Value": "v", "Type": "SecureString", "Overwrite": True}


def invoke(name: str) -> Call:
    return "lambda", "invoke", {"FunctionName": f"ImgPipeline-{name}Fn", "InvocationType": "DryRun"}


MAY: dict[str, Callable[[Names, AwsSettings], list[Call]]] = {
    "Admin": lambda n, s: [
        scan(s.algorithms_table),
        put(s.algorithms_table, algorithm_id="x"),
        put(s.audit_table, subject="x", at="1"),
        read_audit(s.audit_table),
        query(s.jobs_table, "open", "open_algo"),
        scan(s.keys_table),
        scan(s.connections_table),
        send(n.jobs_queue),
        secret(n),
    ],
    "Processing": lambda n, s: [
        scan(s.algorithms_table),
        get(s.connections_table, client_id="x", connection_id="y"),
        put(s.jobs_table, job_id="x"),
        query(s.jobs_table, "by_client", "client_id"),
        get(s.keys_table, pk="x"),
        send(n.jobs_queue),
        depth(n.jobs_queue),
        read(s.output_bucket),
    ],
    "Provisioner": lambda n, s: [
        scan(s.algorithms_table),
        put(s.keys_table, pk="x"),
        create_queue("mip-brain.fifo"),
        ("sqs", "set_queue_attributes", {"QueueUrl": n.jobs_queue, "Attributes": {"VisibilityTimeout": "30"}}),
        log_group("/ecs/mip-brain"),
        parameter(naming.pacs_key_parameter("brain")),
    ],
    "Delivery": lambda n, s: [
        receive(n.results),
        get(s.algorithms_table, algorithm_id="x"),
        put(s.jobs_table, job_id="x"),
        get(s.keys_table, pk="x"),
        read(s.output_bucket),
    ],
    "Connect": lambda n, s: [
        get(s.keys_table, pk="x"),
        put(s.connections_table, client_id="x", connection_id="y"),
        query(s.jobs_table, "unseen", "unseen_client"),
        invoke("Connect"),
    ],
    "Disconnect": lambda n, s: [
        get(s.connections_table, client_id="x", connection_id="y"),
        query(s.jobs_table, "unseen", "unseen_client"),
        put(s.jobs_table, job_id="x"),
    ],
    "Message": lambda n, s: [
        get(s.connections_table, client_id="x", connection_id="y"),
        query(s.jobs_table, "unseen", "unseen_client"),
        read(s.output_bucket),
    ],
    "DeadLetters": lambda n, s: [
        receive(n.dead_letters),
        depth(n.jobs_queue),
        depth(n.results),
        send(n.jobs_queue),
        scan(s.jobs_table, "open"),
        query(s.jobs_table, "unsent", "unsent"),
        scan(s.algorithms_table),
    ],
    "Scaler": lambda n, s: [
        scan(s.algorithms_table),
        query(s.jobs_table, "open", "open_algo"),
        depth(n.jobs_queue),
        ("ecs", "list_task_definitions", {"familyPrefix": "mip-liver"}),
    ],
}
MAY_NOT: dict[str, Callable[[Names, AwsSettings], list[Call]]] = {
    "Admin": lambda n, s: [receive(n.jobs_queue), receive(n.results), send(n.results), read(s.output_bucket)],
    "Processing": lambda n, s: [
        put(s.algorithms_table, algorithm_id="x"),
        scan(s.keys_table),
        scan(s.jobs_table),
        send(n.results),
        send(n.foreign_queue),
        receive(n.jobs_queue),
        write(s.output_bucket),
        read("elsewhere"),
        secret(n),
    ],
    "Provisioner": lambda n, s: [
        create_queue("other2.fifo"),
        ("sqs", "delete_queue", {"QueueUrl": n.results}),
        ("sqs", "delete_queue", {"QueueUrl": n.foreign_queue}),
        receive(n.results),
        send(n.results),
        log_group("/aws/lambda/other"),
        ("logs", "delete_log_group", {"logGroupName": "/aws/lambda/ImgPipeline-AdminFn"}),
        parameter("/other/key"),
        secret(n),
        write(s.output_bucket),
        ("iam", "create_user", {"UserName": "me"}),
        (
            "iam",
            "attach_role_policy",
            {"RoleName": "x", "PolicyArn": ADMINISTRATOR},
        ),
    ],
    "Delivery": lambda n, s: [
        put(s.algorithms_table, algorithm_id="x"),
        put(s.keys_table, pk="x"),
        receive(n.jobs_queue),
        send(n.results),
        write(s.output_bucket),
        secret(n),
        ("iam", "create_role", {"RoleName": "x", "AssumeRolePolicyDocument": "{}"}),
    ],
    "Connect": lambda n, s: [put(s.keys_table, pk="x"), scan(s.connections_table), secret(n), invoke("Admin")],
    "Disconnect": lambda n, s: [get(s.keys_table, pk="x"), read(s.output_bucket), secret(n), invoke("Connect")],
    "Message": lambda n, s: [get(s.keys_table, pk="x"), scan(s.connections_table), invoke("Connect")],
    "DeadLetters": lambda n, s: [
        receive(n.results),
        receive(n.jobs_queue),
        send(n.results),
        put(s.algorithms_table, algorithm_id="x"),
        secret(n),
    ],
    "Scaler": lambda n, s: [
        put(s.algorithms_table, algorithm_id="x"),
        put(s.jobs_table, job_id="x"),
        send(n.jobs_queue),
        ("ecs", "register_task_definition", {"family": "mip-liver", "containerDefinitions": []}),
        ("iam", "list_roles", {}),
    ],
}


def test_the_admin_api_works_under_its_role(stack: AwsStack) -> None:
    """Through API Gateway, so that the real Lambda reads its secret and its tables with its own rights.

    It comes before the tests that leave items in the tables that are no records.
    """
    headers = {"x-admin-key": stack.admin_key}
    with httpx.Client(base_url=stack.api_base, timeout=60, trust_env=False) as api:
        assert api.get("/admin/algorithms").status_code == 401
        assert api.get("/admin/algorithms", headers={"x-admin-key": "dev-admin"}).status_code == 401
        listed = api.get("/admin/algorithms", headers=headers)
        assert (listed.status_code, listed.json()) == (200, {"algorithms": [], "next_cursor": None})
        made = api.post("/admin/keys", headers=headers, json={"name": "viewer"})
        assert made.status_code == 201
        key = made.json()["key"]
        assert api.get("/health").status_code == 200
        assert api.post("/provision", json={}).status_code == 401
        provisioned = api.post("/provision", json={}, headers={"x-api-key": key})
        assert provisioned.status_code == 200
        asked = api.get("/jobs", params={"client_id": provisioned.json()["client_id"]}, headers={"x-api-key": key})
        assert (asked.status_code, asked.json()["jobs"]) == (200, [])


@pytest.mark.parametrize(
    ("name", "event"),
    [("DeadLetters", {}), ("Scaler", {}), ("Provisioner", {}), ("Delivery", {"Records": []})],
)
def test_what_aws_wakes_does_its_round_under_its_role(stack: AwsStack, name: str, event: dict[str, Any]) -> None:
    functions = client(stack.emulator.session(), "lambda", stack.emulator)
    answer = functions.invoke(FunctionName=f"ImgPipeline-{name}Fn", Payload=json.dumps(event).encode())
    assert "FunctionError" not in answer, answer["Payload"].read()


def test_a_websocket_opens_with_a_key_and_answers(stack: AwsStack) -> None:
    with httpx.Client(base_url=stack.api_base, timeout=60, trust_env=False) as api:
        made = api.post("/admin/keys", headers={"x-admin-key": stack.admin_key}, json={"name": "screen"})
        key = made.json()["key"]
        client_id = api.post("/provision", json={}, headers={"x-api-key": key}).json()["client_id"]
    address = f"{stack.ws_endpoint}?client_id={client_id}"
    with pytest.raises(InvalidStatus):
        connect(address, open_timeout=60)
    with connect(f"{address}&key={key}", open_timeout=60) as websocket:
        websocket.send('{"type": "ping"}')
        assert json.loads(websocket.recv(timeout=60)) == {"type": "pong"}


@pytest.mark.parametrize("name", list(MAY))
def test_a_lambdas_role_may_do_its_work_and_nothing_beyond(stack: AwsStack, name: str) -> None:
    names = Names(stack)
    session = session_as(stack, name)
    refused = [call[:2] for call in MAY[name](names, names.settings) if is_denied(session, stack.emulator, call)]
    assert refused == []
    let = [call for call in MAY_NOT[name](names, names.settings) if not is_denied(session, stack.emulator, call)]
    assert let == []


def test_a_stack_that_goes_leaves_nothing(stack: AwsStack) -> None:
    emulator = stack.emulator
    formation = client(emulator.session(), "cloudformation", emulator)
    for name in (naming.STACK, naming.IMAGES_STACK):
        formation.delete_stack(StackName=name)
        await_gone(formation, name)
    session = emulator.session()
    assert client(session, "dynamodb", emulator).list_tables()["TableNames"] == []
    assert client(session, "lambda", emulator).list_functions()["Functions"] == []
    assert client(session, "apigateway", emulator).get_rest_apis()["items"] == []
    assert client(session, "secretsmanager", emulator).list_secrets()["SecretList"] == []
    assert client(session, "ecr", emulator).describe_repositories()["repositories"] == []
    buckets = {bucket["Name"] for bucket in client(session, "s3", emulator).list_buckets()["Buckets"]}
    assert buckets == {"elsewhere", f"cdk-hnb659fds-assets-{emulator.account}-{REGION}"}
    assert not client(session, "logs", emulator).describe_log_groups(logGroupNamePrefix="/aws/lambda/Img")[
        "logGroups"
    ]


def session_as(stack: AwsStack, name: str) -> boto3.Session:
    """With the credentials that the Lambda of that name runs with."""
    emulator = stack.emulator
    functions = client(emulator.session(), "lambda", emulator)
    role = functions.get_function_configuration(FunctionName=f"ImgPipeline-{name}Fn")["Role"]
    iam = client(emulator.session(), "iam", emulator)
    role_name = role.rpartition("/")[2]
    trust = iam.get_role(RoleName=role_name)["Role"]["AssumeRolePolicyDocument"]
    root = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": emulator.account}}
    if root not in trust["Statement"]:
        trust["Statement"].append(root)
        iam.update_assume_role_policy(RoleName=role_name, PolicyDocument=json.dumps(trust))
    sts = client(emulator.session(), "sts", emulator)
    keys = sts.assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    return boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name=REGION)


def is_denied(session: boto3.Session, emulator: AwsEmulator, call: Call) -> bool:
    """Whether IAM refuses the call; that it fails otherwise doesn't matter."""
    service, operation, parameters = call
    try:
        getattr(client(session, service, emulator), operation)(**parameters)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return error.response["Error"]["Code"] in DENIED or status == 403
    return False


def client(session: boto3.Session, service: str, emulator: AwsEmulator) -> Any:
    config = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, parameter_validation=False)
    return session.client(service, endpoint_url=emulator.endpoint, config=config)


def await_gone(formation: Any, name: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(formation.exceptions.ClientError):
            status = formation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]
            assert status != "DELETE_FAILED", formation.describe_stack_events(StackName=name)["StackEvents"][:5]
            if status != "DELETE_COMPLETE":
                time.sleep(0.1)
                continue
        return
    raise AssertionError(f"stack {name} does not go")
