"""The WebSocket API, by which results reach clients."""

from __future__ import annotations

import json

from aws_cdk import Aws, RemovalPolicy
from aws_cdk import aws_apigatewayv2 as apigatewayv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from stack.access_log import WEBSOCKET_LOG
from stack.api import BURST, REQUESTS_PER_S, STAGE

ROUTES = {"$connect": "Connect", "$disconnect": "Disconnect", "$default": "Message"}
"""Route key → the Lambda of that name."""


class WebSocket(Construct):
    """Made in two steps, for the Lambdas need its address and it needs the Lambdas."""

    def __init__(
        self, scope: Construct, id: str, *, retention: logs.RetentionDays, removal: RemovalPolicy
    ) -> None:
        super().__init__(scope, id)
        self.api = apigatewayv2.CfnApi(
            self,
            "Api",
            name="ImgPipelineResults",
            protocol_type="WEBSOCKET",
            route_selection_expression="$request.body.type",
        )
        group = logs.LogGroup(self, "AccessLog", retention=retention, removal_policy=removal)
        self.stage = apigatewayv2.CfnStage(
            self,
            "Stage",
            api_id=self.api.ref,
            stage_name=STAGE,
            auto_deploy=True,
            access_log_settings=apigatewayv2.CfnStage.AccessLogSettingsProperty(
                destination_arn=group.log_group_arn, format=json.dumps(WEBSOCKET_LOG)
            ),
            default_route_settings=apigatewayv2.CfnStage.RouteSettingsProperty(
                throttling_rate_limit=REQUESTS_PER_S,
                throttling_burst_limit=BURST,
                detailed_metrics_enabled=True,
            ),
        )

    @property
    def api_id(self) -> str:
        """The API's id."""
        return self.api.ref

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"wss://{self.api.ref}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}/{STAGE}"

    @property
    def management_endpoint(self) -> str:
        """Where the platform posts to connections."""
        return f"https://{self.api.ref}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}/{STAGE}"

    def add_routes(self, functions: dict[str, lambda_.Function]) -> None:
        """Connect each route with its Lambda; $connect's answer decides whether a client comes in."""
        for route, name in ROUTES.items():
            function = functions[name]
            integration = apigatewayv2.CfnIntegration(
                self,
                f"{name}Integration",
                api_id=self.api.ref,
                integration_type="AWS_PROXY",
                integration_uri=(
                    f"arn:{Aws.PARTITION}:apigateway:{Aws.REGION}:lambda:path/2015-03-31/functions/"
                    f"{function.function_arn}/invocations"
                ),
            )
            made = apigatewayv2.CfnRoute(
                self,
                f"{name}Route",
                api_id=self.api.ref,
                route_key=route,
                authorization_type="NONE",
                target=f"integrations/{integration.ref}",
            )
            self.stage.add_resource_dependency(made)
            function.add_permission(
                f"{name}Permission",
                principal=iam.ServicePrincipal("apigateway.amazonaws.com"),
                source_arn=f"arn:{Aws.PARTITION}:execute-api:{Aws.REGION}:{Aws.ACCOUNT_ID}:{self.api.ref}/*/{route}",
                scope=self,
            )
