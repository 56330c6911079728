"""The PACS API as a Fargate service behind an internal load balancer.

Workers call the load balancer; clients come through the REST API and its VPC link.
"""

from __future__ import annotations

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from medical_image_processing import naming
from stack.network import PACS_PORT, Network
from stack.permissions import allow, store_results
from stack.settings import Settings

CPU, MEMORY_MIB = 512, 1024
LOG_GROUP = "/ecs/pacs-api"
"""Not below ``/ecs/mip-``: those are the algorithms', and the provisioner may remove them."""
VOLUME, FOLDER = "images", "/var/lib/mip-pacs"
CACHE_MIB = 8192
"""Of the 20 GiB of disk that a task has at no price; the rest is for copies of results and the image."""
SERVICE = "pacs-api"
"""Not ``mip-…``, for the same reason."""


class PacsService(Construct):
    """Reads its images and the keys' table, writes the access record, and may do nothing else.

    With ``jobs`` and ``output`` it also puts results back into its DICOMweb server.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        network: Network,
        cluster: ecs.ICluster,
        settings: Settings,
        images: s3.IBucket | None,
        keys: dynamodb.Table,
        audit: dynamodb.Table,
        jobs: dynamodb.Table | None,
        output: s3.IBucket | None,
        operator_key: secretsmanager.Secret,
        retention: logs.RetentionDays,
        removal: RemovalPolicy,
    ) -> None:
        super().__init__(scope, id)
        network.add_endpoint("SecretsManager", ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER)
        group = logs.LogGroup(self, "Logs", log_group_name=LOG_GROUP, retention=retention, removal_policy=removal)
        secrets = {"MIP_PACS_OPERATOR_KEY": ecs.Secret.from_secrets_manager(operator_key)}
        secret_arns = [operator_key.secret_arn]
        if settings.dicomweb_secret:
            given = secretsmanager.Secret.from_secret_complete_arn(self, "DicomWeb", settings.dicomweb_secret)
            secrets["MIP_DICOMWEB_AUTHORIZATION"] = ecs.Secret.from_secrets_manager(given)
            secret_arns.append(settings.dicomweb_secret)
        repository = ecr.Repository.from_repository_name(self, "Image", naming.PACS_IMAGE)
        execution = self._role("ExecutionRole", "Starts the PACS API's containers")
        for statement in _start(repository.repository_arn, group.log_group_arn, secret_arns):
            execution.add_to_policy(statement)
        task_role = self._role("TaskRole", "What the PACS API may do")
        stores = store_results(jobs, output) if jobs and output else []
        for statement in [*_serve(images, keys, audit), *stores]:
            task_role.add_to_policy(statement)
        task = ecs.FargateTaskDefinition(
            self,
            "Task",
            cpu=CPU,
            memory_limit_mib=MEMORY_MIB,
            execution_role=execution.without_policy_updates(),
            task_role=task_role.without_policy_updates(),
        )
        container = task.add_container(
            "pacs",
            image=ecs.ContainerImage.from_ecr_repository(repository, settings.pacs_image_tag),
            environment=_environment(settings, images, keys, audit) | _to_store(jobs, output),
            secrets=secrets,
            user="10001",
            readonly_root_filesystem=True,
            port_mappings=[ecs.PortMapping(container_port=PACS_PORT)],
            logging=ecs.LogDrivers.aws_logs(stream_prefix="pacs", log_group=group),
            stop_timeout=Duration.seconds(30),
        )
        if settings.dicomweb_url:
            # On the task's own encrypted disk; the image's folder gives it its owner.
            task.add_volume(name=VOLUME)
            container.add_mount_points(
                ecs.MountPoint(container_path=FOLDER, source_volume=VOLUME, read_only=False)
            )
        service = ecs.FargateService(
            self,
            "Service",
            service_name=SERVICE,
            cluster=cluster,
            task_definition=task,
            desired_count=1,
            min_healthy_percent=100,
            max_healthy_percent=200,
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            security_groups=[network.group_of_pacs(settings.dicomweb_url)],
            vpc_subnets=network.subnets,
            assign_public_ip=False,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
        )
        service.node.add_dependency(execution, task_role)
        balancer = elbv2.NetworkLoadBalancer(
            self,
            "Balancer",
            vpc=network.vpc,
            internet_facing=False,
            vpc_subnets=network.subnets,
            cross_zone_enabled=True,
        )
        listener = balancer.add_listener("Listener", port=PACS_PORT)
        listener.add_targets(
            "Tasks",
            port=PACS_PORT,
            targets=[service],
            deregistration_delay=Duration.seconds(60),
            health_check=elbv2.HealthCheck(interval=Duration.seconds(10)),
        )
        self.balancer = balancer
        self.base = f"http://{balancer.load_balancer_dns_name}:{PACS_PORT}"
        self.link = apigateway.VpcLink(self, "Link", targets=[balancer], description="Clients to the PACS API")

    def _role(self, id: str, description: str) -> iam.Role:
        return iam.Role(
            self, id, assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"), description=description
        )


def _environment(
    settings: Settings, images: s3.IBucket | None, keys: dynamodb.Table, audit: dynamodb.Table
) -> dict[str, str]:
    place = {}
    if settings.dicomweb_url:
        place = {
            "MIP_DICOMWEB_URL": settings.dicomweb_url,
            "MIP_PACS_FOLDER": FOLDER,
            "MIP_PACS_CACHE_MIB": str(CACHE_MIB),
        }
    return {
        "MIP_KEYS_TABLE": keys.table_name,
        "MIP_AUDIT_TABLE": audit.table_name,
        "MIP_ALLOW_ORIGINS": ",".join(settings.allow_origins),
        "MIP_PACS_PORT": str(PACS_PORT),
        "AWS_REGION": Aws.REGION,
        **place,
        **({"MIP_PACS_BUCKET": images.bucket_name} if images else {}),
    }


def _to_store(jobs: dynamodb.Table | None, output: s3.IBucket | None) -> dict[str, str]:
    return {"MIP_JOBS_TABLE": jobs.table_name, "OUTPUT_BUCKET": output.bucket_name} if jobs and output else {}


def _start(repository_arn: str, log_group_arn: str, secret_arns: list[str]) -> list[iam.PolicyStatement]:
    pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    return [
        allow("SignInToEcr", ["ecr:GetAuthorizationToken"], ["*"]),
        allow("PullImage", pull, [repository_arn]),
        allow("WriteLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], [log_group_arn]),
        allow("ReadKeys", ["secretsmanager:GetSecretValue"], secret_arns),
    ]


def _serve(images: s3.IBucket | None, keys: dynamodb.Table, audit: dynamodb.Table) -> list[iam.PolicyStatement]:
    statements = [
        allow("KnowKeys", ["dynamodb:GetItem"], [keys.table_arn]),
        allow("RecordAccess", ["dynamodb:PutItem", "dynamodb:BatchWriteItem"], [audit.table_arn]),
    ]
    if images:
        statements += [
            allow("ListImages", ["s3:ListBucket"], [images.bucket_arn]),
            allow("ReadImages", ["s3:GetObject"], [images.arn_for_objects("*")]),
        ]
    return statements
