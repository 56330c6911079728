"""mip-base and the images on it, as ``mip build`` makes them; and what it says when it can't."""

import json
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from docker_engine import DockerEngine, build_image
from platform_process import CLI, clean_environment

ROOT = Path(__file__).resolve().parents[2]
MAX_BASE_BYTES = 450e6

NOT_IN_A_WORKER = (
    *("fastapi", "starlette", "uvicorn", "typer", "rich", "httpx", "websockets", "docker", "awscrt"),
    *("aws_cdk", "boto3", "awscli", "scipy", "pytest", "hatchling", "setuptools"),
    *(f"medical_image_processing.{part}" for part in ("api", "control", "engines", "entrypoints", "ports")),
)


def run(engine: DockerEngine, image: str, *command: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and output of ``command`` in a room as locked as an algorithm's."""
    with closing(engine.client()) as client:
        container = client.containers.create(
            image,
            list(command) or None,
            environment=dict(env or {}),
            read_only=True,
            tmpfs={"/tmp": "size=64m"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode="none",
        )
        try:
            container.start()
            status = container.wait(timeout=60)["StatusCode"]
            return status, container.logs().decode()
        finally:
            container.remove(force=True)


def config(engine: DockerEngine, image: str) -> dict[str, Any]:
    with closing(engine.client()) as client:
        attributes: dict[str, Any] = client.images.get(image).attrs
        return attributes


def mip_build(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "build", *arguments],
        env=clean_environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_base_holds_the_worker_and_nothing_of_the_server(
    docker_engine: DockerEngine, mip_base_image: str
) -> None:
    code = (
        "import importlib.util as u, json, shutil, sys\n"
        "def there(name):\n"
        "    try: return u.find_spec(name) is not None\n"
        "    except ModuleNotFoundError: return False\n"
        "import medical_image_processing.worker.worker\n"
        "programs = [p for p in ('cc', 'gcc', 'g++', 'make', 'node', 'cdk') if shutil.which(p)]\n"
        "print(json.dumps([[n for n in sys.argv[1:] if there(n)], programs]))"
    )
    status, said = run(docker_engine, mip_base_image, "python3", "-c", code, *NOT_IN_A_WORKER)
    assert status == 0, said
    assert json.loads(said) == [[], []]


def test_the_base_is_small_and_not_root(docker_engine: DockerEngine, mip_base_image: str) -> None:
    image = config(docker_engine, mip_base_image)
    assert image["Size"] <= MAX_BASE_BYTES, f"{image['Size'] / 1e6:.0f} MB"
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Cmd"] == ["/app/worker.sh"]


def test_the_base_is_compiled_and_keeps_no_caches(docker_engine: DockerEngine, mip_base_image: str) -> None:
    script = """
        cd /opt/mip/lib/python3*/site-packages/medical_image_processing/worker
        ls __pycache__/worker.*.pyc
        find / -xdev 2>/dev/null | grep -E '[.]cache/pip|[.]whl$' | grep -v ensurepip | grep -v python-wheels
    """
    _, said = run(docker_engine, mip_base_image, "sh", "-c", script)
    assert len(said.splitlines()) == 1, said


def test_a_worker_without_its_queue_says_so(docker_engine: DockerEngine, mip_base_image: str) -> None:
    status, said = run(docker_engine, mip_base_image, env={"ALGO_ID": "processing_1"})
    assert status == 78
    (line,) = [json.loads(line) for line in said.splitlines()]
    assert "QUEUE_URL is not set; the platform sets it" in line["message"]


@pytest.mark.parametrize("algo_id", ["processing_1", "processing_6"])
def test_the_platform_s_own_algorithms_are_there(
    docker_engine: DockerEngine, mip_base_image: str, algo_id: str
) -> None:
    tag = f"mip-test-{algo_id}:latest"
    made = build_image(docker_engine, ROOT / "containers" / algo_id, tag=tag, base=mip_base_image)
    assert made["tag"] == tag
    assert made["image_id"].startswith("sha256:")
    module = "medical_image_processing.processing.base"
    code = f"from {module} import Processor; print(Processor.factory('{algo_id}').ALGO_ID)"
    assert run(docker_engine, tag, "python3", "-c", code) == (0, f"{algo_id}\n")


def test_names_for_images_come_from_folders() -> None:
    from medical_image_processing.entrypoints.images import default_tag
    from medical_image_processing.errors import InvalidRequest

    assert default_tag(ROOT / "containers" / "base") == "mip-base:latest"
    assert default_tag(ROOT / "containers" / "grayscale") == "mip-algos:grayscale"
    assert default_tag(Path("/somewhere/base")) == "mip-algos:base"
    with pytest.raises(InvalidRequest, match="give --tag"):
        default_tag(Path("/somewhere/a name with spaces"))


def test_no_engine(tmp_path: Path) -> None:
    done = mip_build(str(tmp_path), DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1
    assert "(NO_DOCKER_ENGINE)" in done.stderr
    assert "start one" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_dockerfile(docker_engine: DockerEngine, tmp_path: Path) -> None:
    done = mip_build(str(tmp_path), **docker_engine.environment)
    assert done.returncode == 1
    assert f"{tmp_path} has no Dockerfile" in done.stderr
    assert "mip new" in done.stderr


def test_no_base(docker_engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("ARG BASE=mip-base:latest\nFROM ${BASE}\n")
    # A registry that refuses connections, as this machine's own closed port does.
    done = mip_build(str(tmp_path), "--base", "127.0.0.1:1/none:1", "--json", **docker_engine.environment)
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "BASE_NOT_FOUND"
    assert "mip build containers/base" in error["message"]


def test_a_step_that_fails_is_named_with_its_last_lines(
    docker_engine: DockerEngine, debian_image: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {debian_image}\nRUN for n in $(seq 100); do echo line $n; done; exit 7\n"
    )
    done = mip_build(str(tmp_path), "--tag", "mip-test-broken", **docker_engine.environment)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "line 100" in lines
    assert "line 80" in lines
    assert "line 1" not in lines
    assert lines[-1].startswith("error: step 2/2 (RUN for n in")
    assert "non-zero code: 7" in lines[-1]


def test_verbose_shows_everything(docker_engine: DockerEngine, debian_image: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {debian_image}\nRUN echo hello from the build # {tmp_path}\n")
    tag = "mip-test-hello:latest"
    done = mip_build(str(tmp_path), "--tag", tag, "--verbose", **docker_engine.environment)
    assert done.returncode == 0, done.stderr
    assert "hello from the build" in done.stderr.splitlines(), done.stderr
    assert tag in done.stdout
    assert config(docker_engine, tag)["Config"]["Labels"] == {"mip.test": "1"}


def test_a_bad_instruction_is_named_and_nothing_else(
    docker_engine: DockerEngine, debian_image: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {debian_image}\nRUUN true\n")
    done = mip_build(str(tmp_path), "--tag", "mip-test-broken", **docker_engine.environment)
    assert done.returncode == 1
    assert "unknown instruction: RUUN" in done.stderr
    assert "http" not in done.stderr
