"""Templates for the tests, each synthesized once; and a way to ask them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from infra_template import Template

from aws_stack import EMULATOR_CONTEXT, INFRA, template

sys.path.insert(0, str(INFRA))

SYNTHESIS_S = 900
OIDC = {
    "clients": "oidc",
    "oidc_issuer": "https://login.example.org/realm",
    "oidc_audience": "mip",
    "nat": "true",
    "pacs_bucket": "dicom-of-the-hospital",
    "allow_origins": "https://viewer.example.org",
}
OPEN = {
    "clients": "open",
    "dicomweb_url": "http://pacs.example.org:8042/dicom-web",
    "dicomweb_secret": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:pacs-AbCdEf",
    "insights": "shared",
    "reserve": "false",
    "log_days": "30",
    "task_env": '{"HTTPS_PROXY": "http://proxy:3128"}',
}
MIGRATION = {
    "pacs_api_base": "http://pacs.example.org:8081/api",
    "pacs_link_buckets": "dicom-of-the-hospital, dicom-of-the-clinic",
    "image_repositories": "mip-algos,team/*",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test here waits for the CDK's environments, the zip and a synthesis."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(SYNTHESIS_S), append=False)
            item.add_marker(pytest.mark.needs("node", "npm"))


@pytest.fixture(scope="session")
def real() -> Template:
    """What is deployed by default."""
    return Template(template({}))


@pytest.fixture(scope="session")
def oidc() -> Template:
    """Clients of an OIDC issuer, a NAT, a bucket of DICOM files that is there already."""
    return Template(template(OIDC))


@pytest.fixture(scope="session")
def open_clients() -> Template:
    """Clients without keys, a DICOMweb server."""
    return Template(template(OPEN))


@pytest.fixture(scope="session")
def migration() -> Template:
    """A PACS API that is there already, with links into buckets; images in other repositories, too."""
    return Template(template(MIGRATION))


@pytest.fixture(scope="session")
def on_emulator() -> Template:
    """What tests deploy on an emulator."""
    return Template(template(EMULATOR_CONTEXT))


@pytest.fixture(scope="session", params=["real", "oidc", "open_clients"])
def each(request: pytest.FixtureRequest) -> Template:
    """Every template that is for AWS itself."""
    made: Template = request.getfixturevalue(request.param)
    return made
