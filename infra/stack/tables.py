"""The DynamoDB tables. Keys and indexes are those of ``engines/aws``; nothing else is declared."""

from __future__ import annotations

from aws_cdk import CfnResource, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from constructs import Construct

STRING = dynamodb.AttributeType.STRING
JOB_INDEXES = {
    "by_client": ("client_id", "seq"),
    "by_algorithm": ("algo_id", "seq"),
    "by_day": ("day", "seq"),
    "open": ("open_algo", "seq"),
    "unseen": ("unseen_client", "finish_seq"),
    "unsent": ("unsent", "unsent_since"),
    "to_store": ("to_store", "store_at"),
}
"""Keys only: pages are filled from the table itself. The last four hold only the jobs that are so."""


class Tables(Construct):
    """On demand, encrypted, with point-in-time recovery; kept when the stack goes, but for an emulator's."""

    def __init__(self, scope: Construct, id: str, *, removal: RemovalPolicy) -> None:
        super().__init__(scope, id)
        self._removal = removal
        self.algorithms = self._table(
            "Algorithms", "algorithm_id", stream=dynamodb.StreamViewType.NEW_AND_OLD_IMAGES
        )
        self.jobs = self._table("Jobs", "job_id", ttl="expires_at")
        self.connections = self._table("Connections", "client_id", "connection_id", ttl="expires_at")
        self.keys = self._table("Keys", "pk")
        self.audit = self._table("Audit", "subject", "at")
        for name, (partition, sort) in JOB_INDEXES.items():
            self.jobs.add_global_secondary_index(
                index_name=name,
                partition_key=dynamodb.Attribute(name=partition, type=STRING),
                sort_key=dynamodb.Attribute(name=sort, type=STRING),
                projection_type=dynamodb.ProjectionType.KEYS_ONLY,
            )

    def _table(
        self,
        id: str,
        partition: str,
        sort: str | None = None,
        *,
        ttl: str | None = None,
        stream: dynamodb.StreamViewType | None = None,
    ) -> dynamodb.Table:
        table = dynamodb.Table(
            self,
            id,
            partition_key=dynamodb.Attribute(name=partition, type=STRING),
            sort_key=dynamodb.Attribute(name=sort, type=STRING) if sort else None,
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.AWS_MANAGED,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            time_to_live_attribute=ttl,
            stream=stream,
            removal_policy=self._removal,
            deletion_protection=self._removal is RemovalPolicy.RETAIN,
        )
        assert isinstance(table.node.default_child, CfnResource)
        return table
