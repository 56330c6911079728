"""Law P2 to the letter on AWS: a provisioner that dies after any call that changed something converges later.

Also P3 beyond whole pieces: what somebody changed by hand in a queue, role, log group or service is put right.
Without containers: the emulator then says that tasks run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from aws_workplace import Workplace

from aws_emulator import AwsEmulator
from aws_tables import KEYS
from medical_image_processing import naming
from medical_image_processing.control.admin import Admin
from medical_image_processing.control.provisioner.loop import Provisioner
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.errors import Conflict
from medical_image_processing.model.algorithm import Algorithm, AlgorithmPatch, AlgorithmSpec, AlgorithmStatus
from medical_image_processing.pacs.keys import HashedKeys
from medical_image_processing.ports.resources import Observed
from medical_image_processing.testing.registry_contract import a_spec

IMAGE = f"registry.local/algos@sha256:{'a' * 64}"
ALGO = "liver"
MOST_CALLS = 40


class Crash(BaseException):
    """The provisioner's process ended here."""


class CrashAfter:
    """Lets a number of changing calls happen, and then the process ends."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.last = ""

    def __call__(self, action: str, _: Mapping[str, Any]) -> None:
        self._left -= 1
        self.last = action
        if self._left == 0:
            raise Crash


def spec(algo_id: str = ALGO, **changes: Any) -> AlgorithmSpec:
    return a_spec(algo_id, image_uri=IMAGE, **changes)


def provisioner(engine: AwsEngine) -> Provisioner:
    return Provisioner(engine.registry, engine.resources, engine.jobs, None)  # type: ignore[arg-type]


def admin(engine: AwsEngine) -> Admin:
    return Admin(engine.registry, engine.jobs)


async def settle(engine: AwsEngine, algo_id: str = ALGO) -> Algorithm | None:
    """Converged, which a second look confirms (P1)."""
    await provisioner(engine).reconcile(algo_id)
    assert await provisioner(engine).reconcile(algo_id) == ()
    return await engine.registry.get(algo_id)


def assert_whole(observed: Observed, record: Algorithm) -> None:
    task = record.task_fingerprint()
    assert observed.queue_url and observed.dead_letter_queue and observed.log_group and not observed.drifted
    assert observed.role_is_legacy is record.legacy_output_keys
    assert observed.task_definitions.keys() == {task}
    assert observed.service is not None
    assert (observed.service.task_fingerprint, observed.service.desired_count) == (task, record.desired_count)


def assert_key_opens_the_pacs(workplace: Workplace, algo_id: str) -> None:
    """The key that ECS hands to workers is known to the PACS by its digest."""
    name = naming.pacs_key_parameter(algo_id)
    key = workplace.boto("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    digest = {"pk": {"S": f"pacs-key#{HashedKeys.digest(key)}"}}
    item = workplace.boto("dynamodb").get_item(TableName=KEYS, Key=digest).get("Item")
    assert item is not None and item["algo_id"]["S"] == algo_id


def role_item(workplace: Workplace, algo_id: str) -> dict[str, Any]:
    """The key of what is on record of the algorithm's role."""
    role = workplace.boto("iam").get_role(RoleName=naming.role(algo_id))["Role"]
    return {"pk": {"S": f"role#{role['RoleId']}"}}


def assert_role_is_known(workplace: Workplace, algo_id: str) -> None:
    """Delivery will know by the role's id whose reports it sends."""
    key = role_item(workplace, algo_id)
    item = workplace.boto("dynamodb").get_item(TableName=KEYS, Key=key).get("Item")
    assert item == {**key, "algo_id": {"S": algo_id}}


