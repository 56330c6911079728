"""What ECS, SQS, IAM and ECR may say that the emulator never does, in their documented shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aws_workplace import SECURITY_GROUP, SUBNETS, Answering, Workplace

from aws_emulator import REGION, AwsEmulator
from medical_image_processing import naming
from medical_image_processing.engines.aws.images import Images
from medical_image_processing.engines.aws.resources import AwsResources
from medical_image_processing.engines.embedded.task import Task
from medical_image_processing.errors import MipError, PermanentError, Throttled, TransientError
from medical_image_processing.model.algorithm import AlgorithmSpec
from medical_image_processing.ports.resources import ServiceState
from medical_image_processing.testing.registry_contract import a_spec
from medical_image_processing.testing.resources_contract import ALGO

DIGEST = f"sha256:{'a' * 64}"
NOW = datetime.now(UTC)
SERVICE = naming.service(ALGO)


def spec(**changes: Any) -> AlgorithmSpec:
    return a_spec(ALGO, image_uri=f"registry.local/algos@{DIGEST}", **changes)


class Ecs:
    """An ECS that has the puppet's service, and answers as it is told."""

    def __init__(self, workplace: Workplace, answering: Answering) -> None:
        self.answering = answering
        self.resources = AwsResources(self.answering.clients, workplace.settings)
        self.definition = f"arn:aws:ecs:{REGION}:{workplace.account.account}:task-definition/{SERVICE}:1"
        vpc = {
            "subnets": list(SUBNETS),
            "securityGroups": [SECURITY_GROUP],
            "assignPublicIp": "DISABLED",
        }
        self.service: dict[str, Any] = {
            "serviceName": SERVICE,
            "status": "ACTIVE",
            "taskDefinition": self.definition,
            "desiredCount": 1,
            "networkConfiguration": {"awsvpcConfiguration": vpc},
            "deployments": [
                {"status": "PRIMARY", "rolloutState": "COMPLETED", "createdAt": NOW, "updatedAt": NOW}
            ],
            "events": [],
        }
        self.has(self.service)
        self.runs()

    def has(self, service: dict[str, Any] | None) -> None:
        said = {"services": [service], "failures": []} if service else {"services": [], "failures": [MISSING]}
        self.answering.says("DescribeServices", said)

    def runs(self, *tasks: dict[str, Any]) -> None:
        arns = [f"arn:aws:ecs:{REGION}:000000000000:task/mip/{number}" for number in range(len(tasks))]
        common = {"group": f"service:{SERVICE}", "taskDefinitionArn": self.definition}
        told = [{"taskArn": arn, **common, **task} for arn, task in zip(arns, tasks, strict=True)]
        self.answering.says("ListTasks", {"taskArns": arns})
        self.answering.says("DescribeTasks", {"tasks": told})

    def state(self) -> ServiceState | None:
        return asyncio.run(self.resources.observe(ALGO)).service

    def failure(self) -> str:
        state = self.state()
        assert state is not None
        return state.failure or ""

    def put(self, desired_count: int = 1) -> None:
        asyncio.run(
            self.resources.put_service(
                ALGO, task_fingerprint=spec().task_fingerprint(), desired_count=desired_count
            )
        )


MISSING = {"reason": "MISSING", "arn": f"service/{SERVICE}"}


def running(status: str = "RUNNING", *, seconds: float = 60) -> dict[str, Any]:
    return {"lastStatus": status, "startedAt": datetime.now(UTC) - timedelta(seconds=seconds)}


def stopped(
    *,
    code: str = "EssentialContainerExited",
    reason: str = "Essential container in task exited",
    exit_code: int | None = None,
    container: str | None = None,
    lived_s: float = 2,
    ago_s: float = 10,
) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    task: dict[str, Any] = {
        "lastStatus": "STOPPED",
        "stopCode": code,
        "stoppedReason": reason,
        "stoppedAt": at,
        "containers": [{"name": "worker"}],
    }
    if code != "TaskFailedToStart":
        task["startedAt"] = at - timedelta(seconds=lived_s)
    if exit_code is not None:
        task["containers"][0]["exitCode"] = exit_code
    if container is not None:
        task["containers"][0]["reason"] = container
    return task


@pytest.fixture(scope="module")
def workplace(aws_emulator: AwsEmulator) -> Iterator[Workplace]:
    made = Workplace.prepare(aws_emulator)
    resources = made.engine().resources
    asyncio.run(resources.create_queues(ALGO))
    asyncio.run(resources.create_log_group(ALGO))
    asyncio.run(resources.register_task_definition(spec(), revision=1))
    yield made
    made.close()


