"""The Lambdas' zip: the same bytes from the same code wherever it lies, and all that a Lambda needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import lambda_package
import pytest
from stack.lambdas import HANDLERS, LAMBDAS

from aws_stack import EMULATOR_CONTEXT, INFRA, ROOT, assemble

UNZIPPED_LIMIT = 250 * 1024 * 1024
ZIPPED_LIMIT = 50 * 1024 * 1024
"""AWS Lambda quotas, "Deployment package"."""


@pytest.fixture(scope="session")
def zip_file() -> Path:
    """The zip that the template's asset is."""
    folder = assemble(EMULATOR_CONTEXT)
    assets = json.loads((folder / "ImgPipeline.assets.json").read_text())["files"]
    [path] = [a["source"]["path"] for a in assets.values() if a["source"]["path"].endswith(".zip")]
    return folder / path


@pytest.fixture(scope="session")
def unzipped(zip_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What AWS puts at /var/task."""
    folder = tmp_path_factory.mktemp("task")
    with zipfile.ZipFile(zip_file) as archive:
        archive.extractall(folder)
    return folder


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_made_again_it_is_the_same_bytes(zip_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    lambda_package.write_zip(again, lambda_package.ensure_packages())
    assert sha256(again) == sha256(zip_file)


def test_made_in_another_folder_it_is_the_same_bytes(zip_file: Path, tmp_path: Path) -> None:
    """From a copy that installs its packages anew, with files that are younger and were compiled."""
    (tmp_path / "infra").mkdir()
    for name in ("environment.py", "lambda_package.py"):
        shutil.copy(INFRA / name, tmp_path / "infra" / name)
    shutil.copy(ROOT / "requirements-lambda.lock", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored, copy_function=shutil.copyfile)
    code = tmp_path / "src" / "medical_image_processing"
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(code / "model")], check=True)
    python = f"import sys; sys.path.insert(0, {str(tmp_path / 'infra')!r}); import lambda_package as package; "
    made = subprocess.run(
        [sys.executable, "-c", python + "print(package.ensure_zip())"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert sha256(Path(made.stdout.strip())) == sha256(zip_file)


def test_it_holds_no_trace_of_this_machine(zip_file: Path, unzipped: Path) -> None:
    with zipfile.ZipFile(zip_file) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert not [
        name for name in names if name.endswith((".pyc", "/RECORD", "direct_url.json")) or name[:4] == "bin/"
    ]
    for file in unzipped.rglob("*.py"):
        assert str(ROOT) not in file.read_text(errors="replace"), file


def test_it_fits(zip_file: Path, unzipped: Path) -> None:
    assert zip_file.stat().st_size < ZIPPED_LIMIT / 3
    assert sum(file.stat().st_size for file in unzipped.rglob("*") if file.is_file()) < UNZIPPED_LIMIT / 3


def test_what_lambdas_dont_need_stays_out(unzipped: Path) -> None:
    ours = {path.name for path in (unzipped / "medical_image_processing").iterdir()}
    assert not ours & {"worker", "processing", "dicom", "pacs", "testing", "templates", "samples.py"}
    assert not (unzipped / "medical_image_processing" / "entrypoints" / "cli.py").exists()
    assert not (unzipped / "numpy").exists()


@pytest.mark.parametrize("name", list(LAMBDAS))
def test_each_handler_can_be_imported_where_nothing_else_is(unzipped: Path, name: str) -> None:
    module, _, function = f"{HANDLERS}.{LAMBDAS[name].handler}".rpartition(".")
    code = f"""
import sys
sys.path.insert(0, {str(unzipped)!r})
from importlib import import_module
assert callable(getattr(import_module({module!r}), {function!r}))
"""
    assert said_by(code) == ""


def test_every_aws_service_that_the_engine_calls_is_described_in_it(unzipped: Path) -> None:
    """Their names are taken from the engine's source; botocore's descriptions of all others are left out."""
    engine = ROOT / "src" / "medical_image_processing" / "engines" / "aws"
    called = {
        name
        for file in engine.glob("*.py")
        for name in re.findall(r"""\.client\(\s*"([a-z0-9]+)\"""", file.read_text())
    }
    assert called >= {"dynamodb", "sqs", "iam", "ecs"}
    code = f"""
import sys
sys.path.insert(0, {str(unzipped)!r})
import boto3
for name in {sorted(called)!r}:
    boto3.client(name, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
try:
    boto3.client("rds", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
except Exception as error:
    assert type(error).__name__ in ("UnknownServiceError", "DataNotFoundError"), error
else:
    raise AssertionError("rds is described, too: this test would see nothing missing")
"""
    assert said_by(code) == ""


def said_by(code: str) -> str:
    """What an interpreter that finds nothing but its own library complains of."""
    python = str(getattr(sys, "_base_executable", sys.executable))
    done = subprocess.run([python, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=False)
    return done.stderr


def test_locks_pin_by_hash_and_name_no_registry() -> None:
    for lock in (ROOT / "requirements-lambda.lock", INFRA / "requirements.lock"):
        text = lock.read_text()
        pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pinned
        assert all("==" in line for line in pinned)
        assert text.count("--hash=sha256:") >= len(pinned)
        assert "://" not in text
    npm = json.loads((INFRA / "package-lock.json").read_text())
    packages = {name: found for name, found in npm["packages"].items() if name}
    assert all("integrity" in found and "resolved" not in found for found in packages.values())
    assert packages["node_modules/aws-cdk"]["version"] == "2.1148.1"