def assert_nothing_left(workplace: Workplace, algo_id: str) -> None:
    """Also of what the port does not show: the PACS key and what it opens. Whose a role was stays."""
    items = workplace.boto("dynamodb").scan(TableName=KEYS)["Items"]
    left = [
        item for item in items if algo_id in (item.get("algo_id", {}).get("S"), item["pk"]["S"].partition("#")[2])
    ]
    assert [item for item in left if not item["pk"]["S"].startswith("role#")] == []
    parameters = workplace.boto("ssm").describe_parameters()["Parameters"]
    assert naming.pacs_key_parameter(algo_id) not in [parameter["Name"] for parameter in parameters]


@pytest.fixture(scope="module")
def workplace(aws_emulator: AwsEmulator) -> Iterator[Workplace]:
    made = Workplace.prepare(aws_emulator)
    yield made
    made.close()


Work = Callable[[AwsEngine, str], Awaitable[None]]


async def register(engine: AwsEngine, algo_id: str) -> None:
    await admin(engine).register(spec(algo_id), actor="anna")


async def registered(engine: AwsEngine, algo_id: str) -> None:
    await register(engine, algo_id)
    await settle(engine, algo_id)


async def change(engine: AwsEngine, algo_id: str) -> None:
    patch = AlgorithmPatch(env={"NEW": "1"}, desired_count=2, legacy_output_keys=True)
    await admin(engine).update(algo_id, patch, actor="anna")


async def remove(engine: AwsEngine, algo_id: str) -> None:
    await admin(engine).remove(algo_id, actor="anna", force=True)


async def _nothing(engine: AwsEngine, algo_id: str) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "decide"),
    [(_nothing, register), (registered, change), (registered, remove)],
    ids=lambda f: f.__name__,
)
def test_p2_dead_after_any_call_that_changed_something_it_converges(
    workplace: Workplace, before: Work, decide: Work
) -> None:
    async def crash_after(count: int) -> str | None:
        """The call it died after; None when it was through before."""
        algo_id = f"{decide.__name__}-{count}"
        whole = workplace.engine()
        await before(whole, algo_id)
        await decide(whole, algo_id)
        crash = CrashAfter(count)
        dying = workplace.engine(crash)
        try:
            await provisioner(dying).reconcile(algo_id)
        except Crash:
            pass
        else:
            crash.last = ""
        record = await settle(whole, algo_id)
        observed = await whole.resources.observe(algo_id)
        if decide is remove:
            assert record is None and observed.is_empty, crash.last
            assert_nothing_left(workplace, algo_id)
        else:
            assert record is not None and record.status is AlgorithmStatus.ACTIVE
            assert_whole(observed, record)
            assert_key_opens_the_pacs(workplace, algo_id)
            assert_role_is_known(workplace, algo_id)
        return crash.last or None

    async def run() -> list[str]:
        died_after: list[str] = []
        for count in range(1, MOST_CALLS):
            if (action := await crash_after(count)) is None:
                return died_after
            died_after.append(action)
        raise AssertionError(f"more than {MOST_CALLS} changing calls: {died_after}")

    died_after = asyncio.run(run())
    services = {action.partition(":")[0] for action in died_after}
    wanted = {"sqs", "iam", "ssm", "logs", "ecs", "dynamodb"}
    assert services >= (wanted if decide is not change else {"iam", "ecs", "dynamodb"}), died_after


