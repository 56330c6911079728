"""Every statement of every role, in the synthesized template: by action, by resource, by condition."""

from __future__ import annotations

import pytest
from infra_template import Statement, Template
from stack.lambdas import LAMBDAS

ANY_RESOURCE = {
    "dynamodb:ListStreams": "knows no resource",
    "ecr:GetAuthorizationToken": "knows no resource",
    "ecs:DeregisterTaskDefinition": "knows no resource; what it ends goes on running",
    "ecs:DescribeTaskDefinition": "knows no resource",
    "ecs:ListServices": "knows no resource; held to our cluster by its condition",
    "ecs:ListTaskDefinitions": "knows no resource",
    "ecs:ListTasks": "knows container instances only, which Fargate has none of; held to our cluster",
    "xray:PutTelemetryRecords": "knows no resource",
    "xray:PutTraceSegments": "knows no resource",
}
TASK_ROLES = "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/mip/*"
QUEUES = "arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:mip-*.fifo"


def resources(statements: list[Statement], action: str) -> list[str]:
    return [resource for s in statements if s.allows and action in s.actions for resource in s.resources]


def only(statements: list[Statement], action: str) -> Statement:
    [found] = [s for s in statements if s.allows and action in s.actions]
    return found


def test_no_action_is_a_wildcard_and_no_statement_is_turned_round(each: Template) -> None:
    for statement in each.identity_statements():
        assert "NotAction" not in statement.raw
        assert "NotResource" not in statement.raw
        for action in statement.actions:
            assert "*" not in action, (statement.of, action)


def test_any_resource_is_allowed_only_where_aws_knows_no_other(each: Template) -> None:
    for statement in each.identity_statements():
        if statement.allows and "*" in statement.resources:
            unexplained = set(statement.actions) - set(ANY_RESOURCE)
            assert not unexplained, (statement.of, unexplained)
            if {"ecs:ListServices", "ecs:ListTasks"} & set(statement.actions):
                assert "ecs:cluster" in str(statement.condition)


def test_aws_managed_policies_are_only_the_gateways(each: Template) -> None:
    managed = {
        name: r["ManagedPolicyArns"] for name, r in each.of_type("IAM::Role").items() if "ManagedPolicyArns" in r
    }
    assert len(managed) == 1
    assert "AmazonAPIGatewayPushToCloudWatchLogs" in str(managed)


def test_each_lambda_has_a_role_of_its_own(each: Template) -> None:
    roles = [str(each.function(name)["Role"]) for name in LAMBDAS]
    assert len(LAMBDAS) == 9
    assert len(set(roles)) == 9


@pytest.mark.parametrize("name", [name for name in LAMBDAS if name != "Provisioner"])
def test_only_the_provisioner_makes_and_hands_on_roles(each: Template, name: str) -> None:
    actions = {action for s in each.lambda_statements(name) if s.allows for action in s.actions}
    assert not {a for a in actions if a.startswith("iam:")}
    # Some tell how many workers there are, and may only look.
    assert {a for a in actions if a.startswith("ecs:")} <= {"ecs:DescribeServices"} or name == "Scaler"
    assert not {a for a in actions if a.startswith("ssm:")}


def test_roles_are_made_under_our_path_with_our_boundary(each: Template) -> None:
    statements = each.lambda_statements("Provisioner")
    for action in (
        "iam:CreateRole",
        "iam:PutRolePolicy",
        "iam:PutRolePermissionsBoundary",
        "iam:DeleteRolePolicy",
        "iam:DetachRolePolicy",
    ):
        statement = only(statements, action)
        assert statement.resources == [TASK_ROLES]
        [boundary] = statement.condition["StringEquals"].items()
        assert boundary[0] == "iam:PermissionsBoundary"
        assert each.resource(boundary[1]["Ref"])["Type"] == "AWS::IAM::ManagedPolicy"
    allowed = {action for s in statements if s.allows for action in s.actions}
    for gain in (
        "iam:AttachRolePolicy",
        "iam:CreatePolicyVersion",
        "iam:DeleteRolePermissionsBoundary",
        "iam:UpdateAssumeRolePolicy",
    ):
        assert gain not in allowed
    for statement in statements:
        if any(action.startswith("iam:") and action != "iam:PassRole" for action in statement.actions):
            assert statement.resources == [TASK_ROLES]


def test_roles_are_handed_to_tasks_only(each: Template) -> None:
    statement = only(each.lambda_statements("Provisioner"), "iam:PassRole")
    ours, execution = statement.resources
    assert ours == TASK_ROLES
    assert "TaskExecutionRole" in execution
    assert statement.condition == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    passing = [s.of for s in each.identity_statements() if "iam:PassRole" in s.actions]
    assert len(passing) == 1