@pytest.fixture(scope="module")
def answering(workplace: Workplace) -> Iterator[Answering]:
    made = Answering(workplace)
    yield made
    made.clients.close()


@pytest.fixture
def ecs(workplace: Workplace, answering: Answering) -> Ecs:
    answering.forget()
    return Ecs(workplace, answering)


@pytest.mark.parametrize(
    "status", ["PROVISIONING", "PENDING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING"]
)
def test_s4_p7_a_task_counts_until_it_has_stopped(ecs: Ecs, status: str) -> None:
    ecs.service["desiredCount"] = 0
    ecs.runs(running(status), stopped(code="ServiceSchedulerInitiated", exit_code=0))
    state = ecs.state()
    assert state and (state.desired_count, state.running_count, state.failure) == (0, 1, None)


def test_s4_p7_a_service_goes_only_when_no_task_is_left(ecs: Ecs) -> None:
    for status in ("RUNNING", "STOPPING"):
        ecs.runs(running(status))
        ecs.service["desiredCount"] = 1
        ecs.answering.says("UpdateService", {})
        asyncio.run(ecs.resources.delete_service(ALGO))
        assert "UpdateService" in ecs.answering.asked and "DeleteService" not in ecs.answering.asked
        ecs.service["desiredCount"] = 0
        asyncio.run(ecs.resources.delete_service(ALGO))
        assert "DeleteService" not in ecs.answering.asked, status
    ecs.runs(stopped(code="ServiceSchedulerInitiated", exit_code=0))
    ecs.answering.says("DeleteService", {})
    asyncio.run(ecs.resources.delete_service(ALGO))
    assert "DeleteService" in ecs.answering.asked


@pytest.mark.parametrize(("status", "tasks", "is_there"), [("INACTIVE", 1, False), ("DRAINING", 1, True)])
def test_s2_a_service_that_ends_is_there_while_something_of_it_runs(
    ecs: Ecs, status: str, tasks: int, is_there: bool
) -> None:
    ecs.service |= {"status": status, "desiredCount": 0}
    ecs.runs(*[running("STOPPING")] * tasks)
    assert (ecs.state() is not None) is is_there
    ecs.runs()
    assert ecs.state() is None
    ecs.has(None)
    assert ecs.state() is None
    ecs.answering.refuses("DescribeServices", "ServiceNotFoundException")
    assert ecs.state() is None
    assert asyncio.run(ecs.resources.delete_service(ALGO)) is None


def test_s1_a_service_that_drains_is_put_when_it_is_gone(ecs: Ecs) -> None:
    ecs.service["status"] = "DRAINING"
    with pytest.raises(TransientError, match="SERVICE_DRAINING"):
        ecs.put()
    ecs.has(None)
    ecs.answering.refuses(
        "CreateService",
        "InvalidParameterException",
        "Unable to Start a service that is still Draining.",
    )
    with pytest.raises(TransientError, match="SERVICE_DRAINING"):
        ecs.put()
    ecs.service["status"] = "ACTIVE"
    ecs.has(ecs.service)
    ecs.answering.refuses("UpdateService", "ServiceNotActiveException", "Service was not ACTIVE.")
    with pytest.raises(TransientError, match="SERVICE_DRAINING"):
        ecs.put(2)


def test_s1_a_service_that_is_as_it_should_be_is_not_touched(ecs: Ecs, workplace: Workplace) -> None:
    found = asyncio.run(ecs.resources.observe(ALGO)).task_definitions
    ecs.service["taskDefinition"] = found[spec().task_fingerprint()].name
    ecs.put()
    assert "UpdateService" not in ecs.answering.asked
    ecs.answering.says("UpdateService", {})
    ecs.put(2)
    assert "UpdateService" in ecs.answering.asked


