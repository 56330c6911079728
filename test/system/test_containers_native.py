"""Native algorithms in containers: the seed's grayscale_cpp, and its example adapter alone."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from containers_stage import ContainerApi, docker_platform

from api_calls import make_pacs
from docker_engine import DockerEngine, add_layer, build_image

ROOT = Path(__file__).resolve().parents[2]
NATIVE = "medical_image_processing.worker.native"
# The seed's own registration, but for the image's name.
GRAYSCALE = {
    "image_uri": "",
    "cpu": 2048,
    "memory": 4096,
    "command": ["/app/adapter.py"],
    "env": {"OMP_NUM_THREADS": "4"},
}


@pytest.fixture(scope="module")
def grayscale_image(docker_engine: DockerEngine, mip_base_image: str) -> str:
    tag = "mip-test-algos:grayscale"
    build_image(docker_engine, ROOT / "containers" / "grayscale", tag=tag, base=mip_base_image)
    return tag


@pytest.fixture(scope="module")
def adapter_image(docker_engine: DockerEngine, debian_image: str) -> str:
    """The example's Dockerfile as it stands, with a program that copies its input."""

    def build(folder: Path) -> str:
        examples = folder / "containers/examples"
        shutil.copytree(ROOT / "containers/examples", examples)
        program = examples / "bin/my_openmp"
        program.parent.mkdir()
        program.write_text('#!/bin/sh\necho "copied by $(id -u)" >&2\nexec cp "$1" "$2"\n')
        program.chmod(0o755)
        text = (examples / "Dockerfile").read_text()
        return text.partition("FROM ${BASE}\n")[2]

    return add_layer(docker_engine, debian_image, "adapter", build)


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, docker_engine: DockerEngine, grayscale_image: str
) -> Iterator[ContainerApi]:
    folder = tmp_path_factory.mktemp("native-containers")
    with docker_platform(folder / "home", make_pacs(folder / "pacs"), docker_engine) as platform:
        api = ContainerApi(platform, docker_engine, grayscale_image)
        api.register("grayscale_cpp", **{**GRAYSCALE, "image_uri": grayscale_image})
        yield api


@pytest.mark.needs("dciodvfy")
@pytest.mark.parametrize("scope", ["image", "series"])
def test_the_seeds_grayscale_makes_an_image_of_gray_values(api: ContainerApi, tmp_path: Path, scope: str) -> None:
    pacs = {"study_id": "study-1", "series_id": "series-1", "scope": scope}
    if scope == "image":
        pacs["image_id"] = "image-1"
    job = api.succeeds("grayscale_cpp", pacs=pacs)
    content = api.download(job["result"]["dicom"]["url"])
    result = pydicom.dcmread(io.BytesIO(content))
    assert (result.PhotometricInterpretation, result.BitsStored) == ("MONOCHROME2", 8)
    assert result.pixel_array.std() > 5
    assert (
        job["result"]["provenance"]["image_digest"]
        == api.record("grayscale_cpp")["resource_status"]["image_digest"]
    )
    file = tmp_path / "result.dcm"
    file.write_bytes(content)
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    assert "Error" not in said.stdout + said.stderr


def test_a_native_program_cannot_read_the_keys_of_its_worker(
    api: ContainerApi, docker_engine: DockerEngine, mip_base_image: str
) -> None:
    def build(folder: Path) -> str:
        script = 'cat /proc/[0-9]*/environ 2>/dev/null | tr "\\0" "\\n" | grep -c "SECRET\\|PACS_API_KEY" >&2'
        (folder / "nosy").write_text(f"#!/bin/sh\n{script}\nexit 1\n")
        (folder / "nosy").chmod(0o755)
        return "COPY nosy /app/bin/nosy"

    image = add_layer(docker_engine, mip_base_image, "nosy", build)
    api.register("nosy", image_uri=image, command=["python3", "-m", NATIVE, "/app/bin/nosy"])
    job = api.until_ended(api.process("nosy"))
    assert job["error"]["code"] == "EXECUTABLE_FAILED"
    assert job["error"]["message"].rstrip(".").endswith(": 0"), job["error"]["message"]


def test_the_seeds_adapter_alone_is_an_algorithm_in_a_container(api: ContainerApi, adapter_image: str) -> None:
    api.register("my_openmp", image_uri=adapter_image, cpu=1024, memory=2048, command=["/app/adapter.py"])
    job = api.succeeds("my_openmp")
    result = pydicom.dcmread(io.BytesIO(api.download(job["result"]["dicom"]["url"])))
    assert result.Modality == "CT"
    logs = api.get("/admin/algorithms/my_openmp/logs").text
    assert "copied by 10001" in logs
