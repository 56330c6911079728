"""Images on their way to a registry: sent once, and known again by what they are."""

import io
import json
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from aws_emulator import AwsEmulator
from docker_engine import DockerEngine
from free_ports import free_port
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.deploy.push import Registry, Source, is_same_image, push
from medical_image_processing.entrypoints.images import Image, find_image
from medical_image_processing.errors import Unavailable

CONFIG, MANIFEST = f"sha256:{'c' * 64}", f"sha256:{'d' * 64}"


@pytest.fixture
def engine(docker_engine: DockerEngine) -> Iterator[Any]:
    client = docker.DockerClient(base_url=docker_engine.host)
    yield client
    client.close()


@pytest.fixture
def small_image(engine: Any) -> Iterator[Image]:
    """An image of one file."""
    with io.BytesIO() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("empty"), io.BytesIO(b""))
        engine.api.import_image_from_data(stream.getvalue(), repository="mip-test-push", tag="1")
    image = find_image(engine, "mip-test-push:1")
    yield image
    engine.images.remove(image.image_id, force=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry of this machine, empty."""
    port = free_port()
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    file = tmp_path / "registry.yml"
    file.write_text(json.dumps(config))
    program = str(shutil.which("docker-registry"))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(file)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 10
        while not _answers(port):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(5)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/", trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.needs("docker-registry")
def test_a_pushed_image_is_there_under_the_digest_that_is_told(
    engine: Any, small_image: Image, registry: str
) -> None:
    digest = push(engine, small_image.tag, f"{registry}/mip-algos", "processing_1", None)
    answer = httpx.get(
        f"http://{registry}/v2/mip-algos/manifests/processing_1",
        headers={"accept": "application/vnd.docker.distribution.manifest.v2+json"},
        trust_env=False,
    )
    assert answer.headers["docker-content-digest"] == digest
    assert is_same_image(answer.text, digest, small_image.image_id)
    assert push(engine, small_image.tag, f"{registry}/mip-algos", "processing_1", None) == digest


def test_a_registry_that_does_not_answer_is_told_in_one_sentence(engine: Any, small_image: Image) -> None:
    with pytest.raises(Unavailable, match="can't be pushed"):
        push(engine, small_image.tag, "127.0.0.1:1/mip-algos", "processing_1", None)


class NoEngine:
    """Nothing may be sent."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the engine was asked for {name}")


@pytest.mark.parametrize("image_id", [CONFIG, MANIFEST])
def test_what_the_account_has_already_is_not_sent(
    aws_emulator: AwsEmulator, monkeypatch: pytest.MonkeyPatch, image_id: str
) -> None:
    mine = aws_emulator.fresh_account()
    for name, value in mine.environment.items():
        monkeypatch.setenv(name, value)
    ecr = mine.clients().client("ecr").boto
    uri = ecr.create_repository(repositoryName="mip-algos")["repository"]["repositoryUri"]
    tag = f"processing_1-{image_id.partition(':')[2][:12]}"
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": CONFIG}})
    ecr.put_image(repositoryName="mip-algos", imageManifest=manifest, imageTag=tag, imageDigest=MANIFEST)
    image = Image("mip-algos:processing_1", image_id, 1, "10001", "amd64", ())
    found = Registry(Account(), NoEngine()).ensure(Source("p", "mip-algos", "processing_1"), image, lambda _: None)
    assert found.was_there
    assert (found.uri, found.tag) == (f"{uri}@{MANIFEST}", tag)


def test_another_image_under_the_same_tag_is_no_reason_not_to_send(
    aws_emulator: AwsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = aws_emulator.fresh_account()
    for name, value in mine.environment.items():
        monkeypatch.setenv(name, value)
    ecr = mine.clients().client("ecr").boto
    ecr.create_repository(repositoryName="mip-algos")
    manifest = json.dumps({"config": {"digest": f"sha256:{'e' * 64}"}})
    ecr.put_image(repositoryName="mip-algos", imageManifest=manifest, imageTag=f"processing_1-{'c' * 12}")
    image = Image("mip-algos:processing_1", CONFIG, 1, "10001", "amd64", ())
    with pytest.raises(AssertionError, match="the engine was asked"):
        Registry(Account(), NoEngine()).ensure(Source("p", "mip-algos", "processing_1"), image, lambda _: None)
