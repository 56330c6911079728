"""A Docker engine for the tests, and the Debian image that theirs are built on.

The engine is the one that answers already, as ``DOCKER_HOST`` or the default socket names it; else Debian's
dockerd, started in a folder of its own and ended, with all it held, after the last test. No image is pulled:
the base is made from Debian's packages and kept in the samples cache. It and all that is built on it has
the label ``mip.test``, so ``docker image prune --all --filter label=mip.test`` frees what a shared engine keeps.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound

from medical_image_processing.processing.base import ENTRY_POINT_GROUP
from medical_image_processing.testing import puppet
from platform_process import CLI, clean_environment

LABEL = "mip.test"
PROGRAMS = ("dockerd", "iptables", "ip", "setpriv")
START_S = 60.0
STOP_S = 60.0
BUILD_S = 600.0

_SUITE = "bookworm"
_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_TRIMMED = ("doc", "man", "info", "locale", "lintian")
_EMPTIED = ("var/cache/apt", "var/lib/apt/lists", "var/log")
_BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
# A build must trust what this machine trusts; that is in the tests' base image, never in a Dockerfile of ours.
_TRUST = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


PUPPET_ENV = {"PYTHONPATH": "/opt/puppet"}
"""The record's env with which workers find the puppet in its image."""
_ANY_PUPPET = """
import os
from puppet import Puppet

class AnyPuppet(Puppet):
    ALGO_ID = os.environ["ALGO_ID"]
"""


class EngineMissing(Exception):
    """Docker can't be had here; the message says why."""


@dataclass(frozen=True)
class DockerEngine:
    """An engine that answers. ``environment`` is for what tests start: it names the engine."""

    host: str

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.host}

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, timeout=120)


@contextmanager
def running_engine() -> Iterator[DockerEngine]:
    """The engine that answers, else one of our own. EngineMissing."""
    named = os.environ.get("DOCKER_HOST")
    found = DockerEngine(named or "unix:///var/run/docker.sock")
    if answers(found):
        yield found
        return
    if named:
        raise EngineMissing(f"no Docker engine answers at DOCKER_HOST {named}; correct it, or unset it")
    if os.geteuid() != 0:
        raise EngineMissing("no Docker engine answers, and only root can start one; start Docker, or run as root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise EngineMissing(f"{', '.join(missing)} not installed; as root, ./mip test installs what it can")
    # pytest's folders have names too long for a socket's path.
    folder = Path(tempfile.mkdtemp(prefix="mip-docker-"))
    had_bridge, had_rules = Path("/sys/class/net/docker0").exists(), firewall_rules()
    try:
        with _dockerd(folder) as engine:
            yield engine
    finally:
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
        remove_firewall_rules(added=[rule for rule in firewall_rules() if rule not in had_rules])
        if not had_bridge:
            subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)


def answers(engine: DockerEngine) -> bool:
    """Whether an engine is there and lets us in."""
    try:
        with closing(engine.client()) as client:
            return bool(client.ping())
    except (DockerException, OSError):
        return False


@contextmanager
def _dockerd(folder: Path) -> Iterator[DockerEngine]:
    engine = DockerEngine(f"unix://{folder}/docker.sock")
    command = ["setpriv", "--pdeathsig", "TERM", "dockerd", "--host", engine.host]
    for option, name in {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}.items():
        command += [f"--{option}", str(folder / name)]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
        (folder / "log").open("wb") as log,
    ):
        ready.bind(str(folder / "ready"))
        ready.settimeout(0.5)
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "ready")}
        daemon = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _await_ready(daemon, ready, folder / "log")
            yield engine
            _remove_containers(engine)
        finally:
            daemon.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(STOP_S)
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()


def _await_ready(daemon: subprocess.Popen[bytes], ready: socket.socket, log: Path) -> None:
    """Wait for READY=1, which dockerd sends as sd_notify(3) says."""
    deadline = time.monotonic() + START_S
    while daemon.poll() is None and time.monotonic() < deadline:
        with suppress(TimeoutError):
            if b"READY=1" in ready.recv(4096).split():
                return
    said = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise EngineMissing("dockerd does not start here; it says: " + " / ".join(said))


def _remove_containers(engine: DockerEngine) -> None:
    with closing(engine.client()) as client:
        for container in client.containers.list(all=True):
            with suppress(DockerException):
                container.remove(force=True)


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)


def firewall_rules() -> list[tuple[str, str]]:
    """Every chain and rule, as (table, line of iptables-save)."""
    saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    rules, table = [], ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            rules.append((table, line.split()[0]))
        elif line.startswith("-A "):
            rules.append((table, line))
    return rules


