"""The commands of a person against the stack on an emulator: the same as against a platform of one machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aws_emulator import REGION, AwsEmulator, EmulatorMissing, running_emulator
from aws_stack import AwsStack, deploy
from medical_image_processing.entrypoints.cli import app
from medical_image_processing.entrypoints.client import Client, read_env
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.deploy.deployment import keep_choices
from medical_image_processing.errors import Unauthorized

IMAGE = "processing_1"


class Person:
    """Who has just deployed, and typed ``eval "$(mip env)"``."""

    def __init__(self, stack: AwsStack, folder: Path) -> None:
        self.stack = stack
        self._env = {name: "" for name in ("MIP_ADMIN_KEY", "MIP_CLIENT_KEY")} | stack.emulator.environment
        answer = self.mip("env", "--stack", "ImgPipeline")
        assert answer.exit_code == 0, answer.output
        (folder / "env").write_text(answer.stdout)
        told = read_env(folder / "env")
        # On AWS the addresses are good as they are; an emulator has them elsewhere.
        here = {"API_BASE": stack.api_base, "MIP_API_BASE": stack.api_base, "WS_ENDPOINT": stack.ws_endpoint}
        self.env = {**told, **here}
        self._env |= self.env

    def mip(self, *arguments: str, **env: str) -> Result:
        return CliRunner(env={**self._env, "COLUMNS": "100", **env}).invoke(app, arguments, prog_name="mip")


@pytest.fixture(scope="module")
def emulator(samples_cache: Path) -> Iterator[AwsEmulator]:
    """One of its own: what isn't signed, such as our APIs' requests, goes to its default account."""
    try:
        with running_emulator(samples_cache) as running:
            yield running
    except EmulatorMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def person(emulator: AwsEmulator, tmp_path_factory: pytest.TempPathFactory) -> Person:
    stack = deploy(emulator)
    ecr = stack.emulator.clients().client("ecr").boto
    ecr.put_image(repositoryName="mip-algos", imageManifest='{"schemaVersion": 2}', imageTag=IMAGE)
    return Person(stack, tmp_path_factory.mktemp("person"))


def test_the_deployed_template_says_what_was_chosen(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in person.stack.emulator.environment.items():
        monkeypatch.setenv(name, value)
    assert keep_choices(Account(REGION), {"nat": "true"}) == {"emulator": "true", "nat": "true"}


def image(person: Person) -> str:
    ecr = person.stack.emulator.clients().client("ecr").boto
    uri = ecr.describe_repositories(repositoryNames=["mip-algos"])["repositories"][0]["repositoryUri"]
    return f"{uri}:{IMAGE}"


def test_the_admin_api_does_what_it_should(person: Person) -> None:
    answer = person.mip("deploy", "test-admin", "--image", image(person))
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.count("passed") == 7


def test_every_kind_of_command_finds_the_platform(person: Person) -> None:
    for command in (("algorithms", "list"), ("keys", "list")):
        assert person.mip(*command).exit_code == 0
    key = person.mip("keys", "add", "ct-room").stdout.strip()
    assert key
    assert person.mip("jobs", "list", "--json").exit_code == 1  # clients need a key
    jobs = person.mip("jobs", "list", "--json", MIP_CLIENT_KEY=key)
    assert json.loads(jobs.stdout)["jobs"] == []


def test_results_are_listened_for_on_the_other_host(person: Person) -> None:
    with Client.from_environment(person.env) as nobody, pytest.raises(Unauthorized):
        nobody.call("POST", "provision", body={})
    key = person.mip("keys", "add", "ward").stdout.strip()
    with Client.from_environment({**person.env, "MIP_CLIENT_KEY": key}) as client:
        client_id = client.call("POST", "provision", body={})["client_id"]
        with client.results(client_id) as results:
            assert results.receive(0.2) is None


def test_a_rotated_admin_key_opens_and_so_does_the_one_before(person: Person) -> None:
    before = person.stack.admin_key
    assert person.mip("deploy", "rotate-admin-key").exit_code == 0
    assert person.stack.admin_key != before
    assert person.mip("algorithms", "list").exit_code == 0
    assert person.mip("algorithms", "list", MIP_ADMIN_KEY=before).exit_code == 0
    assert person.mip("algorithms", "list", MIP_ADMIN_KEY="dev-admin").exit_code == 1
    assert before not in (told := person.mip("algorithms", "list").output)
    assert person.stack.admin_key not in told