def test_p7_no_call_stops_a_task_and_each_has_the_most_time_to_end(workplace: Workplace) -> None:
    calls: list[tuple[str, Mapping[str, Any]]] = []

    async def run() -> None:
        engine = workplace.engine(lambda action, parameters: calls.append((action, parameters)))
        await registered(engine, "gentle")
        await change(engine, "gentle")
        await settle(engine, "gentle")
        await remove(engine, "gentle")
        assert await settle(engine, "gentle") is None

    asyncio.run(run())
    made = [action for action, _ in calls]
    assert "ecs:StopTask" not in made
    for action, parameters in calls:
        match action:
            case "ecs:RegisterTaskDefinition":
                [container] = parameters["containerDefinitions"]
                assert container["stopTimeout"] == 120
                environment = {pair["name"]: pair["value"] for pair in container["environment"]}
                assert 100 < int(environment["MIP_STOP_TIMEOUT_S"]) < 120
            case "ecs:CreateService" | "ecs:UpdateService" if "deploymentConfiguration" in parameters:
                how = parameters["deploymentConfiguration"]
                assert (how["minimumHealthyPercent"], how["maximumPercent"]) == (100, 200)
                assert how["deploymentCircuitBreaker"] == {"enable": True, "rollback": False}
            case "ecs:DeleteService":
                assert not parameters.get("force")
    last_counts = [parameters["desiredCount"] for action, parameters in calls if action == "ecs:UpdateService"]
    assert last_counts[-1] == 0 and made.index("ecs:DeleteService") > made.index("ecs:UpdateService")


def test_a1_whose_a_role_is_is_kept_before_it_may_do_anything_and_stays(workplace: Workplace) -> None:
    calls: list[str] = []

    def watch(action: str, parameters: Mapping[str, Any]) -> None:
        is_role = parameters.get("Item", {}).get("pk", {}).get("S", "").startswith("role#")
        calls.append("known" if is_role else action)

    async def run() -> None:
        await registered(workplace.engine(watch), "sender")
        assert_role_is_known(workplace, "sender")
        assert calls.index("iam:CreateRole") < calls.index("known") < calls.index("iam:PutRolePolicy")
        # As after a crash between the two, or of a role that was made before such things were kept.
        key = role_item(workplace, "sender")
        workplace.boto("dynamodb").delete_item(TableName=KEYS, Key=key)
        assert (await workplace.engine().resources.observe("sender")).drifted == {"role"}
        await settle(workplace.engine(), "sender")
        assert_role_is_known(workplace, "sender")
        engine = workplace.engine()
        await remove(engine, "sender")
        assert await settle(engine, "sender") is None
        assert "Item" in workplace.boto("dynamodb").get_item(TableName=KEYS, Key=key)

    asyncio.run(run())


def test_a_workers_task_is_confined(workplace: Workplace) -> None:
    async def run() -> None:
        engine = workplace.engine()
        record = spec("confined", command=("/app/run.sh", "--fast"), env={"EXTRA": "1", "OMP_NUM_THREADS": "3"})
        await admin(engine).register(record, actor="anna")
        await settle(engine, "confined")

    asyncio.run(run())
    found = workplace.boto("ecs").describe_task_definition(taskDefinition=naming.service("confined"))
    task = found["taskDefinition"]
    [container] = task["containerDefinitions"]
    assert (task["networkMode"], task["requiresCompatibilities"]) == ("awsvpc", ["FARGATE"])
    assert (task["cpu"], task["memory"]) == ("1024", "2048")
    assert task["executionRoleArn"] == workplace.settings.execution_role
    assert task["taskRoleArn"].endswith(f":role/mip/{naming.role('confined')}")
    assert (container["entryPoint"], container["command"]) == (["/app/run.sh"], ["--fast"])
    assert container["image"] == IMAGE and container["readonlyRootFilesystem"] is True
    assert container["user"] == "10001:10001" and "privileged" not in container
    linux = container["linuxParameters"]
    assert linux["capabilities"] == {"drop": ["ALL"]}
    [tmp] = linux["tmpfs"]
    assert (tmp["containerPath"], tmp["size"]) == ("/tmp", 1024) and {"nosuid", "nodev"} <= {*tmp["mountOptions"]}
    environment = {pair["name"]: pair["value"] for pair in container["environment"]}
    assert {"EXTRA": "1", "OMP_NUM_THREADS": "3", "ALGO_ID": "confined"}.items() <= environment.items()
    assert not {name for name in environment if "KEY" in name or "SECRET" in name}
    [secret] = container["secrets"]
    assert secret["name"] == "PACS_API_KEY" and secret["valueFrom"].endswith(":parameter/mip/confined/pacs-key")
    [service] = workplace.boto("ecs").describe_services(cluster="mip", services=[naming.service("confined")])[
        "services"
    ]
    network = service["networkConfiguration"]["awsvpcConfiguration"]
    assert network["assignPublicIp"] == "DISABLED"
    assert service["propagateTags"] == "SERVICE", "the worker may protect tasks of its algorithm by their tag"
    parameter = workplace.boto("ssm").get_parameter(Name=naming.pacs_key_parameter("confined"))["Parameter"]
    assert parameter["Type"] == "SecureString"


