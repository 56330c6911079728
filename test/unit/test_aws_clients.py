"""What the AWS engine's clients are made with."""

import pytest

from medical_image_processing.engines.aws.clients import ANSWERING, PATIENT, AwsClients, Patience
from medical_image_processing.errors import PermanentError


def test_the_region_is_the_one_that_lambda_and_fargate_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert AwsClients().region == "eu-central-1"
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(PermanentError, match="SETTING_MISSING"):
        AwsClients().client("sqs")


def test_no_call_is_without_a_limit_and_each_client_is_made_once() -> None:
    clients = AwsClients(region="eu-central-1")
    for service in ("dynamodb", "sqs", "s3"):
        config = clients.client(service).boto.meta.config
        assert (config.connect_timeout, config.read_timeout) == (3, 10)
        assert (config.retries["mode"], config.retries["total_max_attempts"]) == ("standard", 5)
        assert clients.client(service) is clients.client(service)
    clients.close()


@pytest.mark.parametrize("patience", [PATIENT, ANSWERING])
def test_a_client_is_as_patient_as_it_is_asked_to_be(patience: Patience) -> None:
    config = AwsClients(region="eu-central-1", patience=patience).client("dynamodb").boto.meta.config
    assert config.retries["total_max_attempts"] == patience.attempts
    assert (config.connect_timeout, config.read_timeout) == (patience.connect_timeout_s, patience.read_timeout_s)


def test_whoever_waits_for_an_answer_gets_the_reason_before_the_gateway_ends_the_request() -> None:
    assert ANSWERING.most_s + 5 < 29, "a call that fails, and what else the request does"


def test_links_name_the_regions_own_address_and_the_signature_that_encrypted_buckets_want() -> None:
    s3 = AwsClients(region="eu-central-1").client("s3").boto
    assert s3.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    assert s3.meta.config.signature_version == "s3v4"
