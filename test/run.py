"""``mip test``: gets the system parts that tests need, builds the web client, checks the code, then runs pytest.

Arguments are pytest's. Every check runs whatever came before it; the exit status is 0 when all passed.
pytest comes last, so that its own closing line ends the output.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from medical_image_processing.entrypoints.web_build import BuildFailed, build_client

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent

# Debian package → the program in it that tests ask for with ``@pytest.mark.needs``.
DEBIAN_PACKAGES = {
    "dcmtk": "storescu",
    "dicom3tools": "dciodvfy",
    "orthanc": "Orthanc",
    "orthanc-dicomweb": "Orthanc",
    "docker.io": "dockerd",
    "docker-registry": "docker-registry",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "iproute2": "ip",
    "curl": "curl",
    "openssl": "openssl",
    "nginx-light": "nginx",
    "nodejs": "node",
    "npm": "npm",
    "chromium": "chromium",
}
STEP_TIMEOUT_S = 300
INSTALL_TIMEOUT_S = 900
"""Chromium alone is 80 MB, and npm some four hundred packages."""
SIDE_BY_SIDE = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
"""All tests: half of the time they wait, for containers and leases. Tests that were asked for run one by one."""

CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "mypy of the benches": ["mypy", "bench"],
    "import-linter": ["lint-imports"],
}
INFRA_PYTHON = ROOT / "infra" / ".venv" / SCRIPTS.name / Path(sys.executable).name
INFRA_CHECKS = {
    "mypy of infra": [str(INFRA_PYTHON), "-m", "mypy", "--config-file", str(ROOT / "infra" / "mypy.ini")],
}
"""With the CDK's own environment, which the tests of infra make on first use."""


def main(arguments: list[str]) -> int:
    """Run everything; the exit status."""
    os.chdir(ROOT)
    install_system_parts()
    failed = [] if builds_web_client() else ["web client"]
    checks = CHECKS | (INFRA_CHECKS if INFRA_PYTHON.exists() else {})
    failed += [name for name, command in checks.items() if not passes(name, command)]
    if failed:
        print(f"== failed: {', '.join(failed)}; what is wrong stands above", flush=True)
    print("== pytest", flush=True)
    command = [sys.executable, "-m", "pytest", *(arguments or SIDE_BY_SIDE)]
    tests = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    return tests.returncode or (1 if failed else 0)


def install_system_parts() -> None:
    """Install the Debian packages that are missing, where we may; the tests say what else is missing."""
    missing = [package for package, program in DEBIAN_PACKAGES.items() if shutil.which(program) is None]
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(
            f"== tests that need {names} are skipped; to run them: sudo apt-get install -y {names}",
            flush=True,
        )
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing]
    for name, command in {
        "apt-get update": ["apt-get", "-q", "update"],
        f"apt-get install {names}": install,
    }.items():
        passes(name, command, env=env, timeout_s=INSTALL_TIMEOUT_S)


def builds_web_client() -> bool:
    """Build the web client, where its sources have changed. Without npm its tests are skipped: no failure here."""
    print("== web client …", flush=True)
    began = time.monotonic()
    try:
        build_client()
    except BuildFailed as error:
        print(f"== web client FAILED: {error}", flush=True)
        return shutil.which("npm") is None
    print(f"== web client passed ({time.monotonic() - began:.1f} s)", flush=True)
    return True


def passes(
    name: str, command: list[str], *, env: dict[str, str] | None = None, timeout_s: float = STEP_TIMEOUT_S
) -> bool:
    """Run one step, and show what it said if it failed."""
    program = SCRIPTS / command[0]
    command = [str(program) if program.exists() else command[0], *command[1:]]
    print(f"== {name} …", end="", flush=True)
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        said, passed = done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as error:
        said, passed = f"did not end within {error.timeout} s", False
    print(f" {'passed' if passed else 'FAILED'} ({time.monotonic() - began:.1f} s)", flush=True)
    if not passed:
        print(said.rstrip(), flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
