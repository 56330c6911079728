"""Makes the Lambdas of ``lambdas.py``. All run the same zip."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from stack import permissions
from stack.lambdas import HANDLERS, LAMBDAS, function_name

INSIGHTS_GROUP = "/aws/lambda-insights"
INSIGHTS_VERSION = lambda_.LambdaInsightsVersion.VERSION_1_0_498_0
"""The CDK knows its layer's ARN in each region, so the template needs no look-up."""


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