@pytest.mark.parametrize(
    ("deaths", "told"),
    [
        (
            stopped(
                code="TaskFailedToStart",
                reason="CannotPullContainerError: pull image manifest has been retried 1 time(s): not found",
            ),
            ("can't be pulled", "not found", "execution role"),
        ),
        (
            stopped(
                code="TaskFailedToStart",
                reason="ResourceInitializationError: unable to pull secrets or registry auth: timed out",
            ),
            ("PACS key can't be read",),
        ),
        (
            stopped(code="TaskFailedToStart", reason="ECS was unable to assume the role 'arn:aws:iam::1:role/x'"),
            ("can't be taken by ECS",),
        ),
        (
            stopped(
                code="TaskFailedToStart",
                reason='CannotStartContainerError: exec: "/app/nothing.sh": no such file or directory',
            ),
            ("is its command in the image?", "/app/nothing.sh"),
        ),
        (
            stopped(exit_code=137, container="OutOfMemoryError: Container killed due to memory usage"),
            ("ran out of memory", "2048 MiB", "give the algorithm more"),
        ),
        (stopped(exit_code=137), ("was killed by signal 9",)),
        (stopped(exit_code=139), ("was ended by signal 11",)),
        (stopped(exit_code=3), ("ended with exit status 3", "it logged nothing")),
        (stopped(exit_code=0), ("ended with exit status 0",)),
        (stopped(exit_code=78), ("exit status 78", "can't be loaded")),
        (stopped(code="TaskFailedToStart", reason=""), ("can't be started", "no reason")),
    ],
)
def test_s5_p5_why_workers_do_not_stay_up_is_said_so_that_one_can_act(
    ecs: Ecs, deaths: dict[str, Any], told: tuple[str, ...]
) -> None:
    ecs.runs(deaths, deaths)
    assert ecs.failure() == "", "two deaths are no failure yet"
    ecs.runs(deaths, deaths, deaths)
    said = ecs.failure()
    assert said.startswith("the worker ") and "\n" not in said
    for words in told:
        assert words in said


def test_s5_the_last_death_is_the_one_that_is_told_with_what_the_worker_said(
    ecs: Ecs, workplace: Workplace
) -> None:
    logs, group = workplace.boto("logs"), naming.log_group(ALGO)
    logs.create_log_stream(logGroupName=group, logStreamName="mip/worker/2")
    lines = ['{"level": "INFO", "message": "before"}', '{"message": "no\\nsuch mip-pacs-SECRET_key"}', " "]
    now = int(NOW.timestamp() * 1000)
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(logGroupName=group, logStreamName="mip/worker/2", logEvents=events)
    ecs.runs(stopped(exit_code=3, ago_s=30), stopped(exit_code=3, ago_s=20), stopped(exit_code=4, ago_s=1))
    assert ecs.failure() == "the worker ended with exit status 4: no such (a key)"


def test_s5_deaths_of_jobs_and_of_earlier_tasks_are_not_the_services(ecs: Ecs) -> None:
    quick, late = stopped(exit_code=9), stopped(exit_code=9, lived_s=600)
    ecs.runs(late, late, late, late)
    assert ecs.failure() == "", "each of them had come up"
    hung = stopped(exit_code=75)
    ecs.runs(*[hung] * 7)
    assert ecs.failure() == "", "each ended itself after a job that hung"
    ecs.runs(*[hung] * 8)
    assert "exit status 75" in ecs.failure()
    ecs.runs(quick, quick, quick, running(seconds=5))
    assert "exit status 9" in ecs.failure(), "the one that runs may die as well"
    ecs.runs(*[stopped(exit_code=9, ago_s=50)] * 3, running(seconds=40))
    assert ecs.failure() == "", "one has come up since"
    ecs.runs(*[{**quick, "taskDefinitionArn": f"{ecs.definition}1"}] * 5)
    assert ecs.failure() == "", "they were of another task definition"
    ecs.runs(*[stopped(code="ServiceSchedulerInitiated", exit_code=1)] * 5)
    assert ecs.failure() == "", "they were asked to stop"


def test_s5_p5_a_deployment_that_ecs_gave_up_is_said_and_tried_again_later(ecs: Ecs) -> None:
    found = asyncio.run(ecs.resources.observe(ALGO)).task_definitions
    ecs.service["taskDefinition"] = found[spec().task_fingerprint()].name
    [deployment] = ecs.service["deployments"]
    deployment |= {
        "rolloutState": "FAILED",
        "rolloutStateReason": "ECS deployment circuit breaker: tasks failed.",
        "updatedAt": datetime.now(UTC) - timedelta(minutes=5),
    }
    state = ecs.state()
    assert state and state.desired_count == 1
    assert state.failure == "ECS has given up starting workers: ECS deployment circuit breaker: tasks failed."
    deployment["updatedAt"] = datetime.now(UTC) - timedelta(minutes=20)
    state = ecs.state()
    assert state and state.desired_count == 0, "the plan sees a count to be put right"
    assert asyncio.run(ecs.resources.worker_counts([ALGO])) == {ALGO: 0}
    asked: dict[str, Any] = {}
    client = ecs.answering.clients.client("ecs").boto
    event = "provide-client-params.ecs.UpdateService"

    def note(params: dict[str, Any], **_: Any) -> None:
        asked.update(params)

    client.meta.events.register(event, note)
    ecs.answering.says("UpdateService", {})
    ecs.put()
    client.meta.events.unregister(event, note)
    assert asked["forceNewDeployment"] is True


