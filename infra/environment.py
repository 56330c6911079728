"""Makes what the CDK needs on first use: ``infra/.venv`` from ``requirements.lock``, ``node_modules`` from
``package-lock.json``. Standard library only; it runs in whichever Python started ``run.py``.

A stamp beside each says from which lock it was made. It is written last: an interrupted set-up starts over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

INFRA = Path(__file__).resolve().parent
ROOT = INFRA.parent
VENV = INFRA / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
MODULES = INFRA / "node_modules"
CDK = MODULES / "aws-cdk" / "bin" / "cdk"
LEAST_NODE = 20


class InfraError(Exception):
    """Something is missing or failed; the message says what to do."""


def ensure_infra() -> None:
    """Make the CDK's two environments hold what their locks say. InfraError."""
    node()
    once(VENV / "mip-infra.stamp", INFRA / "requirements.lock", make_venv)
    once(MODULES / "mip-infra.stamp", INFRA / "package-lock.json", install_cdk)


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Hold a lock on this folder, so that two that start at once don't set it up twice. On Windows they might."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    folder = os.open(INFRA, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("infra: another one is setting this up; waiting for it", file=sys.stderr)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def once(stamp: Path, lock: Path, make: Callable[[], None]) -> None:
    """Call ``make`` unless ``stamp`` says that it was called for this ``lock`` in this folder."""
    wanted = hashlib.sha256(str(INFRA).encode() + b"\n" + lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_text(wanted)


def make_venv() -> None:
    """A fresh ``.venv`` with the CDK's Python packages, their hashes checked."""
    step("Python environment of the CDK", [uv(), "venv", "--clear", "--python", base_python(), str(VENV)])
    lock = ["--require-hashes", "-r", str(INFRA / "requirements.lock")]
    step(
        "packages of infra/requirements.lock",
        [uv(), "pip", "install", "--system-certs", "--python", str(PYTHON), *lock],
    )


def install_cdk() -> None:
    """The CDK's command line."""
    npm = find("npm", "it comes with Node.js")
    step("packages of infra/package-lock.json", [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"])


def node() -> str:
    """The path of Node.js. InfraError when it is missing or too old."""
    path = find("node", f"install Node.js {LEAST_NODE} or newer; on Debian: sudo apt-get install -y nodejs npm")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    major = said.removeprefix("v").partition(".")[0]
    if not major.isdecimal() or int(major) < LEAST_NODE:
        raise InfraError(f"node at {path} is {said or 'broken'}; the CDK needs {LEAST_NODE} or newer")
    return path


def uv() -> str:
    """The path of uv: that of the project's own environment, else one on PATH."""
    own = ROOT / ".venv" / SCRIPTS.name / ("uv.exe" if os.name == "nt" else "uv")
    return str(own) if own.exists() else find("uv", "run ./mip once: it installs uv into .venv")


def base_python() -> str:
    """The interpreter to make environments from: not the one of an environment that may be removed."""
    return getattr(sys, "_base_executable", None) or sys.executable


def find(program: str, advice: str) -> str:
    """The path of ``program``. InfraError with ``advice`` when it isn't on PATH."""
    path = shutil.which(program)
    if path is None:
        raise InfraError(f"no {program} on PATH: {advice}")
    return path


def step(what: str, command: list[str]) -> None:
    """Run ``command`` in ``infra/`` with one line of progress. InfraError with the end of what it said."""
    print(f"infra: {what} …", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603 - commands of this folder
            command,
            cwd=INFRA,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        print(" failed", file=sys.stderr)
        raise InfraError(f"{what}: {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        print(" failed", file=sys.stderr)
        said = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise InfraError(f"{said}\nsetting up stopped at: {what}; once that is mended, run it again")
    print(f" {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
