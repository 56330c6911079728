"""Every call that provisioning makes is one that the template's role of the provisioner allows, as IAM decides.

The calls are those of a registration, a change, repairs and a removal on an emulator, which decides nothing of
IAM's own conditions; so they are noted, and judged on the template (iam_evaluation).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from iam_evaluation import ACCOUNT, REGION, is_allowed
from infra_template import Template

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from aws_workplace import Workplace
from test_provisioner_aws_crash import DRIFTS, by_hand, change, register, remove, settle
from test_rights import IAM, TO_ECS, boundary_of, cluster_of, named

from aws_emulator import AwsEmulator
from medical_image_processing import naming
from medical_image_processing.model.job import JobError, JobMessage, PacsRef, Scope

Parameters = Mapping[str, Any]
Need = tuple[str, str, dict[str, str]]

HERE = f"{REGION}:{ACCOUNT}"
TABLES = {f"mip-{name}": f"Tables{name.title()}" for name in ("algorithms", "audit", "jobs", "keys")}


class Calls:
    """What was called, and whether the role concerned had our boundary at that time."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._bounded: set[str] = set()
        self.needs: dict[str, list[Need]] = {}

    def note(self, action: str, parameters: Parameters) -> None:
        self.needs.setdefault(action, []).extend(self._needs(action, parameters))

    def lose_boundary(self, role: str) -> None:
        self._bounded.discard(role)

    def _needs(self, action: str, given: Parameters) -> Iterator[Need]:
        service, _, operation = action.partition(":")
        match service:
            case "sqs":
                name = given.get("QueueName") or given["QueueUrl"].rpartition("/")[2]
                yield action, f"arn:aws:sqs:{HERE}:{name}", {}
                if "tags" in given:
                    yield "sqs:TagQueue", f"arn:aws:sqs:{HERE}:{name}", {}
            case "iam":
                yield from self._needs_of_iam(action, given)
            case "ssm":
                yield action, f"arn:aws:ssm:{HERE}:parameter{given['Name']}", {}
                if "Tags" in given:
                    yield "ssm:AddTagsToResource", f"arn:aws:ssm:{HERE}:parameter{given['Name']}", {}
            case "logs":
                group = given.get("logGroupName") or given.get("logGroupNamePrefix")
                yield action, f"arn:aws:logs:{HERE}:log-group:{group}", {}
                if "tags" in given:
                    yield "logs:TagResource", f"arn:aws:logs:{HERE}:log-group:{group}", {}
            case "ecs":
                yield from self._needs_of_ecs(action, given)
            case "dynamodb":
                yield from self._needs_of_tables(operation, given)
            case _:
                raise AssertionError(f"nobody knows what {action} needs")

    def _needs_of_iam(self, action: str, given: Parameters) -> Iterator[Need]:
        name, ours = given["RoleName"], {"iam:PermissionsBoundary": boundary_of(self._template)}
        role = f"{IAM}:role{naming.ROLE_PATH}{name}"
        if "PermissionsBoundary" in given:
            self._bounded.add(name)
        yield action, role, ours if name in self._bounded else {}
        if action == "iam:CreateRole":
            assert given["Path"] == naming.ROLE_PATH
            yield "iam:TagRole", role, {}

    def _needs_of_ecs(self, action: str, given: Parameters) -> Iterator[Need]:
        name, arn = cluster_of(self._template)
        context = {"ecs:cluster": arn} if "cluster" in given else {}
        ecs = f"arn:aws:ecs:{HERE}"
        if services := given.get("services") or [given.get("serviceName") or given.get("service")]:
            for service in services:
                resource = f"{ecs}:service/{name}/{service}"
        if action in ("ecs:ListTasks", "ecs:ListTaskDefinitions", "ecs:DescribeTaskDefinition"):
            resource = "*"
        elif action == "ecs:DescribeTasks":
            resource = f"{ecs}:task/{name}/1"
        elif "TaskDefinition" in action:
            resource = f"{ecs}:task-definition/{given.get('family', naming.service('liver'))}:1"
        yield action, resource, context
        if given.get("tags") or "TAGS" in given.get("include", ()):
            yield (
                "ecs:TagResource" if "tags" in given else "ecs:ListTagsForResource",
                (resource if resource != "*" else f"{ecs}:task-definition/{naming.service('liver')}:1"),
                context,
            )
        if action == "ecs:RegisterTaskDefinition":
            execution = f"${{{named(self._template, 'IAM::Role', 'BoundaryTaskExecutionRole')}.Arn}}"
            yield "iam:PassRole", execution, TO_ECS
            yield "iam:PassRole", f"{IAM}:role{given['taskRoleArn'].partition(':role')[2]}", TO_ECS

    def _needs_of_tables(self, operation: str, given: Parameters) -> Iterator[Need]:
        def of(table: str) -> str:
            return f"${{{named(self._template, 'DynamoDB::Table', TABLES[table])}.Arn}}"

        for item in given.get("TransactItems", ()):
            [(kind, what)] = item.items()
            yield f"dynamodb:{kind}Item", of(what["TableName"]), {}
        if "TableName" in given:
            index = f"/index/{given['IndexName']}" if "IndexName" in given else ""
            yield f"dynamodb:{operation}", f"{of(given['TableName'])}{index}", {}


