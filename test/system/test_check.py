"""``mip new`` then ``mip check``; and ten broken images, each named for its fault."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from docker_engine import LABEL, DockerEngine, build_image
from platform_process import CLI, clean_environment

BROKEN_WORKER = Path(__file__).resolve().parents[1] / "broken" / "worker.py"
TIMEOUT_S = 240

# Fault of the broken worker → the check that fails, and what it must say.
FAULTS = {
    "exits": ("job ends well", ["exited with status 1", "the model file is missing"]),
    "hangs": ("job ends well", ["hangs", "no end within 4 s", "no CPU"]),
    "is slow": ("in time", ["too slow", "1 s"]),
    "writes outside /tmp": ("writes only to /tmp", ["outside /tmp", "/app/cache.bin"]),
    "non-DICOM": ("result is DICOM", ["non-DICOM"]),
    "wrong output": ("result is of the source", ["wrong output", "StudyInstanceUID"]),
    "leaks": ("keeps its credentials", ["leaks its credentials to its log"]),
}


def mip(engine: DockerEngine, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments],
        env=clean_environment(**engine.environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def check(engine: DockerEngine, what: str, *options: str) -> tuple[bool, dict[str, str]]:
    """Whether all passed, and what was said of each check that failed."""
    done = mip(engine, "check", what, "--json", *options)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["passed"] else 1)
    return said["passed"], {one["check"]: one["what"] for one in said["checks"] if one["outcome"] == "FAIL"}


def build(engine: DockerEngine, folder: Path, name: str, dockerfile: str, base: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(f"ARG BASE\nFROM ${{BASE}}\n{dockerfile}\n")
    shutil.copy(BROKEN_WORKER, folder / "worker.py")
    tag = f"mip-test-broken:{name.replace(' ', '-').replace('/', '')}"
    build_image(engine, folder, tag=tag, base=base)
    return tag


def with_fault(fault: str) -> str:
    command = json.dumps(["python3", "/app/worker.py", fault])
    return f"COPY worker.py /app/worker.py\nCMD {command}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path, fault: str) -> None:
    tag = build(docker_engine, tmp_path, fault, with_fault(fault), mip_base_image)
    time_limit = "4" if fault == "hangs" else "60"
    passed, failures = check(docker_engine, tag, "--time-limit", time_limit, "--budget", "1")
    named, words = FAULTS[fault]
    assert not passed
    assert named in failures, failures
    for word in words:
        assert word in failures[named]
    # What follows from the fault may be named too, but nothing that has nothing to do with it.
    assert set(failures) <= {named, "job ends well"}


def test_the_good_worker_passes(docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path) -> None:
    tag = build(docker_engine, tmp_path, "none", with_fault("none"), mip_base_image)
    assert check(docker_engine, tag) == (True, {})


def test_a_processor_that_writes_outside_tmp_is_named(
    docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path
) -> None:
    assert mip(docker_engine, "new", "writer", "--kind", "python", cwd=tmp_path).returncode == 0
    code = tmp_path / "writer" / "src" / "writer_processor" / "__init__.py"
    code.write_text(
        code.read_text().replace("        mask =", "        open('/app/cache.bin', 'wb')\n        mask =")
    )
    passed, failures = check(docker_engine, str(tmp_path / "writer"), "--base", mip_base_image)
    assert not passed
    assert set(failures) == {"writes only to /tmp", "job ends well"}
    assert "writer_processor:20" in failures["writes only to /tmp"]


def test_root_is_named(docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path) -> None:
    tag = build(docker_engine, tmp_path, "root", f"USER root\n{with_fault('none')}", mip_base_image)
    passed, failures = check(docker_engine, tag)
    assert not passed
    assert list(failures) == ["user"]
    assert "runs as root" in failures["user"]
    assert "USER 10001" in failures["user"]


@pytest.mark.parametrize(
    ("command", "named", "word"),
    [
        (["/app/worker.sh"], "worker starts", "has no program '/app/worker.sh'"),
        (["true"], "worker starts", "exited with status 0"),
        (["sleep", "3600"], "worker asks for jobs", "asked its queue for nothing"),
    ],
    ids=["no program", "ends at once", "asks for nothing"],
)
def test_no_worker_is_named(
    docker_engine: DockerEngine, debian_image: str, tmp_path: Path, command: list[str], named: str, word: str
) -> None:
    dockerfile = f"USER 10001:10001\nCMD {json.dumps(command)}"
    tag = build(docker_engine, tmp_path, f"no-worker-{len(command[0])}", dockerfile, debian_image)
    passed, failures = check(docker_engine, tag)
    assert not passed
    assert list(failures) == [named]
    assert failures[named].startswith("no worker: ")
    assert word in failures[named]


def test_a_wrong_architecture_is_named(docker_engine: DockerEngine) -> None:
    tag = "mip-test-broken:architecture"
    load_image(docker_engine, tag, architecture="s390x")
    passed, failures = check(docker_engine, tag)
    assert not passed
    assert list(failures) == ["architecture"]
    assert "wrong architecture: built for s390x" in failures["architecture"]


def load_image(engine: DockerEngine, tag: str, *, architecture: str) -> None:
    """An image that holds one empty file, for a machine that this one isn't."""
    repository, _, version = tag.partition(":")
    with closing(engine.client()) as client:
        changes = ["USER 10001:10001", 'CMD ["/app/worker.sh"]', f"LABEL {LABEL}=1"]
        client.api.import_image_from_data(tar_of({"empty": b""}), repository, version, changes=changes)
        saved = io.BytesIO(b"".join(client.images.get(tag).save(named=tag)))
        with tarfile.open(fileobj=saved) as tar:
            files = {m.name: f.read() for m in tar if (f := tar.extractfile(m)) is not None}
        manifest: list[dict[str, Any]] = json.loads(files["manifest.json"])
        config = json.loads(files[manifest[0]["Config"]])
        manifest[0]["Config"] = "other.json"
        files["other.json"] = json.dumps({**config, "architecture": architecture}).encode()
        files["manifest.json"] = json.dumps(manifest).encode()
        client.images.load(tar_of(files))


