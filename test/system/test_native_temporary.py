"""A native program's files in its container's /tmp and /dev/shm go with the job that made them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from containers_stage import SMALL, ContainerApi, docker_platform

from api_calls import make_pacs
from docker_engine import DockerEngine, add_layer

# Three jobs fill the 256 MiB that /tmp has with 512 MiB of memory.
PROGRAM = """#!/bin/sh
for folder in /tmp /dev/shm; do
    [ ! -e $folder/secret ] || { echo "an earlier job's secret is in $folder" >&2; exit 1; }
    echo secret > $folder/secret || exit 1
done
head -c 100M /dev/zero > /tmp/big || exit 1
cp "$1" "$2"
"""


@pytest.fixture(scope="module")
def image(docker_engine: DockerEngine, mip_base_image: str) -> str:
    def build(folder: Path) -> str:
        (folder / "litter").write_text(PROGRAM)
        (folder / "litter").chmod(0o755)
        return "COPY litter /app/litter\n"

    return add_layer(docker_engine, mip_base_image, "litter", build)


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, docker_engine: DockerEngine, image: str
) -> Iterator[ContainerApi]:
    folder = tmp_path_factory.mktemp("native-temporary")
    with docker_platform(folder / "home", make_pacs(folder / "pacs"), docker_engine) as platform:
        yield ContainerApi(platform, docker_engine, image)


def test_no_job_meets_what_another_left(api: ContainerApi) -> None:
    command = ["python3", "-m", "medical_image_processing.worker.native", "/app/litter"]
    api.register("litter", image_uri=api.image, command=command, **SMALL)
    for number in range(4):
        api.succeeds("litter", job_id=f"litter-{number}")