@pytest.fixture(scope="module")
def calls(real: Template, aws_emulator: AwsEmulator) -> Calls:
    noted, workplace = Calls(real), Workplace.prepare(aws_emulator)

    async def live() -> None:
        engine = workplace.engine(noted.note, reads=True)
        await register(engine, "liver")
        await settle(engine, "liver")
        for what in DRIFTS:
            by_hand(workplace, what)
            if what == "no boundary":
                noted.lose_boundary(naming.role("liver"))
            await settle(engine, "liver")
        await change(engine, "liver")
        await settle(engine, "liver")
        for what in DRIFTS:
            by_hand(workplace, what)
        noted.lose_boundary(naming.role("liver"))
        pacs = PacsRef(study_id="study-1", scope=Scope.STUDY)
        await workplace.engine().jobs.accept(
            JobMessage(job_id="j1", client_id="c1", algo_id="liver", pacs=pacs), "same"
        )
        deleted = JobError(code="ALGORITHM_DELETED", message="deleted")
        assert len(await engine.jobs.fail_open("liver", deleted)) == 1
        await remove(engine, "liver")
        assert await settle(engine, "liver") is None

    asyncio.run(live())
    workplace.close()
    return noted


def test_what_provisioning_calls_its_role_allows(calls: Calls, real: Template) -> None:
    statements = real.lambda_statements("Provisioner")
    denied = {
        need[:2]
        for needs in calls.needs.values()
        for need in needs
        if not is_allowed(statements, need[0], need[1], need[2])
    }
    assert denied == set()
    assert calls.needs.keys() >= {
        "sqs:SetQueueAttributes",
        "sqs:PurgeQueue",
        "iam:DetachRolePolicy",
        "iam:PutRolePermissionsBoundary",
        "ssm:DeleteParameter",
        "logs:PutRetentionPolicy",
        "ecs:DeleteTaskDefinitions",
        "dynamodb:DeleteItem",
    }


def test_what_it_allows_to_do_with_roles_is_called(calls: Calls, real: Template) -> None:
    """Nothing of IAM that provisioning has no use for; what tools and tags may need aside."""
    allowed = {
        action
        for statement in real.lambda_statements("Provisioner")
        if statement.allows
        for action in statement.actions
        if action.startswith("iam:")
    }
    needed = {need[0] for needs in calls.needs.values() for need in needs}
    assert allowed - needed <= {"iam:UntagRole"}


def test_why_workers_died_can_be_read_by_the_provisioner(real: Template) -> None:
    group = f"arn:aws:logs:{HERE}:log-group:{naming.log_group('liver')}"
    statements = real.lambda_statements("Provisioner")
    assert is_allowed(statements, "logs:GetLogEvents", f"{group}:log-stream:mip/worker/1")
