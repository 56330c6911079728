"""What tests of containers stand on: a platform with Docker workers, and stand-ins for the world outside."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from api_calls import Api, until
from docker_engine import PUPPET_ENV, DockerEngine
from medical_image_processing.engines.embedded.containers import platform_id
from platform_process import Platform

SMALL = {"cpu": 256, "memory": 512}
_WORLDS = itertools.count()


class ContainerApi(Api):
    """A platform whose workers are containers, and the engine that runs them."""

    def __init__(self, platform: Platform, engine: DockerEngine, image: str) -> None:
        super().__init__(platform, admin_key=platform.env["MIP_ADMIN_KEY"])
        self.docker = engine.client()
        self.image = image

    def puppet(self, algo_id: str = "puppet", **changes: Any) -> dict[str, Any]:
        """Register the puppet; the record."""
        fields = {"image_uri": self.image, "env": PUPPET_ENV, **SMALL, **changes}
        return self.register(algo_id, **fields)

    def containers(self, algo_id: str | None = None) -> list[Any]:
        """The containers of this platform that run, of one algorithm or all."""
        labels = [f"mip.platform={self.platform_id}"]
        if algo_id:
            labels.append(f"mip.algorithm={algo_id}")
        with contextlib.suppress(docker.errors.NotFound):  # one that ended while we looked
            return list(self.docker.containers.list(filters={"label": labels}))
        return self.containers(algo_id)

    def container(self, algo_id: str) -> Any:
        """A container of the algorithm, which is started soon if none runs yet."""
        until(lambda: bool(self.containers(algo_id)), f"a container of {algo_id} runs")
        return self.containers(algo_id)[0]

    @property
    def platform_id(self) -> str:
        """What its containers are labelled with."""
        return platform_id(self.platform.home)

    def explore(self, algo_id: str = "puppet", **asked: Any) -> dict[str, Any]:
        """What a worker finds in reach, told by itself."""
        job = self.succeeds(algo_id, do="explore", **asked)
        found: dict[str, Any] = job["result"]["provenance"]["meta"]
        return found


@contextlib.contextmanager
def docker_platform(home: Path, pacs: Path, engine: DockerEngine, *options: str) -> Iterator[Platform]:
    """``mip up --runtime docker``, and nothing left of it in the engine afterwards."""
    platform = Platform(home, pacs=pacs, runtime="docker", options=options, environment=engine.environment)
    try:
        with platform:
            yield platform
    finally:
        platform.kill()


@dataclass(frozen=True)
class Outside:
    """Servers of the test's own in another network of this machine, each on port 80."""

    internet: str
    metadata: str
    namespace: str

    def get(self, url: str, **headers: str) -> int:
        """What a caller from there is answered: the HTTP status; 0 when there is no answer."""
        options = [
            word for name, value in headers.items() for word in ("-H", f"{name.replace('_', '-')}: {value}")
        ]
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5", *options, url]
        ran = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command], capture_output=True, text=True, check=False
        )
        return int(ran.stdout)


@contextlib.contextmanager
def outside_world() -> Iterator[Outside]:
    """A host beyond this one (TEST-NET-3, RFC 5737), which also has the address of clouds' metadata services."""
    name = f"mip{os.getpid()}x{next(_WORLDS)}"  # a namespace goes after its deletion was answered
    outside = Outside("203.0.113.2", "169.254.169.254", name)

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"

    ip("netns", "add", name)
    server = None
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("address", "add", "203.0.113.1/30", "dev", name)
        ip("link", "set", name, "up")
        ip("route", "replace", f"{outside.metadata}/32", "dev", name)
        for address in (f"{outside.internet}/30", f"{outside.metadata}/32"):
            ip("-n", name, "address", "add", address, "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")
        ip("-n", name, "route", "add", "default", "via", "203.0.113.1")
        command = [sys.executable, "-u", "-m", "http.server", "80", "--directory", "/var/empty"]
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert server.stdout is not None
        server.stdout.readline()  # it says that it serves
        yield outside
    finally:
        if server is not None:
            server.kill()
            server.wait()
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        ip("netns", "delete", name)


def host_addresses() -> list[str]:
    """This machine's own IPv4 addresses, loopback left out."""
    said = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    found = [line.split()[3].partition("/")[0] for line in said.splitlines()]
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]
