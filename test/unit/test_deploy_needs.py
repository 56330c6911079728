"""Before anything is deployed, all that is missing is said at once."""

import os
import subprocess
from pathlib import Path

import pytest

from aws_emulator import AwsEmulator
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.deploy.needs import check_account, missing_tools
from medical_image_processing.errors import InvalidRequest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "infra" / "deploy-complete.sh"


def deploy_complete(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The script as a person runs it, on a machine that has nothing but a shell."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname", "readlink"):
        found = next(Path(folder) / name for folder in ("/bin", "/usr/bin") if (Path(folder) / name).exists())
        (programs / name).symlink_to(found)
    bare = {
        "PATH": str(programs),
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/none",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return subprocess.run(
        [str(SCRIPT), *arguments], env={**bare, **env}, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_script_names_everything_that_is_missing(tmp_path: Path) -> None:
    ran = deploy_complete(tmp_path, "--region", "us-east-1", "--account", "123456789012")
    assert ran.returncode == 1, ran.stderr
    *missing, last = ran.stderr.splitlines()[1:]  # the first tells what goes on
    assert [line.partition(":")[0] for line in missing[:3]] == ["node", "npm", "docker"]
    assert "credentials" in missing[-1]
    assert last.startswith("error: ")
    assert f"{len(missing)} things are missing" in last


def test_without_a_region_that_is_said(tmp_path: Path) -> None:
    assert "--region" in deploy_complete(tmp_path).stderr


def test_a_test_alone_needs_no_tools(tmp_path: Path) -> None:
    ran = deploy_complete(tmp_path, "--region", "us-east-1", "--test-only")
    assert ran.returncode == 1
    assert "node" not in ran.stderr
    assert "credentials" in ran.stderr


def test_every_tool_is_named_with_what_to_do() -> None:
    missing = missing_tools(lambda _: None)
    assert [line.partition(":")[0] for line in missing][:2] == ["node", "npm"]
    assert all(len(line.partition(": ")[2]) > 15 for line in missing)


def test_an_old_node_does_not_do(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho v18.19.0\n")
    node.chmod(0o755)
    (said,) = missing_tools(lambda name: str(node) if name == "node" else f"/usr/bin/{name}")
    assert "version 18" in said


def test_credentials_of_another_account_and_a_region_that_is_off_are_told_together(
    aws_emulator: AwsEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = aws_emulator.fresh_account()
    for name, value in mine.environment.items():
        monkeypatch.setenv(name, value)
    number, faults = check_account(Account("us-east-1"), mine.account)
    assert (number, faults) == (mine.account, [])
    _, (account,) = check_account(Account("us-east-1"), "111122223333")
    assert mine.account in account
    assert "111122223333" in account


def test_no_region_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidRequest, match="--region"):
        Account()
