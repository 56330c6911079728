"""How the CDK is called, and what is said when it fails; by a stand-in for infra/run.py."""

import json
from pathlib import Path

import pytest

from aws_emulator import AwsEmulator
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.deploy.cdk import BOOTSTRAP_PARAMETER, Cdk
from medical_image_processing.errors import Unavailable

STAND_IN = """
import json, os, sys
import beside_it
print(json.dumps([sys.argv[1:], os.environ["AWS_REGION"]]))
print("and   something\\n\\nwrong", file=sys.stderr)
sys.exit(3 if sys.argv[1] == "destroy" else 0)
"""


@pytest.fixture
def mine(aws_emulator: AwsEmulator, monkeypatch: pytest.MonkeyPatch) -> AwsEmulator:
    account = aws_emulator.fresh_account()
    for name, value in account.environment.items():
        monkeypatch.setenv(name, value)
    return account


@pytest.fixture
def cdk(mine: AwsEmulator, tmp_path: Path) -> Cdk:
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "run.py").write_text(STAND_IN)
    (tmp_path / "infra" / "beside_it.py").write_text("")
    return Cdk(tmp_path, Account("eu-west-1"), mine.account, {"clients": "open"})


def test_it_is_run_for_one_stack_with_the_choices_and_every_line_is_told(cdk: Cdk) -> None:
    said: list[str] = []
    cdk.run("deploy", "A", context={"nat": "true"}, tell=said.append)
    arguments, region = json.loads(said[0].removeprefix("deploy: "))
    assert arguments == ["deploy", "A", "-c", "clients=open", "-c", "nat=true"]
    assert region == "eu-west-1"
    assert said[1:] == ["deploy: and something", "deploy: wrong"]


def test_a_deployment_leaves_other_stacks_alone_and_asks_nothing(cdk: Cdk) -> None:
    said: list[str] = []
    cdk.deploy("ImgPipeline", new=False, tell=said.append)
    assert said[0].startswith('deploy: [["deploy", "ImgPipeline", "--exclusively", "--require-approval", "never",')


def test_a_failure_shows_the_last_lines(cdk: Cdk) -> None:
    with pytest.raises(Unavailable, match="ended with 3") as failed:
        cdk.destroy("ImgPipeline", lambda _: None)
    assert failed.value.details is not None
    assert failed.value.details["log"][-1] == "wrong"


def test_a_region_is_bootstrapped_when_it_has_the_cdk_s_parameter(mine: AwsEmulator, cdk: Cdk) -> None:
    assert not cdk.is_bootstrapped()
    ssm = mine.clients().client("ssm").boto
    ssm.put_parameter(Name=BOOTSTRAP_PARAMETER, Value="30", Type="String")
    assert Cdk(Path(), Account("us-east-1"), mine.account, {}).is_bootstrapped()