def remove_firewall_rules(added: Sequence[tuple[str, str]]) -> None:
    """Take away what dockerd leaves behind: first the rules, then the chains, its own by name."""
    for table, rule in added:
        if rule.startswith("-A ") and "docker" in rule.lower():
            words = ["-D", *rule.split()[1:]]
            subprocess.run(["iptables", "-t", table, *words], capture_output=True, check=False)
    for table, chain in added:
        if chain.startswith(":DOCKER"):
            subprocess.run(["iptables", "-t", table, "-X", chain[1:]], capture_output=True, check=False)


def ensure_debian_image(engine: DockerEngine, cache: Path) -> str:
    """The name of Debian with Python, as small as python:3.11-slim. EngineMissing where it can't be made."""
    key = _recipe_key()
    tag = f"mip-test-debian:{_SUITE}-{key}"
    with closing(engine.client()) as client:
        try:
            client.images.get(tag)
        except ImageNotFound:
            archive = cache / f"debian-{_SUITE}-{key}.tar"
            if not archive.exists():
                _make_debian(archive)
            repository, _, version = tag.partition(":")
            trust = [f"ENV {name}=/{_BUNDLE}" for name in _TRUST]
            changes = [*trust, f"LABEL {LABEL}=1", 'CMD ["python3"]']
            client.api.import_image_from_file(str(archive), repository, version, changes=changes)
    return tag


def build_image(engine: DockerEngine, folder: Path, *, tag: str, base: str) -> dict[str, Any]:
    """``mip build``, and what it says."""
    command = [*CLI, "build", str(folder), "--tag", tag, "--base", base, "--json"]
    done = subprocess.run(
        command,
        env=clean_environment(**engine.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def add_layer(engine: DockerEngine, base: str, name: str, build: Callable[[Path], str]) -> str:
    """An image on ``base``. ``build(folder)`` fills the context and returns what follows FROM."""
    tag = f"mip-test-{name}:{base.partition(':')[2] or 'latest'}"
    with tempfile.TemporaryDirectory() as place, closing(engine.client()) as client:
        folder = Path(place)
        (folder / "Dockerfile").write_text(f"FROM {base}\nLABEL {LABEL}=1\n{build(folder)}\n")
        client.images.build(path=place, tag=tag, rm=True)
    return tag


def install_puppet(folder: Path) -> str:
    """The puppet, under whichever name it is registered, found with :data:`PUPPET_ENV`."""
    puppet.install(folder / "puppet")
    points = folder / "puppet/puppet-1.0.dist-info/entry_points.txt"
    points.write_text(f"[{ENTRY_POINT_GROUP}]\nany = any_puppet:AnyPuppet\n")
    shutil.copy(puppet.__file__, folder / "puppet/puppet.py")
    (folder / "puppet/any_puppet.py").write_text(_ANY_PUPPET)
    return "COPY puppet /opt/puppet"


def _recipe_key() -> str:
    """Names what the archive is made of."""
    bundle = Path("/") / _BUNDLE
    made_of = hashlib.sha256(repr((_SUITE, _PACKAGES, _TRIMMED, _EMPTIED)).encode())
    made_of.update(bundle.read_bytes() if bundle.exists() else b"")
    return made_of.hexdigest()[:12]


def _make_debian(archive: Path) -> None:
    """debootstrap, less what no container reads. Some 50 s, once."""
    for program in ("debootstrap", "tar"):
        if shutil.which(program) is None:
            raise EngineMissing(f"{program} not installed; as root, ./mip test installs what it can")
    if os.geteuid() != 0:
        raise EngineMissing("the tests' base image is made by debootstrap, which only root can run")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mip-debian-") as place:
        root = Path(place) / "root"
        include = f"--include={','.join(_PACKAGES)}"
        _run("debootstrap", "--variant=minbase", include, _SUITE, str(root))
        for folder in [*(root / "usr/share" / name for name in _TRIMMED), *(root / name for name in _EMPTIED)]:
            shutil.rmtree(folder, ignore_errors=True)
        for name in _EMPTIED:
            (root / name).mkdir(parents=True)
        if (Path("/") / _BUNDLE).exists():
            shutil.copy(Path("/") / _BUNDLE, root / _BUNDLE)
        partial = archive.with_suffix(f".{os.getpid()}")
        _run("tar", "--create", "--numeric-owner", "--file", str(partial), "--directory", str(root), ".")
        partial.rename(archive)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise EngineMissing(f"the tests' base image can't be made: {command[0]} says: {' / '.join(said)}")
