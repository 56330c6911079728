"""What a deployment may choose, and what it is told when it can't be so."""

from __future__ import annotations

import pytest
from infra_template import Template
from stack.settings import REACT_CLIENT, InvalidSettings, Settings, chosen, parse_settings

from aws_stack import StackFailed, assemble
from medical_image_processing import naming

OIDC = {"clients": "oidc", "oidc_issuer": "https://i.example.org", "oidc_audience": "mip"}


def test_nothing_said_is_keys_no_nat_and_the_react_client() -> None:
    assert parse_settings({}) == Settings(clients="keys", nat=False, allow_origins=REACT_CLIENT)


def test_what_a_command_line_says_is_understood() -> None:
    given = {**OIDC, "nat": "true", "task_env": '{"B": "2", "A": "1"}', "queue_limit": "7", "allow_origins": "*"}
    settings = parse_settings(given)
    assert (settings.nat, settings.queue_limit, settings.allow_origins) == (True, 7, ("*",))
    assert settings.task_env == '{"A": "1", "B": "2"}'
    assert parse_settings({"aws:cdk:enable-path-metadata": True, "@aws-cdk/core:x": 1}) == Settings()
    assert parse_settings({"allow_origins": ""}).allow_origins == REACT_CLIENT


def test_the_template_says_what_was_chosen_so_that_the_next_deployment_knows(
    real: Template, oidc: Template
) -> None:
    assert real.raw["Metadata"][naming.CHOICES] == {}
    said = oidc.raw["Metadata"][naming.CHOICES]
    assert said["clients"] == "oidc"
    assert parse_settings(said).nat is True
    given = {"nat": True, "task_env": {"A": "1"}, "clients": "", "queue_limit": None, "log_days": 30}
    assert chosen(given) == {"log_days": "30", "nat": "true", "task_env": '{"A": "1"}'}
    assert parse_settings(chosen(given)) == parse_settings(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"client": "open"}, "client: there is no such choice; there are allow_origins, clients,"),
        ({"clients": "all"}, "clients: must be one of keys, oidc, open, not 'all'"),
        ({"clients": "oidc"}, "oidc_issuer: needed with clients=oidc; give it with -c oidc_issuer=…"),
        ({"oidc_issuer": "https://x"}, "only read with clients=oidc"),
        (
            {**OIDC, "oidc_issuer": "x"},
            "oidc_issuer: must be an address that begins with http:// or https://, not 'x'",
        ),
        ({"nat": "yes"}, "nat: must be true or false, not 'yes'"),
        ({"allow_origins": "https://a.org/page"}, "'https://a.org/page' is no origin; write https://host"),
        ({"pacs_bucket": "s3://x"}, "pacs_bucket: must be a bucket's name, not 's3://x'"),
        (
            {"pacs_bucket": "abc", "dicomweb_url": "https://x"},
            "pacs_bucket, dicomweb_url: images come from one place",
        ),
        (
            {"dicomweb_secret": "arn:aws:secretsmanager:x:1:secret:y"},
            "dicomweb_secret: must be the ARN of a secret",
        ),
        ({"pacs_link_buckets": "abc"}, "pacs_link_buckets: only read with pacs_api_base"),
        ({"pacs_link_buckets": "abc,s3://x"}, "pacs_link_buckets: must be a bucket's name, not 's3://x'"),
        ({"image_repositories": "A"}, "image_repositories: must be a repository's name, not 'A'"),
        ({"queue_limit": "-1"}, "queue_limit: must be a number of at least 1, not '-1'"),
        ({"log_days": "8"}, "log_days: must be one of 7, 14, 30,"),
        ({"insights": "maybe"}, "insights: must be one of own, shared, off, not 'maybe'"),
        ({"task_env": "A=1"}, "task_env: must be a JSON object such as"),
        ({"task_env": '{"A": 1}'}, "task_env: must be a JSON object of texts"),
        ({"task_env": '{"1A": "1"}'}, "task_env: '1A' can't be the name of an environment variable"),
        ({"task_env": '{"QUEUE_URL": "1"}'}, "task_env: QUEUE_URL is set by the platform"),
    ],
)
def test_what_is_wrong_is_said_by_name_with_what_to_write(given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        parse_settings(given)
    assert said in str(raised.value)


def test_all_faults_are_told_at_once_and_nothing_is_synthesized() -> None:
    with pytest.raises(StackFailed) as raised:
        assemble({"clients": "all", "nat": "yes"})
    assert "clients: must be" in str(raised.value)
    assert "nat: must be" in str(raised.value)
    assert "Traceback" not in str(raised.value)
