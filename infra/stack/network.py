"""Where workers run: a VPC without a way to the internet, and the endpoints that workers need instead."""

from __future__ import annotations

from aws_cdk import Aws, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from stack.settings import port_of

CIDR = "10.73.0.0/16"
HTTPS = 443
PACS_PORT = 8080
ENDPOINTS = {
    "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDkr": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Sqs": ec2.InterfaceVpcEndpointAwsService.SQS,
    "Ssm": ec2.InterfaceVpcEndpointAwsService.SSM,
}
"""Images, logs, jobs and results, the workers' PACS keys. S3 and DynamoDB have gateways, which cost nothing."""


class Network(Construct):
    """Two zones. ``workers`` may call the endpoints and the PACS API, and nobody may call them."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        nat: bool,
        emulator: bool,
        log_retention: logs.RetentionDays,
        removal: RemovalPolicy,
    ) -> None:
        super().__init__(scope, id)
        isolated = ec2.SubnetType.PRIVATE_WITH_EGRESS if nat else ec2.SubnetType.PRIVATE_ISOLATED
        subnets = [ec2.SubnetConfiguration(name="Workers", subnet_type=isolated, cidr_mask=20)]
        if nat:
            subnets.append(ec2.SubnetConfiguration(name="Nat", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=28))
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(CIDR),
            max_azs=2,
            nat_gateways=1 if nat else 0,
            subnet_configuration=subnets,
            restrict_default_security_group=False,
        )
        self.subnets = ec2.SubnetSelection(subnet_type=isolated)
        self.subnet_ids: list[str] = self.vpc.select_subnets(subnet_type=isolated).subnet_ids
        if not emulator:
            self._log_flows(log_retention, removal)
        self._emulator = emulator
        self.s3_gateway = self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        self.dynamodb_gateway = self.vpc.add_gateway_endpoint(
            "DynamoDb", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB
        )
        self.endpoints = ec2.SecurityGroup(
            self, "EndpointsGroup", vpc=self.vpc, description="AWS endpoints of the VPC", allow_all_outbound=False
        )
        inside = ec2.Peer.ipv4(CIDR)
        self.endpoints.add_ingress_rule(inside, ec2.Port.tcp(HTTPS), "from inside the VPC")
        self.workers = self._group_of_tasks("WorkersGroup", "workers of algorithms")
        self.workers.add_egress_rule(inside, ec2.Port.tcp(PACS_PORT), "PACS API")
        for name, service in ENDPOINTS.items():
            self.add_endpoint(name, service)

    def add_endpoint(self, id: str, service: ec2.InterfaceVpcEndpointAwsService) -> None:
        """Make an AWS service reachable from inside, for this account's own principals only."""
        endpoint = self.vpc.add_interface_endpoint(
            id, service=service, security_groups=[self.endpoints], subnets=self.subnets, open=False
        )
        endpoint.add_to_policy(
            iam.PolicyStatement(
                sid="OwnAccountOnly",
                principals=[iam.AnyPrincipal()],
                actions=["*"],
                resources=["*"],
                conditions={"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}},
            )
        )

    def allow_in_s3(self, sid: str, actions: list[str], resources: list[str]) -> None:
        """Let what runs inside do this through the S3 gateway; it opens nothing that isn't allowed here."""
        self.s3_gateway.add_to_policy(
            iam.PolicyStatement(sid=sid, principals=[iam.AnyPrincipal()], actions=actions, resources=resources)
        )

    def let_workers_call(self, pacs_api: str) -> None:
        """A PACS API of somebody else's: its port, wherever the subnets' routes lead."""
        _let_call(self.workers, pacs_api, "PACS API that was given")

    def group_of_pacs(self, server: str | None) -> ec2.SecurityGroup:
        """The group of the PACS API's tasks: called from inside the VPC only, calls the server's port."""
        group = self._group_of_tasks("PacsGroup", "PACS API")
        if server:
            _let_call(group, server, "DICOMweb server")
        group.add_ingress_rule(ec2.Peer.ipv4(CIDR), ec2.Port.tcp(PACS_PORT), "from inside the VPC")
        return group

    def _group_of_tasks(self, id: str, description: str) -> ec2.SecurityGroup:
        """HTTPS to anywhere: the subnets' routes lead to this VPC's endpoints and gateways, and nowhere else."""
        group = ec2.SecurityGroup(self, id, vpc=self.vpc, description=description, allow_all_outbound=False)
        group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "AWS endpoints")
        return group

    def _log_flows(self, retention: logs.RetentionDays, removal: RemovalPolicy) -> None:
        group = logs.LogGroup(self, "Flows", retention=retention, removal_policy=removal)
        self.vpc.add_flow_log(
            "FlowLog",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )


def _let_call(group: ec2.SecurityGroup, address: str, what: str) -> None:
    """HTTPS is open already."""
    if (port := port_of(address)) != HTTPS:
        group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(port), what)
