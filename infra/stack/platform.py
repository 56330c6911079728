"""The platform's stack: puts the parts together, and says what they may do to each other."""

from __future__ import annotations

from aws_cdk import Aws, CfnElement, CfnOutput, CfnParameter, Duration, RemovalPolicy, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from stack import arns, exceptions
from stack.access_log import LogsAccount
from stack.api import STAGE, Api
from stack.boundary import Boundary
from stack.bucket import Buckets
from stack.functions import Functions
from stack.grants import Parts, grant
from stack.lambdas import ENVIRONMENT, LAMBDAS
from stack.monitoring import Monitoring
from stack.network import Network
from stack.pacs_service import PacsService
from stack.queues import Queues
from stack.secrets import Secrets
from stack.settings import Settings
from stack.tables import Tables
from stack.websocket import WebSocket

RETENTION = {
    7: logs.RetentionDays.ONE_WEEK,
    14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH,
    60: logs.RetentionDays.TWO_MONTHS,
    90: logs.RetentionDays.THREE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
    731: logs.RetentionDays.TWO_YEARS,
}
EMULATOR = "http://127.0.0.1:4566"


class PlatformStack(Stack):
    """Everything but the images. Knows no account and no region, so it needs no AWS to be synthesized."""

    def __init__(self, scope: Construct, id: str, *, settings: Settings, zip_path: str) -> None:
        super().__init__(scope, id, description="Medical image processing platform")
        self._settings = settings
        self._removal = RemovalPolicy.DESTROY if settings.emulator else RemovalPolicy.RETAIN
        self._log_removal = RemovalPolicy.DESTROY
        self._retention = RETENTION[settings.log_days]
        self.secrets = Secrets(self, "Secrets", removal=self._removal)
        self.tables = Tables(self, "Tables", removal=self._removal)
        self.queues = Queues(
            self,
            "Queues",
            consumer_timeout_s=LAMBDAS["Delivery"].timeout_s,
            tls_only=not settings.emulator,
            removal=RemovalPolicy.DESTROY,
        )
        own_images = not (
            settings.pacs_bucket or settings.dicomweb_url or settings.pacs_api_base or settings.emulator
        )
        self.buckets = Buckets(
            self,
            "Buckets",
            allow_origins=settings.allow_origins,
            images=own_images,
            tls_only=not settings.emulator,
            removal=self._removal,
        )
        self.network = Network(
            self,
            "Network",
            nat=settings.nat,
            emulator=settings.emulator,
            log_retention=self._retention,
            removal=self._log_removal,
        )
        self.cluster = self._make_cluster()
        self._repositories = [arns.repository(name) for name in settings.image_repositories]
        self.boundary = Boundary(
            self,
            "Boundary",
            output=self.buckets.output,
            cluster=self.cluster.cluster_name,
            repositories=self._repositories,
        )
        self.websocket = WebSocket(self, "WebSocket", retention=self._retention, removal=self._log_removal)
        self.pacs = self._make_pacs()
        self._allow_s3()
        self._add_functions(zip_path)
        self._add_apis()
        self._add_events()
        self.monitoring = Monitoring(
            self,
            "Monitoring",
            results=self.queues.results,
            results_dead_letters=self.queues.dead_letters,
            failed_events=self.failed_events,
            functions=self.functions,
        )
        self._add_outputs()
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Name the parts as cdk-nag does: by their logical ids."""
        exceptions.acknowledge(
            self,
            exceptions.by_resource(
                output=self._logical_id(self.buckets.output),
                cluster=self._logical_id(self.cluster),
                websocket=self.get_logical_id(self.websocket.api),
                images=self._arn_of_images(),
                repositories=self._repositories,
            ),
        )

    def _arn_of_images(self) -> str | None:
        if self.buckets.images:
            return f"<{self._logical_id(self.buckets.images)}.Arn>"
        given = self._settings.pacs_bucket
        return f"arn:{Aws.PARTITION}:s3:::{given}" if given else None

    def _logical_id(self, construct: Construct) -> str:
        resource = construct.node.default_child
        assert isinstance(resource, CfnElement)
        return self.get_logical_id(resource)

    def _make_cluster(self) -> ecs.Cluster:
        return ecs.Cluster(
            self,
            "Cluster",
            vpc=self.network.vpc,
            cluster_name="mip",
            container_insights_v2=ecs.ContainerInsights.ENABLED,
            enable_fargate_capacity_providers=not self._settings.emulator,
        )

    def _pacs_images(self) -> s3.IBucket | None:
        if self._settings.pacs_bucket:
            return s3.Bucket.from_bucket_name(self, "PacsBucket", self._settings.pacs_bucket)
        return self.buckets.images

    def _make_pacs(self) -> PacsService | None:
        self._images = self._pacs_images()
        if self._settings.pacs_api_base:
            self.network.let_workers_call(self._settings.pacs_api_base)
        if self._settings.pacs_api_base or self._settings.emulator:
            return None
        return PacsService(
            self,
            "Pacs",
            network=self.network,
            cluster=self.cluster,
            settings=self._settings,
            images=self._images,
            keys=self.tables.keys,
            audit=self.tables.audit,
            jobs=self.tables.jobs if self._settings.can_store else None,
            output=self.buckets.output if self._settings.can_store else None,
            operator_key=self.secrets.pacs_key,
            retention=self._retention,
            removal=self._log_removal,
        )

    def _allow_s3(self) -> None:
        output = [self.buckets.output.arn_for_objects("*")]
        self.network.allow_in_s3("WriteOutput", ["s3:PutObject", "s3:AbortMultipartUpload"], output)
        if self._settings.can_store:
            self.network.allow_in_s3("ReadResults", ["s3:GetObject"], output)
        layers = f"arn:{Aws.PARTITION}:s3:::prod-{Aws.REGION}-starport-layer-bucket/*"
        self.network.allow_in_s3("PullImageLayers", ["s3:GetObject"], [layers])
        if self._images:
            self.network.allow_in_s3("ListImages", ["s3:ListBucket"], [self._images.bucket_arn])
            self.network.allow_in_s3("ReadImages", ["s3:GetObject"], [self._images.arn_for_objects("*")])
        if self._settings.pacs_link_buckets:
            linked = [f"arn:{Aws.PARTITION}:s3:::{bucket}/*" for bucket in self._settings.pacs_link_buckets]
            self.network.allow_in_s3("FollowLinks", ["s3:GetObject"], linked)

    def _given(self, name: str, value: str) -> str:
        """``value``; on an emulator a parameter of the template, so that one synthesis serves many tests."""
        if not self._settings.emulator:
            return value
        return CfnParameter(self, name, default=value).value_as_string

    def _environment(self) -> dict[str, str]:
        """Everything that Lambdas are told; each gets its part."""
        settings, network = self._settings, self.network
        self._pacs_base = self._given(
            "PacsBase", settings.pacs_api_base or (self.pacs.base if self.pacs else "http://127.0.0.1:8080")
        )
        management = self.websocket.management_endpoint
        if settings.emulator:
            management = f"{self._given('Emulator', EMULATOR)}/_aws/execute-api/{self.websocket.api_id}/{STAGE}"
        return {
            "MIP_ALGORITHMS_TABLE": self.tables.algorithms.table_name,
            "MIP_JOBS_TABLE": self.tables.jobs.table_name,
            "MIP_CONNECTIONS_TABLE": self.tables.connections.table_name,
            "MIP_KEYS_TABLE": self.tables.keys.table_name,
            "MIP_AUDIT_TABLE": self.tables.audit.table_name,
            "MIP_RESULTS_QUEUE_URL": self.queues.results.queue_url,
            "OUTPUT_BUCKET": self.buckets.output.bucket_name,
            "MIP_WS_ENDPOINT": management,
            "MIP_ADMIN_SECRET": self.secrets.admin_key_arn,
            "MIP_CLUSTER": self.cluster.cluster_name,
            "MIP_SUBNETS": ",".join(network.subnet_ids),
            "MIP_SECURITY_GROUP": network.workers.security_group_id,
            "MIP_EXECUTION_ROLE": self.boundary.execution_role.role_arn,
            "MIP_TASK_BOUNDARY": self.boundary.policy.managed_policy_arn,
            "MIP_PACS_API_BASE": self._pacs_base,
            "MIP_CLIENTS": self._given("Clients", settings.clients),
            "MIP_OIDC_ISSUER": self._given("OidcIssuer", settings.oidc_issuer or ""),
            "MIP_OIDC_AUDIENCE": self._given("OidcAudience", settings.oidc_audience or ""),
            "MIP_ALLOW_ORIGINS": ",".join(settings.allow_origins),
            "MIP_CAN_STORE": "true" if settings.can_store else "false",
            "MIP_QUEUE_LIMIT": self._given("QueueLimit", str(settings.queue_limit)),
            "MIP_TASK_ENV": self._given("TaskEnv", settings.task_env),
        }

    def _add_functions(self, zip_path: str) -> None:
        self.failed_events = sqs.Queue(
            self,
            "FailedEvents",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        functions = Functions(
            self,
            "Functions",
            zip_path=zip_path,
            retention=self._retention,
            removal=self._log_removal,
            insights="off" if self._settings.emulator else self._settings.insights,
            reserve=self._settings.reserve and not self._settings.emulator,
        )
        known = self._environment()
        for name, statements in self._grants().items():
            environment = {variable: known[variable] for variable in ENVIRONMENT[name] if known[variable]}
            functions.make(name, environment, statements)
        self.functions = functions.made

    def _grants(self) -> dict[str, list[iam.PolicyStatement]]:
        return grant(
            Parts(
                tables=self.tables,
                output=self.buckets.output,
                results_arn=self.queues.results.queue_arn,
                failed_events_arn=self.failed_events.queue_arn,
                cluster=self.cluster,
                boundary=self.boundary,
                repositories=self._repositories,
                websocket_id=self.websocket.api_id,
                admin_secret_arn=self.secrets.admin_key_arn,
            )
        )

    def _add_apis(self) -> None:
        account = LogsAccount(self, "GatewayLogs", removal=self._removal)
        self.api = Api(
            self,
            "Api",
            admin=self.functions["Admin"],
            processing=self.functions["Processing"],
            allow_origins=self._settings.allow_origins,
            retention=self._retention,
            removal=self._log_removal,
        )
        if self.pacs:
            self.api.add_pacs(self.pacs.base, self.pacs.link)
        else:
            self.api.add_pacs(self._pacs_base, None)
        self.websocket.add_routes(self.functions)
        account.before(self)

    def _add_events(self) -> None:
        provisioner = self.functions["Provisioner"]
        provisioner.add_event_source(
            sources.DynamoEventSource(
                self.tables.algorithms,
                starting_position=lambda_.StartingPosition.TRIM_HORIZON,
                batch_size=10,
                bisect_batch_on_error=True,
                report_batch_item_failures=True,
                retry_attempts=5,
                max_record_age=Duration.hours(1),
                on_failure=sources.SqsDlq(self.failed_events),
            )
        )
        self.functions["Delivery"].add_event_source(
            sources.SqsEventSource(self.queues.results, batch_size=10, report_batch_item_failures=True)
        )
        every_minute = events.Schedule.rate(Duration.minutes(1))
        self._rule("Sweep", provisioner, schedule=events.Schedule.rate(Duration.minutes(5)))
        self._rule("BuryDeadLetters", self.functions["DeadLetters"], schedule=every_minute)
        self._rule("Scale", self.functions["Scaler"], schedule=every_minute)
        services = arns.of("ecs", f"service/{self.cluster.cluster_name}/")
        self._rule(
            "TaskChanges",
            provisioner,
            pattern=events.EventPattern(
                source=["aws.ecs"],
                detail_type=["ECS Task State Change"],
                detail={"clusterArn": [self.cluster.cluster_arn], "lastStatus": ["RUNNING", "STOPPED"]},
            ),
        )
        self._rule(
            "DeploymentChanges",
            provisioner,
            pattern=events.EventPattern(
                source=["aws.ecs"],
                detail_type=["ECS Deployment State Change"],
                resources=events.Match.prefix(services),
            ),
        )

    def _rule(
        self,
        id: str,
        function: lambda_.Function,
        *,
        schedule: events.Schedule | None = None,
        pattern: events.EventPattern | None = None,
    ) -> None:
        target = targets.LambdaFunction(
            function, retry_attempts=0 if schedule else 2, max_event_age=Duration.minutes(5)
        )
        events.Rule(self, id, schedule=schedule, event_pattern=pattern, targets=[target])

    def _add_outputs(self) -> None:
        outputs = {
            "ProcessingApiEndpoint": self.api.rest.url,
            "WebSocketEndpoint": self.websocket.endpoint,
            "ResultsQueueUrl": self.queues.results.queue_url,
            "AlgoTableName": self.tables.algorithms.table_name,
            "PacsApiEndpoint": f"{self.api.rest.url}pacs",
            "PacsApiBase": self._pacs_base,
            "OutputBucketName": self.buckets.output.bucket_name,
            "AdminKeySecretArn": self.secrets.admin_key_arn,
            "AlarmTopicArn": self.monitoring.topic.topic_arn,
            "PacsKeySecretArn": self.secrets.pacs_key_arn,
        }
        if self.buckets.images:  # whoever reads this may put images there; into a bucket that was given, nobody
            outputs["PacsBucketName"] = self.buckets.images.bucket_name
        for name, value in outputs.items():
            CfnOutput(self, f"{name}Output", value=value).override_logical_id(name)
