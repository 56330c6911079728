"""What bounds the algorithms' roles, and the role that starts their containers.

The boundary is the most that any algorithm's role may ever do, whatever the provisioner writes into its
policy: the provisioner may only make roles that carry it, and may not take it off.
"""

from __future__ import annotations

from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from stack import arns, task_boundary


class Boundary(Construct):
    """``policy`` is the permissions boundary, ``execution_role`` what ECS itself uses for a task's start."""

    def __init__(
        self, scope: Construct, id: str, *, output: s3.IBucket, cluster: str, repositories: list[str]
    ) -> None:
        super().__init__(scope, id)
        self.policy = iam.ManagedPolicy(
            self,
            "TaskBoundary",
            description="The most that an algorithm's task role may do",
            statements=[
                iam.PolicyStatement.from_json(statement)
                for statement in task_boundary.statements(
                    queues=arns.algorithm_queues(),
                    results=arns.results_queues(),
                    output=output.arn_for_objects(arns.ANY),
                    tasks=arns.tasks(cluster),
                )
            ],
        )
        self.execution_role = iam.Role(
            self,
            "TaskExecutionRole",
            assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"),
            description="Pulls algorithms' images, opens their logs, hands them their PACS keys",
        )
        for statement in execution_statements(repositories):
            self.execution_role.add_to_policy(statement)


def execution_statements(repositories: list[str]) -> list[iam.PolicyStatement]:
    """What ECS does before an algorithm's container runs.

    The provisioner hands this role to ECS, and IAM can't say that it may not stand in the place of a task's own
    role: so it is kept small. What is in it beyond a worker's own are the PACS keys and logs of other algorithms.
    """
    return [
        iam.PolicyStatement(sid="SignInToEcr", actions=["ecr:GetAuthorizationToken"], resources=["*"]),
        iam.PolicyStatement(
            sid="PullImages",
            actions=["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            resources=repositories,
        ),
        iam.PolicyStatement(
            sid="WriteLogs",
            actions=["logs:CreateLogStream", "logs:PutLogEvents"],
            resources=arns.algorithm_log_groups(),
        ),
        iam.PolicyStatement(
            sid="ReadPacsKeys", actions=["ssm:GetParameters"], resources=[arns.algorithm_parameters()]
        ),
    ]