def test_the_provisioner_makes_what_is_the_algorithms_and_nothing_else(each: Template) -> None:
    statements = each.lambda_statements("Provisioner")
    here = "${AWS::Region}:${AWS::AccountId}"
    arn = "arn:${AWS::Partition}"
    assert resources(statements, "sqs:CreateQueue") == [QUEUES]
    assert resources(statements, "logs:CreateLogGroup") == [
        f"{arn}:logs:{here}:log-group:/ecs/mip-*",
        f"{arn}:logs:{here}:log-group:/ecs/mip-*:*",
    ]
    assert resources(statements, "ecs:RegisterTaskDefinition") == [f"{arn}:ecs:{here}:task-definition/mip-*:*"]
    [service] = resources(statements, "ecs:CreateService")
    assert service.startswith(f"{arn}:ecs:{here}:service/${{Cluster")
    assert service.endswith("}/mip-*")
    assert "ecs:cluster" in only(statements, "ecs:CreateService").condition["ArnEquals"]
    assert resources(statements, "ssm:PutParameter") == [f"{arn}:ssm:{here}:parameter/mip/*"]


@pytest.mark.parametrize("action", ["sqs:CreateQueue", "sqs:DeleteQueue", "sqs:SetQueueAttributes"])
def test_the_provisioner_may_not_touch_the_results_queue(each: Template, action: str) -> None:
    denied = [s for s in each.lambda_statements("Provisioner") if not s.allows and action in s.actions]
    assert {resource.rpartition(":")[2] for s in denied for resource in s.resources} == {
        "mip-results.fifo",
        "mip-results-dlq.fifo",
    }


@pytest.mark.parametrize("name", list(LAMBDAS))
def test_only_delivery_reads_results_and_no_lambda_sends_any(each: Template, name: str) -> None:
    statements = each.lambda_statements(name)
    assert any("Results" in r for r in resources(statements, "sqs:ReceiveMessage")) == (name == "Delivery")
    if QUEUES in resources(statements, "sqs:SendMessage"):
        denied = [r for s in statements if not s.allows and "sqs:SendMessage" in s.actions for r in s.resources]
        assert {r.rpartition(":")[2] for r in denied} == {"mip-results.fifo", "mip-results-dlq.fifo"}


def test_the_admin_secret_is_the_admins(each: Template) -> None:
    readers = {n for n in LAMBDAS if resources(each.lambda_statements(n), "secretsmanager:GetSecretValue")}
    assert readers == {"Admin"}


@pytest.mark.parametrize("name", list(LAMBDAS))
def test_a_lambda_writes_its_own_log_group(each: Template, name: str) -> None:
    written = resources(each.lambda_statements(name), "logs:PutLogEvents")
    groups = {r.partition("log-group:")[2] for r in written}
    assert groups == {f"/aws/lambda/ImgPipeline-{name}Fn:*", "/aws/lambda-insights:*"}


def boundary(template: Template) -> list[Statement]:
    [(name, policy)] = template.of_type("IAM::ManagedPolicy").items()
    return [Statement(name, raw) for raw in policy["PolicyDocument"]["Statement"]]


def test_the_boundary_is_the_workers_contract(each: Template) -> None:
    statements = boundary(each)
    allowed = {action for s in statements if s.allows for action in s.actions}
    assert allowed == {
        "ecs:GetTaskProtection",
        "ecs:UpdateTaskProtection",
        "s3:AbortMultipartUpload",
        "s3:PutObject",
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sqs:ReceiveMessage",
        "sqs:SendMessage",
    }
    assert [r.rpartition(":")[2] for r in resources(statements, "sqs:SendMessage")] == ["mip-results.fifo"]
    assert all("BucketsOutput" in r for r in resources(statements, "s3:PutObject"))
    [denied] = [s for s in statements if not s.allows]
    assert set(denied.actions) == {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"}


def test_the_boundary_covers_what_the_engine_writes_into_a_role(each: Template) -> None:
    from medical_image_processing.engines.aws import policies

    allowed = {action for s in boundary(each) if s.allows for action in s.actions}
    written = {*policies.OWN_QUEUE, *policies.RESULTS_QUEUE, *policies.OWN_OUTPUT, *policies.OWN_TASKS}
    assert written <= allowed


def test_roles_are_taken_by_their_own_service_only(each: Template) -> None:
    trusts = {
        name: [s["Principal"]["Service"] for s in role["AssumeRolePolicyDocument"]["Statement"]]
        for name, role in each.of_type("IAM::Role").items()
    }
    services = {service for found in trusts.values() for service in found}
    assert services == {
        "apigateway.amazonaws.com",
        "ecs-tasks.amazonaws.com",
        "lambda.amazonaws.com",
        "vpc-flow-logs.amazonaws.com",
    }


def test_what_the_gateway_may_invoke_is_named(each: Template) -> None:
    permissions = each.of_type("Lambda::Permission").values()
    assert permissions
    for permission in permissions:
        assert permission["Action"] == "lambda:InvokeFunction"
        assert "SourceArn" in permission
