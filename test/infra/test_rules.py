"""What cdk-nag and cfn-lint say of the templates."""

from __future__ import annotations

import json
import subprocess

import pytest
from infra_template import Template

from aws_stack import INFRA, assemble
from conftest import MIGRATION, OIDC, OPEN

LINT = INFRA / ".venv" / "bin" / "cfn-lint"
NAG = "AwsSolutions::"
NEVER_USED = {
    "W3005": "the CDK names dependencies that follow from references, too",
}


@pytest.mark.parametrize("context", [{}, OIDC, OPEN, MIGRATION], ids=["keys", "oidc", "open", "migration"])
def test_cdk_nag_finds_nothing(context: dict[str, str]) -> None:
    report = json.loads((assemble(context) / "validation-report.json").read_text())
    nag = [plugin for plugin in report["pluginReports"] if plugin["pluginName"] == "AwsSolutions"]
    assert nag, "it did not run"
    assert [plugin["violations"] for plugin in nag] == [[]]
    assert {plugin["conclusion"] for plugin in nag} == {"success"}


@pytest.mark.parametrize(
    ("context", "count"),
    [({}, 34), (OIDC, 34), (OPEN, 33), (MIGRATION, 32)],
    ids=["keys", "oidc", "open", "migration"],
)
def test_every_exception_says_in_one_line_why_and_is_needed(context: dict[str, str], count: int) -> None:
    acknowledged = _acknowledged(context)
    assert len(acknowledged) == count, "a new exception, or one less? say here that it is meant"
    for rule, reason in acknowledged.items():
        assert 10 <= len(reason) <= 115, rule
        assert "\n" not in reason
    report = json.loads((assemble(context) / "validation-report.json").read_text())
    suppressed = {v["ruleName"] for plugin in report["pluginReports"] for v in plugin["suppressedViolations"]}
    assert set(acknowledged) == suppressed


def _acknowledged(context: dict[str, str]) -> dict[str, str]:
    metadata = json.loads((assemble(context) / "ImgPipeline.metadata.json").read_text())
    entries = [entry for entries in metadata.values() for entry in entries]
    rules = [entry["data"] for entry in entries if entry["type"] == "aws:cdk:acknowledged-rules"]
    return {
        rule.removeprefix(NAG): reason for each in rules for rule, reason in each.items() if rule.startswith(NAG)
    }


def test_cfn_lint_finds_nothing(real: Template, oidc: Template, migration: Template) -> None:
    templates = [str(assemble(context) / "ImgPipeline.template.json") for context in ({}, OIDC, MIGRATION)]
    templates.append(str(assemble({}) / "ImgPipelineImages.template.json"))
    command = [
        str(LINT),
        "--ignore-checks",
        *NEVER_USED,
        "--regions",
        "eu-central-1",
        "-t",
        *templates,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
