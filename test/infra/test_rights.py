"""Attempts to gain rights by the provisioner, and by an algorithm whose policy allows everything."""

from __future__ import annotations

import pytest
from iam_evaluation import ACCOUNT, REGION, is_allowed, resolved
from infra_template import Statement, Template

from medical_image_processing import naming

IAM = f"arn:aws:iam::{ACCOUNT}"
ROLE = f"{IAM}:role/mip/mip-liver-task"
SQS = f"arn:aws:sqs:{REGION}:{ACCOUNT}"
ECS = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
TO_ECS = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


def named(template: Template, kind: str, beginning: str) -> str:
    [found] = [name for name in template.of_type(kind) if name.startswith(beginning)]
    return found


def boundary_of(template: Template) -> str:
    return f"${{{named(template, 'IAM::ManagedPolicy', 'Boundary')}}}"


def cluster_of(template: Template) -> tuple[str, str]:
    """Name and ARN, as the template refers to them."""
    [logical_id] = template.of_type("ECS::Cluster")
    return f"${{{logical_id}}}", f"${{{logical_id}.Arn}}"


def provisioner(template: Template, action: str, resource: str, context: dict[str, str] | None = None) -> bool:
    return is_allowed(template.lambda_statements("Provisioner"), action, resource, context)


@pytest.mark.parametrize(
    "action",
    [
        "iam:CreateRole",
        "iam:DeleteRolePolicy",
        "iam:DetachRolePolicy",
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
    ],
)
def test_the_provisioner_makes_bounded_roles_and_no_others(real: Template, action: str) -> None:
    bounded = {"iam:PermissionsBoundary": boundary_of(real)}
    assert provisioner(real, action, ROLE, bounded)
    assert not provisioner(real, action, ROLE), "without a boundary"
    assert not provisioner(real, action, ROLE, {"iam:PermissionsBoundary": f"{IAM}:policy/mine"}), "with another"
    assert not provisioner(real, action, f"{IAM}:role/mip-liver-task", bounded), "elsewhere"
    assert not provisioner(real, action, f"{IAM}:role/other/mip/x", bounded), "below another path"


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("iam:AttachRolePolicy", ROLE),
        ("iam:CreateAccessKey", f"{IAM}:user/somebody"),
        ("iam:CreatePolicyVersion", f"{IAM}:policy/boundary"),
        ("iam:DeleteRolePermissionsBoundary", ROLE),
        ("iam:SetDefaultPolicyVersion", f"{IAM}:policy/boundary"),
        ("iam:UpdateAssumeRolePolicy", ROLE),
        ("lambda:AddPermission", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:ImgPipeline-AdminFn"),
        ("lambda:UpdateFunctionCode", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:ImgPipeline-AdminFn"),
        ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:any"),
        ("sts:AssumeRole", ROLE),
        ("ecs:RunTask", f"{ECS}:task-definition/mip-liver:1"),
        ("ecs:ExecuteCommand", f"{ECS}:task/mip/1"),
        ("sqs:AddPermission", f"{SQS}:mip-liver.fifo"),
        ("s3:PutBucketPolicy", "arn:aws:s3:::any"),
        ("s3:PutObject", "arn:aws:s3:::any/object"),
        ("ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/other"),
        ("logs:DeleteLogGroup", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/ImgPipeline-AdminFn"),
        ("ecs:RegisterTaskDefinition", f"{ECS}:task-definition/other:1"),
        ("sqs:CreateQueue", f"{SQS}:other.fifo"),
        ("sqs:DeleteQueue", f"{SQS}:{naming.RESULTS_QUEUE}"),
        ("sqs:ReceiveMessage", f"{SQS}:{naming.RESULTS_QUEUE}"),
        ("sqs:SetQueueAttributes", f"{SQS}:{naming.RESULTS_DEAD_LETTER_QUEUE}"),
    ],
)
def test_the_provisioner_gains_nothing_in_another_way(real: Template, action: str, resource: str) -> None:
    context = {"iam:PermissionsBoundary": boundary_of(real), "ecs:cluster": cluster_of(real)[1], **TO_ECS}
    assert not provisioner(real, action, resource, context)


def test_the_provisioner_hands_on_its_own_roles_and_only_to_tasks(real: Template) -> None:
    execution = f"${{{named(real, 'IAM::Role', 'BoundaryTaskExecutionRole')}.Arn}}"
    assert provisioner(real, "iam:PassRole", ROLE, TO_ECS)
    assert provisioner(real, "iam:PassRole", execution, TO_ECS)
    for service in ("ec2.amazonaws.com", "lambda.amazonaws.com", "ecs.amazonaws.com"):
        assert not provisioner(real, "iam:PassRole", ROLE, {"iam:PassedToService": service})
    for role in (f"{IAM}:role/Administrator", f"${{{named(real, 'IAM::Role', 'FunctionsAdminRole')}.Arn}}"):
        assert not provisioner(real, "iam:PassRole", role, TO_ECS)


def test_the_role_that_starts_tasks_gains_little_in_the_place_of_a_tasks_role(
    real: Template, migration: Template
) -> None:
    """Who rules the provisioner can put it there: IAM can't tell the two places of a task definition apart."""
    role = named(real, "IAM::Role", "BoundaryTaskExecutionRole")
    statements = real.role_statements(role)
    assert {action for statement in statements for action in statement.actions} == {
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetAuthorizationToken",
        "ecr:GetDownloadUrlForLayer",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
        "ssm:GetParameters",
    }
    ecr, ssm = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter"
    logs = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group"
    assert is_allowed(statements, "ecr:BatchGetImage", f"{ecr}/{naming.ALGORITHM_IMAGES}")
    assert is_allowed(statements, "ssm:GetParameters", f"{ssm}{naming.pacs_key_parameter('liver')}")
    for action, resource in (
        ("ecr:BatchGetImage", f"{ecr}/{naming.PACS_IMAGE}"),
        ("ecr:BatchGetImage", f"{ecr}/somebodys"),
        ("ssm:GetParameters", f"{ssm}/other"),
        ("logs:PutLogEvents", f"{logs}:/aws/lambda/ImgPipeline-AdminFn:log-stream:1"),
    ):
        assert not is_allowed(statements, action, resource), resource
    chosen = migration.role_statements(named(migration, "IAM::Role", "BoundaryTaskExecutionRole"))
    assert is_allowed(chosen, "ecr:BatchGetImage", f"{ecr}/team/liver")
    assert not is_allowed(chosen, "ecr:BatchGetImage", f"{ecr}/other/liver")


def test_the_provisioner_works_on_our_cluster_only(real: Template) -> None:
    name, arn = cluster_of(real)
    service = f"{ECS}:service/{name}/mip-liver"
    for action in ("ecs:CreateService", "ecs:UpdateService", "ecs:DeleteService", "ecs:DescribeServices"):
        assert provisioner(real, action, service, {"ecs:cluster": arn})
        assert not provisioner(real, action, service, {"ecs:cluster": f"{ECS}:cluster/other"})
        assert not provisioner(real, action, f"{ECS}:service/{name}/pacs-api", {"ecs:cluster": arn})
    assert provisioner(real, "ecs:RegisterTaskDefinition", f"{ECS}:task-definition/mip-liver:1")


def test_the_scaler_moves_algorithms_services_and_makes_none(real: Template) -> None:
    name, arn = cluster_of(real)
    statements = real.lambda_statements("Scaler")
    ours = {"ecs:cluster": arn}
    service = f"{ECS}:service/{name}/mip-liver"
    assert is_allowed(statements, "ecs:UpdateService", service, ours)
    assert is_allowed(statements, "ecs:DescribeServices", service, ours)
    assert not is_allowed(statements, "ecs:UpdateService", f"{ECS}:service/{name}/pacs-api", ours)
    for action in ("ecs:CreateService", "ecs:DeleteService", "ecs:RegisterTaskDefinition", "iam:PassRole"):
        assert not is_allowed(statements, action, service, ours)


def unbounded(template: Template, action: str, resource: str) -> bool:
    """Whether a role may do this whose own policy allows everything, under the boundary."""
    logical_id = named(template, "IAM::ManagedPolicy", "Boundary")
    policy = template.of_type("IAM::ManagedPolicy")[logical_id]
    boundary = [Statement(logical_id, raw) for raw in policy["PolicyDocument"]["Statement"]]
    own = [Statement("own", {"Effect": "Allow", "Action": "*", "Resource": "*"})]
    return is_allowed(own, action, resource) and is_allowed(boundary, action, resource)


def test_an_algorithm_with_every_right_is_still_only_a_worker(real: Template) -> None:
    bucket = named(real, "S3::Bucket", "BucketsOutput")
    output = f"${{{bucket}.Arn}}/liver/study/image.dcm"
    task = f"{ECS}:task/{cluster_of(real)[0]}/1"
    for action, resource in (
        ("sqs:ReceiveMessage", f"{SQS}:mip-liver.fifo"),
        ("sqs:SendMessage", f"{SQS}:{naming.RESULTS_QUEUE}"),
        ("sqs:GetQueueUrl", f"{SQS}:{naming.RESULTS_QUEUE}"),
        ("s3:PutObject", output),
        ("ecs:UpdateTaskProtection", task),
    ):
        assert unbounded(real, action, resource), action
    for action, resource in (
        ("sqs:ReceiveMessage", f"{SQS}:{naming.RESULTS_QUEUE}"),
        ("sqs:SendMessage", f"{SQS}:mip-liver.fifo"),
        ("sqs:PurgeQueue", f"{SQS}:mip-liver.fifo"),
        ("s3:GetObject", output),
        ("s3:DeleteObject", output),
        ("s3:PutObject", "arn:aws:s3:::elsewhere/object"),
        ("dynamodb:GetItem", "${TablesJobs.Arn}"),
        ("secretsmanager:GetSecretValue", "any"),
        ("ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/mip/other/pacs-key"),
        ("sts:AssumeRole", ROLE),
        ("iam:PutRolePolicy", ROLE),
        ("ecs:StopTask", task),
    ):
        assert not unbounded(real, action, resource), action


def test_what_the_engine_writes_into_a_role_opens_what_a_worker_needs_under_the_boundary(real: Template) -> None:
    """The engine's own policy of a role, and the template's boundary, decide together."""
    from medical_image_processing.engines.aws import policies
    from medical_image_processing.engines.aws.place import Place

    bucket = named(real, "S3::Bucket", "BucketsOutput")
    place = Place("aws", ACCOUNT, REGION, cluster_of(real)[0], "https://sqs")
    document = policies.permissions(place, "liver", bucket="output", legacy_output_keys=False)
    own = [Statement("role", raw) for raw in document["Statement"]]
    tag = {f"aws:ResourceTag/{naming.ALGORITHM_TAG}": "liver"}

    def may(action: str, resource: str) -> bool:
        there = resource.replace("arn:aws:s3:::output", f"${{{bucket}.Arn}}")
        return is_allowed(own, action, resource, tag) and unbounded(real, action, there)

    assert may("sqs:ReceiveMessage", f"{SQS}:mip-liver.fifo")
    assert may("sqs:SendMessage", f"{SQS}:{naming.RESULTS_QUEUE}")
    assert may("s3:PutObject", "arn:aws:s3:::output/liver/1.dcm")
    assert may("ecs:UpdateTaskProtection", f"{ECS}:task/{cluster_of(real)[0]}/1")
    assert not may("sqs:ReceiveMessage", f"{SQS}:mip-brain.fifo")
    assert not may("s3:PutObject", "arn:aws:s3:::output/brain/1.dcm")
    assert not may("s3:GetObject", "arn:aws:s3:::output/liver/1.dcm")


def test_workers_policies_are_read_as_iam_reads_them() -> None:
    """The evaluation itself: a deny wins, a missing condition key holds nothing, ``[`` is no pattern."""
    allow = Statement("a", {"Effect": "Allow", "Action": "x:Do*", "Resource": "r/[1]/*"})
    deny = Statement("d", {"Effect": "Deny", "Action": "x:DoThis", "Resource": "*"})
    held = Statement("c", {**allow.raw, "Condition": {"StringEquals": {"k": ["v", "w"]}}})
    assert is_allowed([allow], "x:DoThis", "r/[1]/2")
    assert not is_allowed([allow], "x:DoThis", "r/1/2")
    assert not is_allowed([allow, deny], "x:DoThis", "r/[1]/2")
    assert is_allowed([held], "x:Do", "r/[1]/", {"k": "w"})
    assert not is_allowed([held], "x:Do", "r/[1]/")
    assert resolved({"Fn::Join": ["", ["a:", {"Ref": "AWS::Region"}]]}) == f"a:{REGION}"