def by_hand(workplace: Workplace, what: str) -> None:
    """Somebody's change behind the platform's back."""
    sqs, iam, ecs, logs = (workplace.boto(name) for name in ("sqs", "iam", "ecs", "logs"))
    ssm = workplace.boto("ssm")
    queue = sqs.get_queue_url(QueueName=naming.queue(ALGO))["QueueUrl"]
    dead = sqs.get_queue_url(QueueName=naming.dead_letter_queue(ALGO))["QueueUrl"]
    role, service = naming.role(ALGO), naming.service(ALGO)
    anyone = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    stranger = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
    match what:
        case "visibility":
            sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "900"})
        case "redrive":
            sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": ""})
        case "retention of dead letters":
            sqs.set_queue_attributes(QueueUrl=dead, Attributes={"MessageRetentionPeriod": "60"})
        case "dead letters that go on":
            arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": 1}
            sqs.set_queue_attributes(QueueUrl=dead, Attributes={"RedrivePolicy": json.dumps(redrive)})
        case "a queue open to others":
            sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(anyone)})
        case "the role's policy":
            iam.put_role_policy(RoleName=role, PolicyName="worker", PolicyDocument=json.dumps(anyone))
        case "no policy":
            iam.delete_role_policy(RoleName=role, PolicyName="worker")
        case "another policy":
            iam.put_role_policy(RoleName=role, PolicyName="more", PolicyDocument=json.dumps(anyone))
        case "a managed policy":
            iam.attach_role_policy(RoleName=role, PolicyArn=workplace.settings.task_boundary)
        case "no boundary":
            iam.delete_role_permissions_boundary(RoleName=role)
        case "trust":
            iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(stranger))
        case "the PACS key":
            ssm.delete_parameter(Name=naming.pacs_key_parameter(ALGO))
        case "logs kept for ever":
            logs.delete_retention_policy(logGroupName=naming.log_group(ALGO))
        case "the count":
            ecs.update_service(cluster="mip", service=service, desiredCount=5)
        case "a task definition of somebody's":
            made = ecs.register_task_definition(
                family=service, containerDefinitions=[{"name": "x", "image": "x"}], tags=[]
            )
            arn = made["taskDefinition"]["taskDefinitionArn"]
            ecs.update_service(cluster="mip", service=service, taskDefinition=arn)
        case "the network":
            vpc = {"subnets": ["subnet-public"], "securityGroups": ["sg-1"], "assignPublicIp": "ENABLED"}
            ecs.update_service(cluster="mip", service=service, networkConfiguration={"awsvpcConfiguration": vpc})


DRIFTS = (
    "visibility",
    "redrive",
    "retention of dead letters",
    "dead letters that go on",
    "a queue open to others",
    "the role's policy",
    "no policy",
    "another policy",
    "a managed policy",
    "no boundary",
    "trust",
    "the PACS key",
    "logs kept for ever",
    "the count",
    "a task definition of somebody's",
    "the network",
)


@pytest.fixture(scope="module")
def drifting(workplace: Workplace) -> Workplace:
    asyncio.run(registered(workplace.engine(), ALGO))
    return workplace