def tar_of(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


@pytest.mark.needs("g++")
@pytest.mark.parametrize("kind", ["python", "native"])
def test_new_then_check(docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path, kind: str) -> None:
    made = mip(docker_engine, "new", f"my_{kind}", "--kind", kind, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / f"my_{kind}"
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=folder, capture_output=True, text=True)
    assert tests.returncode == 0, tests.stdout
    assert check(docker_engine, str(folder), "--base", mip_base_image) == (True, {})


def test_the_table_says_what_to_do(docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path) -> None:
    tag = build(docker_engine, tmp_path, "root", f"USER root\n{with_fault('none')}", mip_base_image)
    done = mip(docker_engine, "check", tag)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("user")]
    assert "FAIL" in line
    assert "USER" in done.stdout
    assert "Traceback" not in done.stderr


def test_an_unknown_image(docker_engine: DockerEngine) -> None:
    done = mip(docker_engine, "check", "mip-test-broken:no-such")
    assert done.returncode == 1
    assert "there is no image mip-test-broken:no-such" in done.stderr


def test_a_sample_that_is_no_image(docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_text("no DICOM")
    done = mip(docker_engine, "check", mip_base_image, "--sample", str(tmp_path / "x.dcm"))
    assert done.returncode == 1
    assert "is no DICOM image" in done.stderr


def test_a_check_that_is_stopped_leaves_nothing_running(
    docker_engine: DockerEngine, mip_base_image: str, tmp_path: Path
) -> None:
    tag = build(docker_engine, tmp_path / "image", "hangs", with_fault("hangs"), mip_base_image)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = clean_environment(**docker_engine.environment, TMPDIR=str(temporary))
    checking = subprocess.Popen(
        [*CLI, "check", tag], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert checking.stderr is not None
    assert any(b"waiting for its result" in line for line in checking.stderr)
    checking.terminate()
    checking.stderr.close()
    assert checking.wait(30) == 143
    assert list(temporary.iterdir()) == []
    with closing(docker_engine.client()) as client:
        assert client.containers.list(filters={"ancestor": tag}) == []
