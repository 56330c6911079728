"""The REST API: the admin's and the clients' routes, and the PACS API for clients, under one address."""

from __future__ import annotations

import json

from aws_cdk import Aws, RemovalPolicy
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from stack.access_log import ACCESS_LOG

STAGE = "prod"
REQUESTS_PER_S = 500
BURST = 1000
METHODS = ["GET", "POST", "PATCH", "DELETE", "OPTIONS"]
HEADERS = ["content-type", "authorization", "x-admin-key", "x-api-key", "if-match", "range"]
PACS_METHODS = ("GET", "POST")
"""POST asks for series by what no address should hold (docs/pacs.md); the PACS API refuses all other."""
CORS_ERRORS = {"access-control-allow-origin": "'*'"}
BINARY = ["application/dicom", "image/png"]
"""Passed on byte by byte to who accepts it, before all else; what has another type is text."""
ERROR = '{"error": {"code": "$context.error.responseType", "message": $context.error.messageString}}'
"""The shape of the platform's own errors (CONTRACT.md), for what the gateway refuses itself. ``*`` opens
nothing: such an answer holds no data and credentials travel in headers."""


class Api(Construct):
    """Throttled, access-logged; each Lambda has its own routes and no other's."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        admin: lambda_.IFunction,
        processing: lambda_.IFunction,
        allow_origins: tuple[str, ...],
        retention: logs.RetentionDays,
        removal: RemovalPolicy,
    ) -> None:
        super().__init__(scope, id)
        group = logs.LogGroup(self, "AccessLog", retention=retention, removal_policy=removal)
        cors = apigateway.CorsOptions(
            allow_origins=list(allow_origins),
            allow_methods=METHODS,
            allow_headers=HEADERS,
        )
        self.rest = apigateway.RestApi(
            self,
            "Rest",
            rest_api_name="ImgPipeline",
            description="Medical image processing platform",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            cloud_watch_role=False,
            binary_media_types=BINARY,
            default_cors_preflight_options=cors if allow_origins else None,
            deploy_options=apigateway.StageOptions(
                stage_name=STAGE,
                throttling_rate_limit=REQUESTS_PER_S,
                throttling_burst_limit=BURST,
                metrics_enabled=True,
                access_log_destination=apigateway.LogGroupLogDestination(group),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps(ACCESS_LOG)),
            ),
        )
        self.rest.node.try_remove_child("Endpoint")  # an output with a name that nobody asked for
        for kind in (apigateway.ResponseType.DEFAULT_4_XX, apigateway.ResponseType.DEFAULT_5_XX):
            self.rest.add_gateway_response(
                f"Errors{kind.response_type}",
                type=kind,
                response_headers=CORS_ERRORS,
                templates={"application/json": ERROR},
            )
        self._json = self.rest.add_request_validator(
            "Json", validate_request_body=True, validate_request_parameters=True
        )
        any_json = self.rest.add_model(
            "AnyJson",
            content_type="application/json",
            schema=apigateway.JsonSchema(schema=apigateway.JsonSchemaVersion.DRAFT4),
        )
        self._any_json = {"application/json": any_json}
        self._add_routes(
            apigateway.LambdaIntegration(admin, allow_test_invoke=False),
            apigateway.LambdaIntegration(processing, allow_test_invoke=False),
        )

    def _add_routes(self, admin: apigateway.Integration, clients: apigateway.Integration) -> None:
        root = self.rest.root
        root.add_resource("admin").add_resource("{proxy+}").add_method("ANY", admin)
        root.add_resource("health").add_method("GET", clients)
        root.add_resource("algorithms").add_method("GET", clients)
        root.add_resource("provision").add_method("POST", clients)
        root.add_resource("process").add_resource("{algo_id}").add_method(
            "POST",
            clients,
            request_parameters={"method.request.path.algo_id": True},
            request_models=self._any_json,
            request_validator=self._json,
        )
        jobs = root.add_resource("jobs")
        jobs.add_method("GET", clients)
        jobs.add_resource("{proxy+}").add_method("ANY", clients)

    def add_pacs(self, base: str, link: apigateway.IVpcLink | None) -> None:
        """Clients find the PACS API below ``/pacs``; ``base`` is where it really is.

        It is told its address here, for links to its own files; not by the stage's own, which comes after this.
        """
        public = f"https://{self.rest.rest_api_id}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}/{STAGE}/pacs"
        forward = apigateway.Integration(
            type=apigateway.IntegrationType.HTTP_PROXY,
            integration_http_method="ANY",
            uri=f"{base}/{{proxy}}",
            options=apigateway.IntegrationOptions(
                connection_type=apigateway.ConnectionType.VPC_LINK if link else apigateway.ConnectionType.INTERNET,
                vpc_link=link,
                request_parameters={
                    "integration.request.path.proxy": "method.request.path.proxy",
                    "integration.request.header.X-Pacs-Base": f"'{public}'",
                },
            ),
        )
        below = self.rest.root.add_resource("pacs").add_resource("{proxy+}")
        for method in PACS_METHODS:
            below.add_method(method, forward, request_parameters={"method.request.path.proxy": True})