@pytest.mark.parametrize("what", DRIFTS)
def test_p3_what_somebody_changed_by_hand_is_put_right(drifting: Workplace, what: str) -> None:
    async def run() -> None:
        engine = drifting.engine()
        by_hand(drifting, what)
        assert await provisioner(engine).reconcile(ALGO), f"nobody noticed: {what}"
        record = await settle(engine)
        assert record is not None
        assert_whole(await engine.resources.observe(ALGO), record)
        assert_key_opens_the_pacs(drifting, ALGO)

    asyncio.run(run())


def test_p4_a_hard_delete_takes_away_also_what_somebody_changed_by_hand(workplace: Workplace) -> None:
    async def run() -> None:
        engine = workplace.engine()
        if await engine.registry.get(ALGO) is None:
            await registered(engine, ALGO)
        for what in DRIFTS:
            by_hand(workplace, what)
        await remove(engine, ALGO)
        assert await settle(engine) is None
        assert (await engine.resources.observe(ALGO)).is_empty
        assert_nothing_left(workplace, ALGO)

    asyncio.run(run())


def test_two_provisioners_at_once_make_one_of_everything(workplace: Workplace) -> None:
    async def run() -> None:
        engine = workplace.engine()
        await register(engine, "twice")
        both = await asyncio.gather(
            *(provisioner(workplace.engine()).reconcile("twice") for _ in range(2)), return_exceptions=True
        )
        assert any(not isinstance(each, BaseException) for each in both), both
        record = await settle(engine, "twice")
        assert record is not None
        assert_whole(await engine.resources.observe("twice"), record)

    asyncio.run(run())


def test_algorithms_whose_names_begin_alike_are_kept_apart(workplace: Workplace) -> None:
    async def run() -> None:
        engine = workplace.engine()
        for algo_id in ("ab", "ab-c", "ab-c-d"):
            await registered(engine, algo_id)
        await remove(engine, "ab")
        assert await settle(engine, "ab") is None
        for algo_id in ("ab-c", "ab-c-d"):
            record = await engine.registry.get(algo_id)
            assert record is not None
            assert_whole(await engine.resources.observe(algo_id), record)

    asyncio.run(run())


def test_a_deployment_with_other_settings_replaces_the_workers_of_every_algorithm(workplace: Workplace) -> None:
    async def run() -> None:
        before = workplace.engine()
        await registered(before, "moves")
        first = (await before.resources.observe("moves")).task_definitions
        after = workplace.with_settings(MIP_PACS_API_BASE="http://elsewhere/pacs").engine()
        assert await provisioner(after).reconcile("moves")
        record = await settle(after, "moves")
        assert record is not None
        second = await after.resources.observe("moves")
        assert_whole(second, record)
        assert second.task_definitions != first

    asyncio.run(run())


def test_more_task_definitions_than_one_page_are_all_found_and_removed(workplace: Workplace) -> None:
    async def run() -> None:
        engine, ecs = workplace.engine(), workplace.boto("ecs")
        await registered(engine, "many")
        for _ in range(105):
            ecs.register_task_definition(
                family=naming.service("many"), containerDefinitions=[{"name": "x", "image": "x"}]
            )
        record = await settle(engine, "many")
        assert record is not None
        assert_whole(await engine.resources.observe("many"), record)

    asyncio.run(run())


def test_a_role_of_that_name_that_is_not_the_platforms_is_left_alone_and_said_to_be_in_the_way(
    workplace: Workplace,
) -> None:
    name, iam = naming.role("taken"), workplace.boto("iam")
    trust = iam.get_role(RoleName="TaskExecutionRole")["Role"]["AssumeRolePolicyDocument"]
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))

    async def run() -> None:
        engine = workplace.engine()
        await register(engine, "taken")
        with pytest.raises(Conflict, match="under the path /, which is not the platform's"):
            await provisioner(engine).reconcile("taken")
        record = await engine.registry.get("taken")
        assert record is not None and record.status is AlgorithmStatus.FAILED

    asyncio.run(run())
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == []
