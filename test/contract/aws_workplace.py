"""What the stack gives the AWS engine's provisioner, made by hand in an account of the emulator.

Calls of the engine can be watched and broken from outside, through the events of boto3's own session.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse

from aws_emulator import REGION, AwsEmulator
from aws_stack import INFRA
from aws_tables import ALGORITHMS, AUDIT, JOBS, KEYS, create_tables
from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.settings import AwsSettings

CLUSTER = "mip"
SUBNETS, SECURITY_GROUP = ("subnet-1", "subnet-2"), "sg-1"
READS = ("Describe", "Get", "List", "Query", "Scan", "Batch")

TRUST_ECS = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}


def boundary(account: str, bucket: str) -> dict[str, Any]:
    """The most that any algorithm's role may do: the stack's own statements, of this account."""
    sqs = f"arn:aws:sqs:{REGION}:{account}"
    statements = runpy.run_path(str(INFRA / "stack" / "task_boundary.py"))["statements"](
        queues=f"{sqs}:{naming.queue('*')}",
        results=[f"{sqs}:{naming.RESULTS_QUEUE}", f"{sqs}:{naming.RESULTS_DEAD_LETTER_QUEUE}"],
        output=f"arn:aws:s3:::{bucket}/*",
        tasks=f"arn:aws:ecs:{REGION}:{account}:task/{CLUSTER}/*",
    )
    return {"Version": "2012-10-17", "Statement": statements}


Watch = Callable[[str, Mapping[str, Any]], None]


class Workplace:
    """An account with everything that is there before the first algorithm."""

    def __init__(self, account: AwsEmulator, settings: AwsSettings) -> None:
        self.account = account
        self.settings = settings
        self._boto: dict[str, Any] = {}
        self._session = account.session()
        self._clients = AwsClients(session=self._session, endpoint_url=account.endpoint)
        self._watched = _Watched(account)

    @classmethod
    def prepare(
        cls, emulator: AwsEmulator, *, pacs_api_base: str = "http://127.0.0.1:1/pacs", containers: bool = False
    ) -> Workplace:
        """In a fresh account. ``containers``: whether workers will run, and need an address and keys."""
        account = emulator.fresh_account()
        session = account.session()
        boto = {name: session.client(name, endpoint_url=account.endpoint) for name in _USED}
        create_tables(account)
        bucket = naming.output_bucket(account.account, REGION)
        boto["s3"].create_bucket(Bucket=bucket)
        boto["ecs"].create_cluster(clusterName=CLUSTER)
        queue = boto["sqs"].create_queue(QueueName=naming.RESULTS_QUEUE, Attributes={"FifoQueue": "true"})
        policy = boto["iam"].create_policy(
            PolicyName="TaskBoundary", PolicyDocument=json.dumps(boundary(account.account, bucket))
        )
        role = boto["iam"].create_role(
            RoleName="TaskExecutionRole", AssumeRolePolicyDocument=json.dumps(TRUST_ECS)
        )
        task_env = account.container_environment if containers else {}
        values = {
            "AWS_REGION": REGION,
            "MIP_ALGORITHMS_TABLE": ALGORITHMS,
            "MIP_AUDIT_TABLE": AUDIT,
            "MIP_JOBS_TABLE": JOBS,
            "MIP_KEYS_TABLE": KEYS,
            "MIP_RESULTS_QUEUE_URL": queue["QueueUrl"],
            "OUTPUT_BUCKET": bucket,
            "MIP_CLUSTER": CLUSTER,
            "MIP_SUBNETS": ",".join(SUBNETS),
            "MIP_SECURITY_GROUP": SECURITY_GROUP,
            "MIP_EXECUTION_ROLE": role["Role"]["Arn"],
            "MIP_TASK_BOUNDARY": policy["Policy"]["Arn"],
            "MIP_PACS_API_BASE": pacs_api_base,
            "MIP_TASK_ENV": json.dumps(task_env),
        }
        for client in boto.values():
            client.close()
        return cls(account, AwsSettings.from_environment(values))

    def with_settings(self, **changes: str) -> Workplace:
        """The same account, deployed with other settings."""
        return Workplace(self.account, AwsSettings.from_environment({**self.settings.values, **changes}))

    def boto(self, service: str) -> Any:
        """boto3's client, to look and reach behind the engine's back."""
        if service not in self._boto:
            self._boto[service] = self._session.client(service, endpoint_url=self.account.endpoint)
        return self._boto[service]

    def engine(self, watch: Watch | None = None, *, reads: bool = False) -> AwsEngine:
        """The engine.

        After each of its calls that changed something, with ``reads`` after every one,
        ``watch(action, parameters)`` is called, the action named as ``service:Operation``. What ``watch`` raises,
        the call raises. One at a time can be watched.
        """
        clients = self._clients
        if watch is not None:
            self._watched.watch, self._watched.reads = watch, reads
            clients = self._watched.clients
        return AwsEngine(self.settings, clients)

    def close(self) -> None:
        """Let go of all connections."""
        for clients in (self._clients, self._watched.clients):
            clients.close()
        for client in self._boto.values():
            client.close()


class _Watched:
    """Clients whose calls are told of; made once, since boto3 takes long to make one."""

    def __init__(self, account: AwsEmulator) -> None:
        keys = {"aws_access_key_id": account.account, "aws_secret_access_key": account.secret}
        session = boto3.Session(**keys, region_name=REGION)  # not the shared one: the events are the session's
        session.events.register("provide-client-params", self._note)
        session.events.register("after-call", self._tell)
        self.clients = AwsClients(session=session, endpoint_url=account.endpoint)
        self.watch: Watch = lambda *_: None
        self.reads = False

    def _note(self, params: Mapping[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["mip"] = dict(params)

    def _tell(self, model: Any, context: Mapping[str, Any], **_: Any) -> None:
        if self.reads or not model.name.startswith(READS):
            self.watch(f"{model.service_model.signing_name}:{model.name}", context.get("mip", {}))


class Answering:
    """Clients to which AWS says what it is told to; calls that it is told nothing for reach the emulator.

    What it says is botocore's parsed answer of an operation, or a refusal.
    """

    def __init__(self, workplace: Workplace) -> None:
        account = workplace.account
        keys = {"aws_access_key_id": account.account, "aws_secret_access_key": account.secret}
        session = boto3.Session(**keys, region_name=REGION)
        session.events.register("before-call", self._answer)
        self.clients = AwsClients(session=session, endpoint_url=account.endpoint)
        self.asked: list[str] = []
        self._said: dict[str, tuple[int, dict[str, Any]]] = {}

    def forget(self) -> None:
        """What it was told and what it was asked."""
        self.asked.clear()
        self._said.clear()

    def says(self, operation: str, answer: dict[str, Any]) -> None:
        """From now on."""
        self._said[operation] = 200, answer

    def refuses(self, operation: str, code: str, message: str = "", *, status: int = 400) -> None:
        """From now on."""
        self._said[operation] = status, {"Error": {"Code": code, "Message": message}}

    def _answer(self, model: Any, **_: Any) -> tuple[AWSResponse, dict[str, Any]] | None:
        self.asked.append(model.name)
        if model.name not in self._said:
            return None
        status, answer = self._said[model.name]
        parsed = {**answer, "ResponseMetadata": {"HTTPStatusCode": status}}
        return AWSResponse("", status, {}, None), parsed


_USED = ("s3", "ecs", "sqs", "iam")
