"""Tables, queues, buckets, secrets and repositories, in the synthesized template."""

from __future__ import annotations

import pytest
from infra_template import Template, text_of

from aws_stack import template
from medical_image_processing import naming

KEYS = {
    "Algorithms": ("algorithm_id", None),
    "Jobs": ("job_id", None),
    "Connections": ("client_id", "connection_id"),
    "Keys": ("pk", None),
    "Audit": ("subject", "at"),
}
INDEXES = {
    "by_client": ("client_id", "seq"),
    "by_algorithm": ("algo_id", "seq"),
    "by_day": ("day", "seq"),
    "open": ("open_algo", "seq"),
    "unsent": ("unsent", "unsent_since"),
    "to_store": ("to_store", "store_at"),
    "unseen": ("unseen_client", "finish_seq"),
}
KEPT = ("DynamoDB::Table", "S3::Bucket", "SecretsManager::Secret")


def tables(template: Template) -> dict[str, dict]:
    return {
        name: found
        for name in KEYS
        for logical_id, found in template.of_type("DynamoDB::Table").items()
        if logical_id.startswith(f"Tables{name}")
    }


def schema(raw: list[dict]) -> tuple[str, str | None]:
    by_type = {key["KeyType"]: key["AttributeName"] for key in raw}
    return by_type["HASH"], by_type.get("RANGE")


def test_each_table_has_the_keys_that_the_engine_uses(each: Template) -> None:
    found = tables(each)
    assert {name: schema(table["KeySchema"]) for name, table in found.items()} == KEYS
    assert len(each.of_type("DynamoDB::Table")) == len(KEYS)
    indexes = {index["IndexName"]: index for index in found["Jobs"]["GlobalSecondaryIndexes"]}
    assert {name: schema(index["KeySchema"]) for name, index in indexes.items()} == INDEXES
    assert {index["Projection"]["ProjectionType"] for index in indexes.values()} == {"KEYS_ONLY"}


def test_tables_are_on_demand_encrypted_and_recoverable(each: Template) -> None:
    for table in tables(each).values():
        assert table["BillingMode"] == "PAY_PER_REQUEST"
        assert table["SSESpecification"] == {"SSEEnabled": True}
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert table["DeletionProtectionEnabled"] is True


def test_what_expires_and_what_is_streamed(each: Template) -> None:
    found = tables(each)
    expiring = {name for name, table in found.items() if "TimeToLiveSpecification" in table}
    assert expiring == {"Jobs", "Connections"}
    for name in expiring:
        assert found[name]["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert {
        n: t["StreamSpecification"]["StreamViewType"] for n, t in found.items() if "StreamSpecification" in t
    } == {"Algorithms": "NEW_AND_OLD_IMAGES"}


def test_the_results_queue_is_a_fast_fifo_with_a_dead_letter_queue(each: Template) -> None:
    queues = {found["QueueName"]: found for found in each.of_type("SQS::Queue").values() if "QueueName" in found}
    assert set(queues) == {naming.RESULTS_QUEUE, naming.RESULTS_DEAD_LETTER_QUEUE}
    for queue in queues.values():
        assert queue["FifoQueue"] is True
        assert queue["FifoThroughputLimit"] == "perMessageGroupId"
        assert queue["DeduplicationScope"] == "messageGroup"
        assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
    results = queues[naming.RESULTS_QUEUE]
    assert results["VisibilityTimeout"] >= 6 * each.function("Delivery")["Timeout"]
    assert "ResultsDlq" in text_of(results["RedrivePolicy"]["deadLetterTargetArn"])


def test_every_queue_is_encrypted_and_refuses_plain_http(each: Template) -> None:
    policies = each.policies_of("SQS::QueuePolicy", "Queues")
    for name, queue in each.of_type("SQS::Queue").items():
        assert queue["SqsManagedSseEnabled"] is True
        assert refuses_plain_http(policies[name], "sqs:*")


def test_every_bucket_is_private_encrypted_and_refuses_plain_http(each: Template) -> None:
    policies = each.policies_of("S3::BucketPolicy", "Bucket")
    for name, bucket in each.of_type("S3::Bucket").items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert refuses_plain_http(policies[name], "s3:*")
        assert not [s for s in policies[name] if s.allows and s.raw["Principal"] in ("*", {"AWS": "*"})]


def refuses_plain_http(statements: list, action: str) -> bool:
    return any(
        not s.allows and action in s.actions and s.condition == {"Bool": {"aws:SecureTransport": "false"}}
        for s in statements
    )


def output_bucket(template: Template) -> dict:
    return next(
        b for b in template.of_type("S3::Bucket").values() if "mip-output-" in text_of(b.get("BucketName", ""))
    )


def test_the_output_bucket_is_versioned_tidied_and_read_by_pages(real: Template) -> None:
    bucket = output_bucket(real)
    assert text_of(bucket["BucketName"]) == naming.output_bucket("${AWS::AccountId}", "${AWS::Region}")
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    [rule] = bucket["LifecycleConfiguration"]["Rules"]
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    check_pages_read(bucket)


def check_pages_read(bucket: dict) -> None:
    [cors] = bucket["CorsConfiguration"]["CorsRules"]
    assert cors["AllowedMethods"] == ["GET", "HEAD"]
    assert cors["AllowedOrigins"] == ["http://localhost:3000", "http://127.0.0.1:3000"]


def test_pages_read_images_by_their_links_too(real: Template) -> None:
    [images] = [
        bucket
        for logical_id, bucket in real.of_type("S3::Bucket").items()
        if logical_id.startswith("BucketsImages")
    ]
    check_pages_read(images)


def test_the_origins_that_read_results_are_those_asked_for(oidc: Template) -> None:
    [cors] = output_bucket(oidc)["CorsConfiguration"]["CorsRules"]
    assert cors["AllowedOrigins"] == ["https://viewer.example.org"]


@pytest.mark.parametrize("kind", KEPT)
def test_what_people_would_miss_stays_when_the_stack_goes(
    each: Template, on_emulator: Template, kind: str
) -> None:
    for logical_id in each.of_type(kind):
        found = each.resource(logical_id)
        assert (found["DeletionPolicy"], found["UpdateReplacePolicy"]) == ("Retain", "Retain"), logical_id
    for logical_id in on_emulator.of_type(kind):
        assert on_emulator.resource(logical_id)["DeletionPolicy"] == "Delete", logical_id
    assert not on_emulator.of_type("CloudFormation::CustomResource")


def test_keys_are_generated_and_long(each: Template) -> None:
    secrets = each.of_type("SecretsManager::Secret")
    assert len(secrets) == 2
    for secret in secrets.values():
        assert "SecretString" not in secret
        assert secret["GenerateSecretString"]["PasswordLength"] >= 32
    assert "dev-admin" not in str(each.raw)
    assert "devkey" not in str(each.raw)


def test_images_are_scanned_and_kept() -> None:
    images = Template(template({}, naming.IMAGES_STACK))
    found = images.of_type("ECR::Repository")
    assert {r["RepositoryName"] for r in found.values()} == {naming.ALGORITHM_IMAGES, naming.PACS_IMAGE}
    for logical_id, repository in found.items():
        assert repository["ImageScanningConfiguration"] == {"ScanOnPush": True}
        assert "untagged" in repository["LifecyclePolicy"]["LifecyclePolicyText"]
        assert images.resource(logical_id)["DeletionPolicy"] == "Retain"