def test_s5_workers_that_ecs_cannot_even_place_are_told_of(ecs: Ecs) -> None:
    message = f"(service {SERVICE}) was unable to place a task. Reason: Capacity is unavailable at this time."
    event = {"id": "e", "createdAt": NOW + timedelta(seconds=5), "message": message}
    ecs.service["events"] = [event]
    assert ecs.failure() == "", "once may be chance"
    ecs.service["events"] = [event, {**event, "id": "f"}]
    assert ecs.failure() == f"ECS can't start a worker: {message}"
    ecs.runs(running())
    assert ecs.failure() == ""
    ecs.runs()
    ecs.service["events"] = [{**event, "createdAt": NOW - timedelta(hours=1)}] * 2
    assert ecs.failure() == "", "that was an earlier deployment"


def test_s1_a_queue_deleted_a_moment_ago_is_made_later(ecs: Ecs) -> None:
    code = "AWS.SimpleQueueService.QueueDeletedRecently"
    ecs.answering.refuses("GetQueueAttributes", "AWS.SimpleQueueService.NonExistentQueue")
    ecs.answering.refuses("CreateQueue", code, "You must wait 60 seconds after deleting a queue")
    with pytest.raises(TransientError, match=r"QUEUE_DELETED_RECENTLY.*60 s") as raised:
        asyncio.run(ecs.resources.create_queues(ALGO))
    assert raised.value.retry_after_s == 60


@pytest.mark.parametrize(
    ("operation", "code", "message"),
    [
        ("RegisterTaskDefinition", "ClientException", "Role is not valid"),
        ("CreateService", "InvalidParameterException", "Unable to assume the service linked role."),
    ],
)
def test_a_role_that_aws_does_not_know_yet_is_waited_for(
    ecs: Ecs, operation: str, code: str, message: str
) -> None:
    ecs.has(None)
    ecs.answering.refuses(operation, code, message)
    with pytest.raises(TransientError, match="ROLE_NOT_KNOWN_YET"):
        if operation == "CreateService":
            ecs.put()
        else:
            asyncio.run(ecs.resources.register_task_definition(spec(cpu=2048, memory=4096), revision=2))


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("PutRolePolicy", "NoSuchEntity"),
        ("PutRolePolicy", "ConcurrentModification"),
        ("PutRetentionPolicy", "ResourceNotFoundException"),
        ("PutRetentionPolicy", "OperationAbortedException"),
    ],
)
def test_what_aws_has_not_settled_yet_is_waited_for(ecs: Ecs, operation: str, code: str) -> None:
    ecs.answering.refuses(operation, code)
    with pytest.raises(TransientError, match="NOT_SETTLED"):
        if operation == "PutRolePolicy":
            asyncio.run(ecs.resources.put_role("settling", legacy_output_keys=False))
        else:
            asyncio.run(ecs.resources.create_log_group(f"settling-{code.lower()}"))


def test_what_aws_refuses_for_good_is_not_called_passing(ecs: Ecs) -> None:
    ecs.answering.refuses("RegisterTaskDefinition", "ClientException", "Invalid 'cpu' setting for task.")
    with pytest.raises(PermanentError, match="ECS register_task_definition was refused: ClientException"):
        asyncio.run(ecs.resources.register_task_definition(spec(cpu=2048, memory=4096), revision=2))


async def _each_step(resources: AwsResources, operation: str) -> None:
    one = spec(env={"A": "1"})
    match operation:
        case "CreateQueue":
            await resources.create_queues("fresh")
        case "CreateRole" | "PutParameter":
            await resources.put_role(f"fresh-{operation.lower()}", legacy_output_keys=False)
        case "CreateLogGroup":
            await resources.create_log_group("fresh")
        case "RegisterTaskDefinition":
            await resources.register_task_definition(one, revision=2)
        case "DescribeServices" | "ListTasks":
            await resources.observe(ALGO)


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ("CreateQueue", "RequestThrottled"),
        ("CreateRole", "Throttling"),
        ("PutParameter", "ThrottlingException"),
        ("CreateLogGroup", "ThrottlingException"),
        ("RegisterTaskDefinition", "ThrottlingException"),
        ("DescribeServices", "ThrottlingException"),
        ("ListTasks", "ThrottlingException"),
    ],
)
def test_throttling_that_outlasts_the_retries_is_passing(ecs: Ecs, operation: str, code: str) -> None:
    ecs.answering.refuses(operation, code, "Rate exceeded")
    with pytest.raises(Throttled):
        asyncio.run(_each_step(ecs.resources, operation))


