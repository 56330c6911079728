"""One line a request. It names the route and not the path, which may hold ids of studies (law A3), no header
and no query, which hold keys."""

from __future__ import annotations

from aws_cdk import CfnResource, RemovalPolicy
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from constructs import Construct

ACCESS_LOG = {
    "requestId": "$context.requestId",
    "time": "$context.requestTimeEpoch",
    "ip": "$context.identity.sourceIp",
    "method": "$context.httpMethod",
    "route": "$context.resourcePath",
    "status": "$context.status",
    "bytes": "$context.responseLength",
    "ms": "$context.responseLatency",
    "error": "$context.error.responseType",
}
WEBSOCKET_LOG = {
    "requestId": "$context.requestId",
    "time": "$context.requestTimeEpoch",
    "ip": "$context.identity.sourceIp",
    "route": "$context.routeKey",
    "connection": "$context.connectionId",
    "status": "$context.status",
    "error": "$context.error.responseType",
}


class LogsAccount(Construct):
    """Lets API Gateway write logs. It is a setting of the account and region, so it stays when the stack goes."""

    def __init__(self, scope: Construct, id: str, *, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonAPIGatewayPushToCloudWatchLogs")
            ],
        )
        role.apply_removal_policy(removal)
        self.account = apigateway.CfnAccount(self, "Account", cloud_watch_role_arn=role.role_arn)
        self.account.apply_removal_policy(removal)
        self.account.node.add_dependency(role)

    def before(self, construct: Construct) -> None:
        """Make ``construct`` after this."""
        for child in construct.node.find_all():
            if isinstance(child, CfnResource) and child.cfn_resource_type.endswith("::Stage"):
                child.add_resource_dependency(self.account)
