"""AWS on this machine for the tests: an emulator in a process of its own, with packages of its own.

It is installed once, from a lock of hashes, into the samples cache, so that what runs inside it (Lambdas) sees
none of our packages. Each access key of twelve digits is an account of its own, empty at first: tests that run
side by side take one each and can't meet.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import botocore.loaders
import botocore.session
import httpx

from free_ports import free_port
from medical_image_processing.engines.aws.clients import AwsClients

LOCK = Path(__file__).with_name("requirements-emulator.lock")
REGION = "us-east-1"
DEFAULT_ACCOUNT = "000000000000"
INSTALL_S = 300.0
START_S = 30.0
STOP_S = 10.0

_LOADER = botocore.loaders.create_loader()
_HEALTH = "/_ministack/health"
_RUN = "from ministack.app import main; main()"
_RUN_AHEAD = f"""
import datetime, time
from pathlib import Path
real, ahead = time.time, Path("ahead")
time.time = lambda: real() + float(ahead.read_text())
class Ahead(datetime.datetime):
    now = classmethod(lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))
    utcnow = classmethod(lambda cls: cls.utcfromtimestamp(time.time()))
datetime.datetime = Ahead
{_RUN}
"""
_SCRIPTS, _PYTHON = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")


class EmulatorMissing(Exception):
    """The emulator can't be had here; the message says why."""


@dataclass(frozen=True)
class AwsEmulator:
    """An emulator that answers on ``port``. Its bucket names are one space for all accounts."""

    port: int
    folder: Path
    account: str = DEFAULT_ACCOUNT
    secret: str = field(default="test", repr=False)

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "log"

    @property
    def endpoint(self) -> str:
        """Where this machine finds it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What points the SDKs and tools of a process at it."""
        return self._environment(self.endpoint)

    @property
    def container_environment(self) -> dict[str, str]:
        """The same for a process in a container on the emulator's Docker engine."""
        return self._environment(f"http://host.docker.internal:{self.port}")

    def fresh_account(self) -> AwsEmulator:
        """The same emulator as another account sees it, in which there is nothing yet."""
        account = "".join(secrets.choice("123456789") for _ in range(12))
        return AwsEmulator(self.port, self.folder, account, self.secret)

    def pass_time(self, seconds: float) -> None:
        """Let its clock run ahead; it was started with a ``movable_clock``."""
        ahead = self.folder / "ahead"
        later = self.folder / "ahead.new"
        later.write_text(str(float(ahead.read_text()) + seconds))
        later.replace(ahead)

    def session(self) -> boto3.Session:
        """boto3 with the account's keys."""
        return _session(self.account, self.secret)

    def clients(self, *, endpoint_url: str | None = None) -> AwsClients:
        """Our own clients of it, or of what stands at ``endpoint_url`` before it."""
        return AwsClients(session=self.session(), endpoint_url=endpoint_url or self.endpoint)

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _environment(self, endpoint: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": self.account,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }


@functools.cache
def _session(account: str, secret: str) -> boto3.Session:
    """All share what describes the services, which is slow to read."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _LOADER)
    return boto3.Session(
        aws_access_key_id=account, aws_secret_access_key=secret, region_name=REGION, botocore_session=core
    )


@contextmanager
def running_emulator(
    cache: Path,
    *,
    docker_host: str | None = None,
    enforce_iam: bool = False,
    movable_clock: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[AwsEmulator]:
    """An emulator with nothing in it. EmulatorMissing.

    With ``docker_host`` its ECS starts containers on that engine, and it listens where they reach it. With
    ``enforce_iam`` it refuses what no policy allows; the keys of the default account may do everything.
    """
    python = install(cache)
    folder = Path(tempfile.mkdtemp(prefix="mip-aws-"))
    port = free_port()
    settings = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "0.0.0.0" if docker_host else "127.0.0.1",
        "DOCKER_HOST": docker_host or "unix:///nonexistent",
        "AUTH": "true" if enforce_iam else "false",
        "STATE_DIR": str(folder / "state"),
        "S3_DATA_DIR": str(folder / "s3"),
        "TMPDIR": str(folder),
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        **(environment or {}),
    }
    foreign = ("AWS_", "MIP_", "PYTHON")
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    (folder / "ahead").write_text("0")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*_dying_with_us(), str(python), "-P", "-c", _RUN_AHEAD if movable_clock else _RUN],
            cwd=folder,
            env={**inherited, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    emulator = AwsEmulator(port, folder)
    try:
        _await_health(process, emulator)
        yield emulator
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def install(cache: Path) -> Path:
    """The Python of the emulator's own environment; made on first use, some 10 s. EmulatorMissing."""
    made_of = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    final = cache / f"aws-emulator-{made_of}"
    if not final.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as work:
            folder = Path(work) / "venv"
            python = folder / _SCRIPTS / _PYTHON
            _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
            lock = ["install", "--require-hashes", "-r", str(LOCK)]
            uv = [str(Path(sys.executable).parent / "uv"), "pip", "--system-certs"]
            # pip knows mirrors that are set up for it alone, so it has a try where uv finds nothing.
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--no-input", *lock]
            _run([*uv, *lock, "--python", str(python)], pip)
            with suppress(OSError):  # somebody else was faster
                folder.rename(final)
    return final / _SCRIPTS / _PYTHON


def _run(*commands: Sequence[str]) -> None:
    said: list[str] = []
    for command in commands:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said.append(f"{type(error).__name__}")
            continue
        if done.returncode == 0:
            return
        said.append(done.stderr.strip()[-500:])
    raise EmulatorMissing("the emulator of AWS could not be installed: " + " / ".join(said))


def _dying_with_us() -> list[str]:
    """A prefix that ends the command when its parent dies, where there is one."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def _await_health(process: subprocess.Popen[bytes], emulator: AwsEmulator) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{emulator.endpoint}{_HEALTH}", timeout=2, trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise EmulatorMissing(f"the emulator of AWS does not start; it says:\n{emulator.tail()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and the Lambdas it runs, which are in its process group."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
        process.wait()
