"""The Lambdas: one table of what each runs, is given and may do. All run the same zip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from medical_image_processing import naming
from stack import permissions

HANDLERS = "medical_image_processing.entrypoints.lambdas"
INSIGHTS_GROUP = "/aws/lambda-insights"
INSIGHTS_VERSION = lambda_.LambdaInsightsVersion.VERSION_1_0_498_0
"""The CDK knows its layer's ARN in each region, so the template needs no look-up."""


@dataclass(frozen=True)
class Lambda:
    """What runs, and the least that it runs with. ``handler`` is ``module.function`` below :data:`HANDLERS`."""

    handler: str
    timeout_s: int
    memory_mib: int
    concurrency: int | None = None
    """Reserved: never more at once, and always that many."""


LAMBDAS: Mapping[str, Lambda] = {
    "Admin": Lambda("admin.handler", timeout_s=29, memory_mib=512),
    "Processing": Lambda("processing.handler", timeout_s=29, memory_mib=1024),
    "Provisioner": Lambda("provisioner.handler", timeout_s=300, memory_mib=512),
    "Delivery": Lambda("delivery.handler", timeout_s=30, memory_mib=512),
    "Connect": Lambda("websocket.connect", timeout_s=29, memory_mib=512),
    "Disconnect": Lambda("websocket.disconnect", timeout_s=29, memory_mib=256),
    "Message": Lambda("websocket.message", timeout_s=29, memory_mib=256),
    "DeadLetters": Lambda("dead_letters.handler", timeout_s=55, memory_mib=256, concurrency=1),
    "Scaler": Lambda("scaler.handler", timeout_s=55, memory_mib=256, concurrency=1),
}
"""API Gateway waits 29 s. The two that run every minute end before the next run, and never run twice at once."""


def function_name(name: str) -> str:
    """The Lambda's name, which is also its log group's."""
    return f"{naming.STACK}-{name}Fn"


class Functions(Construct):
    """Makes each Lambda with a role and a log group of its own."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        zip_path: str,
        retention: logs.RetentionDays,
        removal: RemovalPolicy,
        insights: str,
        reserve: bool,
    ) -> None:
        super().__init__(scope, id)
        self._code = lambda_.Code.from_asset(zip_path)
        self._retention = retention
        self._removal = removal
        self._insights = insights != "off"
        self._reserve = reserve
        self.made: dict[str, lambda_.Function] = {}
        if insights == "own":
            logs.LogGroup(
                self, "InsightsLogs", log_group_name=INSIGHTS_GROUP, retention=retention, removal_policy=removal
            )

    def make(
        self, name: str, environment: Mapping[str, str], statements: list[iam.PolicyStatement]
    ) -> lambda_.Function:
        """The Lambda of that name in :data:`LAMBDAS`, given this environment and allowed this and no more."""
        what = LAMBDAS[name]
        role = iam.Role(
            self,
            f"{name}Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"What {function_name(name)} may do",
        )
        insights = [permissions.write_insights()] if self._insights else []
        for statement in [permissions.write_logs(function_name(name)), *insights, *statements]:
            role.add_to_policy(statement)
        group = logs.LogGroup(
            self,
            f"{name}Logs",
            log_group_name=f"/aws/lambda/{function_name(name)}",
            retention=self._retention,
            removal_policy=self._removal,
        )
        self.made[name] = lambda_.Function(
            self,
            f"{name}Fn",
            function_name=function_name(name),
            runtime=lambda_.Runtime.PYTHON_3_11,
            architecture=lambda_.Architecture.X86_64,
            handler=f"{HANDLERS}.{what.handler}",
            code=self._code,
            role=role.without_policy_updates(),
            timeout=Duration.seconds(what.timeout_s),
            memory_size=what.memory_mib,
            reserved_concurrent_executions=what.concurrency if self._reserve else None,
            log_group=group,
            insights_version=INSIGHTS_VERSION if self._insights else None,
            environment=dict(environment),
        )
        self.made[name].node.add_dependency(role)
        return self.made[name]
