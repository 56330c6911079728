"""Each AWS service that the engine uses beside its stores, on a bad day: throttled, in trouble, cut off.

The SDK's pauses are asked for as ever and made short here; ``test_faults_aws.py`` waits for them in full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff

from aws_emulator import REGION, AwsEmulator
from aws_stage import AwsStage
from fault_proxy import (
    UNAVAILABLE,
    Answer,
    Call,
    Fault,
    FaultProxy,
    Trouble,
    fault_proxy,
    first_tries,
    throttling,
    unavailable,
)
from medical_image_processing.engines.aws.admin_keys import SecretKeys
from medical_image_processing.engines.aws.clients import ATTEMPTS
from medical_image_processing.engines.aws.connections import Connection
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.images import Images
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.errors import MipError, TransientError
from medical_image_processing.model.job import Job, JobStatus
from websocket_gateway import Gateway, add_function, received

ALGO, CLIENT, FUNCTION, CLUSTER = "algo_1", "client-1", "later-fn", "mip"
JOB = Job(job_id="job-1", algo_id=ALGO, client_id=CLIENT, status=JobStatus.SUCCEEDED, created_at="…")
LIMIT_S = 30.0


@dataclass(frozen=True)
class Place:
    """The engine behind the proxy, in an account that has what the calls below ask for."""

    engine: AwsEngine
    proxy: FaultProxy
    socket: Any

    async def push(self) -> None:
        await self.engine.create_push(render=lambda job, _: f'"{job.job_id}"', on_failure=lambda: None).push(JOB)

    async def pin(self) -> None:
        account = self.engine.settings.values["MIP_TASK_BOUNDARY"].split(":")[4]
        await Images(self.engine.clients).pin(f"{account}.dkr.ecr.{REGION}.amazonaws.com/mip-algos:liver")


@pytest.fixture(scope="module")
def place(aws_emulator: AwsEmulator) -> Iterator[Place]:
    stage = AwsStage(aws_emulator)
    stage.boto("ecs").create_cluster(clusterName=CLUSTER)
    stage.boto("ecr").create_repository(repositoryName="mip-algos")
    stage.boto("ecr").put_image(repositoryName="mip-algos", imageManifest='{"schemaVersion": 2}', imageTag="liver")
    add_function(stage, FUNCTION, "def handler(event, context): pass")
    gateway = Gateway(stage)
    with fault_proxy(aws_emulator.port) as proxy, gateway.connection() as (socket, connection_id):
        environment = {
            **stage.environment,
            "MIP_WS_ENDPOINT": gateway.endpoint.replace(stage.account.endpoint, proxy.endpoint),
            "MIP_CLUSTER": CLUSTER,
            "MIP_SUBNETS": "subnet-1",
            "MIP_SECURITY_GROUP": "sg-1",
            "MIP_EXECUTION_ROLE": f"arn:aws:iam::{stage.account.account}:role/TaskExecutionRole",
            "MIP_TASK_BOUNDARY": f"arn:aws:iam::{stage.account.account}:policy/TaskBoundary",
            "MIP_PACS_API_BASE": "http://127.0.0.1:1",
        }
        clients = stage.account.clients(endpoint_url=proxy.endpoint)
        engine = AwsEngine(AwsSettings.from_environment(environment), clients)
        asyncio.run(engine.connections.put(Connection(CLIENT, connection_id, None, "api.example", 0.0)))
        yield Place(engine, proxy, socket)
        clients.close()


CALLS: dict[str, Callable[[Place], Awaitable[object]]] = {
    "ECS": lambda p: p.engine.resources.worker_counts([ALGO]),
    "IAM": lambda p: p.engine.resources.put_role(ALGO, legacy_output_keys=False),
    "SSM": lambda p: p.engine.resources.put_role(ALGO, legacy_output_keys=False),
    "CloudWatch Logs": lambda p: p.engine.logs.create(ALGO),
    "API Gateway": Place.push,
    "Secrets Manager": lambda p: SecretKeys(p.engine.clients, p.engine.settings.admin_secret).digests(),
    "ECR": Place.pin,
    "Lambda": lambda p: p.engine.invoke_later(FUNCTION, {}),
}
FAULTS: dict[str, Fault] = {
    "throttled": throttling,
    "unavailable": unavailable,
    "cut off": lambda _: Trouble.CUT,
}


@dataclass
class Watched:
    """What befell one service's calls, and how long the SDK wanted to wait between them."""

    tries: list[Call]
    pauses: list[float]


@pytest.fixture
def befall(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Fault], Watched]]:
    """Lets a fault befall the calls of one service."""
    watched = Watched([], [])
    ask = ExponentialBackoff.delay_amount

    def brief(self: ExponentialBackoff, context: Any) -> float:
        watched.pauses.append(ask(self, context))
        return 0.01

    def begin(service: str, fault: Fault) -> Watched:
        def one(call: Call) -> Answer | Trouble | None:
            if call.service != service:
                return None
            watched.tries.append(call)
            return fault(call)

        place.proxy.fault = one
        return watched

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", brief)
    yield begin
    place.proxy.fault = lambda _: None


async def limited(work: Awaitable[object]) -> None:
    await asyncio.wait_for(work, LIMIT_S)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("service", CALLS)
def test_what_does_not_pass_ends_in_a_stated_transient_error_after_some_tries(
    place: Place, befall: Callable[[str, Fault], Watched], service: str, kind: str
) -> None:
    watched = befall(service, FAULTS[kind])

    with pytest.raises(TransientError, match="try again") as raised:
        asyncio.run(limited(CALLS[service](place)))

    assert {call.number for call in watched.tries} == set(range(1, ATTEMPTS + 1))
    assert len(watched.pauses) >= ATTEMPTS - 1 and max(watched.pauses) > 0
    assert raised.value.code in {"AWS_THROTTLED", "AWS_UNAVAILABLE", "PUSH_FAILED", "SECRET_UNREADABLE"}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("service", CALLS)
def test_what_passes_is_backed_off_from_and_nobody_is_told(
    place: Place, befall: Callable[[str, Fault], Watched], service: str, kind: str
) -> None:
    watched = befall(service, first_tries(FAULTS[kind]))

    try:
        asyncio.run(limited(CALLS[service](place)))
    except MipError as error:
        pytest.fail(f"{error.code}: {error}")

    assert {call.number for call in watched.tries} == {1, 2}
    assert watched.pauses
    if service == "API Gateway":
        assert received(place.socket) == JOB.job_id


def test_a_page_where_xml_is_expected_is_trouble_too(
    place: Place, befall: Callable[[str, Fault], Watched]
) -> None:
    """botocore raises an error of another kind for it, and does not try again."""
    befall("IAM", lambda _: UNAVAILABLE)

    with pytest.raises(TransientError, match="try again"):
        asyncio.run(limited(CALLS["IAM"](place)))
