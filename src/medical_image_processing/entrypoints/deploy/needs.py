"""What a deployment needs of the machine and of the account, looked at before anything is done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.images import docker_engine
from medical_image_processing.errors import InvalidRequest, MipError

LEAST_NODE = 20
_ENABLED = ("opt-in-not-required", "opted-in")

Find = Callable[[str], str | None]


@dataclass(frozen=True)
class Ready:
    """The account and the clone that everything is there for."""

    account: Account
    number: str
    root: Path


def check(*, region: str | None, number: str | None, root: Path, images: bool = True, cdk: bool = True) -> Ready:
    """Look at everything, then say all that is missing at once: InvalidRequest ``NOT_READY``."""
    missing = missing_tools() if cdk else []
    if cdk and not (root / "infra" / "run.py").is_file():
        missing.append("a clone of this project: infra/run.py isn't there; run ./mip of a clone")
    if images:
        missing += missing_engine()
    try:
        account = Account(region)
        found, faults = check_account(account, number)
    except MipError as error:
        raise _not_ready([*missing, error.message]) from error
    if missing or faults:
        raise _not_ready([*missing, *faults])
    return Ready(account, found, root)


def missing_tools(find: Find = shutil.which) -> list[str]:
    """The programs that the CDK needs and that aren't there, each with what to do."""
    missing = []
    if (node := find("node")) is None:
        missing.append(
            f"node: install Node.js {LEAST_NODE} or newer (on Debian: sudo apt-get install -y nodejs npm)"
        )
    elif (version := _major(node)) < LEAST_NODE:
        missing.append(f"node: {node} is version {version}; the CDK needs {LEAST_NODE} or newer")
    if find("npm") is None:
        missing.append("npm: it comes with Node.js, on Debian as the package npm")
    if not (Path(sys.executable).with_name("uv").exists() or find("uv")):
        missing.append("uv: remove .venv and run ./mip again, which installs it")
    return missing


def missing_engine() -> list[str]:
    """What is wrong with the Docker engine, if anything."""
    try:
        with docker_engine():
            return []
    except MipError as error:
        return [f"docker: {error.message}"]


def check_account(account: Account, number: str | None) -> tuple[str, list[str]]:
    """Whose credentials these are, and what is wrong with that. MipError where AWS takes none."""
    found = account.number()
    faults = []
    if number is not None and found != number:
        faults.append(
            f"the AWS credentials are of account {found}, not {number}; set AWS_PROFILE, or give --account {found}"
        )
    if (status := region_status(account)) not in _ENABLED:
        faults.append(
            f"the region {account.region} is {status} in account {found}; enable it, or give another --region"
        )
    return found, faults


def region_status(account: Account) -> str:
    """EC2's word for whether the account may use the region; who may not ask it will be told by the deployment."""
    try:
        asked: Mapping[str, object] = {"RegionNames": [account.region], "AllRegions": True}
        (region,) = account.call("ec2", "describe_regions", **asked)["Regions"]
    except (MipError, ValueError):
        return _ENABLED[0]
    return str(region.get("OptInStatus", _ENABLED[0]))


def _major(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    major = said.strip().removeprefix("v").partition(".")[0]
    return int(major) if major.isdecimal() else 0


def _not_ready(missing: list[str]) -> InvalidRequest:
    count = "one thing is" if len(missing) == 1 else f"{len(missing)} things are"
    return InvalidRequest(
        "NOT_READY", f"{count} missing before anything can be deployed; see above", details={"log": missing}
    )