def test_a_worker_is_told_what_the_embedded_engine_tells_it(workplace: Workplace) -> None:
    asked = a_spec("all-outputs", image_uri=spec().image_uri, outputs=("SC", "SEG", "SR"), env={"MODEL": "a"})
    asyncio.run(workplace.engine().resources.register_task_definition(asked, revision=7))
    found = workplace.boto("ecs").describe_task_definition(taskDefinition=naming.service("all-outputs"))
    (container,) = found["taskDefinition"]["containerDefinitions"]
    environment = {pair["name"]: pair["value"] for pair in container["environment"]}
    embedded = Task.of(asked, revision=7, runtime="docker", image_digest=DIGEST).environment({})
    assert environment["MIP_OUTPUTS"] == "SC,SEG,SR"
    assert embedded.items() <= environment.items()


ECR = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"


@pytest.mark.parametrize(
    ("image", "pinned"),
    [
        (f"{ECR}/mip-algos:liver", f"{ECR}/mip-algos@{DIGEST}"),
        (f"{ECR}/mip-algos", f"{ECR}/mip-algos@{DIGEST}"),
        (f"{ECR}/team/algos:1.0-rc.1", f"{ECR}/team/algos@{DIGEST}"),
        (f"{ECR}/mip-algos@{DIGEST}", f"{ECR}/mip-algos@{DIGEST}"),
        (f"example.org/x@{DIGEST}", f"example.org/x@{DIGEST}"),
        (f"127.0.0.1:5000/x@{DIGEST}", f"127.0.0.1:5000/x@{DIGEST}"),
    ],
)
def test_an_images_tag_is_pinned_to_what_it_means_now(ecs: Ecs, image: str, pinned: str) -> None:
    ecs.answering.says("DescribeImages", {"imageDetails": [{"imageDigest": DIGEST}]})
    found = asyncio.run(Images(ecs.answering.clients).pin(image))
    assert (found.uri, found.digest) == (pinned, DIGEST)


@pytest.mark.parametrize(
    ("image", "code", "advice"),
    [
        ("liver:1", "IMAGE_NOT_PINNED", "push it there"),
        ("example.org/liver:1", "IMAGE_NOT_PINNED", "NAME@sha256"),
        ("liver@sha256:abc", "IMAGE_NOT_PINNED", "NAME@sha256"),
        (f"{ECR.replace(REGION, 'eu-west-1')}/liver:1", "IMAGE_IN_ANOTHER_REGION", "their region"),
        (f"{ECR}.evil.example/liver:1", "IMAGE_NOT_PINNED", "push it there"),
    ],
)
def test_an_image_that_cannot_be_pinned_is_refused_with_what_to_do(
    ecs: Ecs, image: str, code: str, advice: str
) -> None:
    with pytest.raises(PermanentError) as raised:
        asyncio.run(Images(ecs.answering.clients).pin(image))
    assert raised.value.code == code and advice in raised.value.message
    assert "DescribeImages" not in ecs.answering.asked


def test_an_image_that_ecr_lacks_is_told_by_what_is_missing(ecs: Ecs, workplace: Workplace) -> None:
    async def pin(tag: str) -> MipError | None:
        account = workplace.account.account
        uri = f"{account}.dkr.ecr.{REGION}.amazonaws.com/mip-algos:{tag}"
        try:
            await Images(ecs.answering.clients).pin(uri)
        except MipError as error:
            return error
        return None

    error = asyncio.run(pin("liver"))
    assert error and error.code == "IMAGE_NOT_FOUND" and "no such repository" in error.message
    ecr = workplace.boto("ecr")
    ecr.create_repository(repositoryName="mip-algos")
    error = asyncio.run(pin("liver"))
    assert error and error.code == "IMAGE_NOT_FOUND" and "no such tag" in error.message
    ecr.put_image(repositoryName="mip-algos", imageManifest='{"schemaVersion": 2}', imageTag="liver")
    assert asyncio.run(pin("liver")) is None
    ecs.answering.refuses("DescribeImages", "AccessDeniedException")
    error = asyncio.run(pin("liver"))
    assert error and error.code == "AWS_REFUSED" and "lacks the permission" in error.message
