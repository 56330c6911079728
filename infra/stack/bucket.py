"""The buckets: results, and where no other source of images is given, the PACS API's DICOM files."""

from __future__ import annotations

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_s3 as s3
from constructs import Construct

from medical_image_processing import naming

OLD_VERSIONS = Duration.days(30)
UNFINISHED_UPLOADS = Duration.days(2)
ACCESS_LOGS = Duration.days(90)


class Buckets(Construct):
    """Private, encrypted, versioned; who read what is logged to a bucket of its own.

    ``tls_only``: not on an emulator, which is reached without.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        allow_origins: tuple[str, ...],
        images: bool,
        tls_only: bool,
        removal: RemovalPolicy,
    ) -> None:
        super().__init__(scope, id)
        self._removal = removal
        self._tls_only = tls_only
        # Their keys name studies: they are the record of who opened a link (law A4), which nothing else sees.
        self.access_logs = self._bucket(
            "AccessLogs",
            lifecycle_rules=[s3.LifecycleRule(id="expire", expiration=ACCESS_LOGS)],
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        )
        reads = [
            s3.CorsRule(
                allowed_methods=[s3.HttpMethods.GET, s3.HttpMethods.HEAD],
                allowed_origins=list(allow_origins),
                allowed_headers=["range"],
                exposed_headers=["content-length", "content-range", "etag"],
                max_age=3600,
            )
        ]
        self._reads = reads if allow_origins else None
        self.output = self._kept("Output", name=naming.output_bucket(Aws.ACCOUNT_ID, Aws.REGION))
        self.images = self._kept("Images") if images else None

    def _kept(self, id: str, *, name: str | None = None) -> s3.Bucket:
        """Pages that may call read it, too: by the signed links that they are given."""
        return self._bucket(
            id,
            bucket_name=name,
            versioned=True,
            cors=self._reads,
            server_access_logs_bucket=self.access_logs,
            server_access_logs_prefix=f"{id.lower()}/",
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="tidy",
                    noncurrent_version_expiration=OLD_VERSIONS,
                    expired_object_delete_marker=True,
                    abort_incomplete_multipart_upload_after=UNFINISHED_UPLOADS,
                )
            ],
        )

    def _bucket(
        self,
        id: str,
        *,
        lifecycle_rules: list[s3.LifecycleRule],
        bucket_name: str | None = None,
        versioned: bool = False,
        cors: list[s3.CorsRule] | None = None,
        object_ownership: s3.ObjectOwnership | None = None,
        server_access_logs_bucket: s3.Bucket | None = None,
        server_access_logs_prefix: str | None = None,
    ) -> s3.Bucket:
        return s3.Bucket(
            self,
            id,
            bucket_name=bucket_name,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=self._tls_only,
            versioned=versioned,
            cors=cors,
            object_ownership=object_ownership,
            server_access_logs_bucket=server_access_logs_bucket,
            server_access_logs_prefix=server_access_logs_prefix,
            lifecycle_rules=lifecycle_rules,
            removal_policy=self._removal,
        )
