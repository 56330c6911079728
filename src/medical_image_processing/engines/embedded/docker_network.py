"""The network of the workers' containers: the platform's address for workers is on it, and nothing else.

One network for all algorithms: Docker's address pools are used up by some thirty. It is ``internal``, so that no
container has a route out, and ``enable_icc=false`` keeps containers from each other. What Docker leaves open is
the host itself: every address of this machine answers there, whatever listens. Where the platform may change
the firewall (root, with iptables), it lets through the workers' port alone; elsewhere it says what stays open.

Sources: Docker Engine documentation, "Bridge network driver", options ``com.docker.network.bridge.*``.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import subprocess
from typing import Any

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from medical_image_processing.errors import Unavailable

_LOG = logging.getLogger(__name__)
_OPTIONS = {"com.docker.network.bridge.enable_icc": "false"}
_RULES = 2
_BRIDGE_NAME = "com.docker.network.bridge.name"


class WorkerNetwork:
    """The network of one platform. ``gateway`` is this machine's address on it."""

    def __init__(self, client: docker.DockerClient, platform_id: str) -> None:
        self._client = client
        self.name = f"mip-{platform_id}"
        self._bridge = f"mip{platform_id[:12]}"  # an interface's name has 15 characters
        self.gateway = ""
        self.subnet = ipaddress.ip_network("127.255.255.255/32")
        self._port: int | None = None

    def open(self) -> None:
        """Make it, or take the one that an earlier life left. Unavailable ``NETWORK_REFUSED``."""
        try:
            network = self._find() or self._create()
        except (DockerException, RequestException) as error:
            raise Unavailable(
                "NETWORK_REFUSED",
                f"the Docker engine makes no network for the workers: {error}; are its address pools used up? "
                "(docker network prune)",
            ) from error
        pool = network.attrs["IPAM"]["Config"][0]
        self.subnet = ipaddress.ip_network(pool["Subnet"])
        self.gateway = pool.get("Gateway") or str(next(self.subnet.hosts()))

    def guard(self, port: int) -> None:
        """Let containers reach ``port`` of the gateway and nothing else of this machine."""
        if not _may_set_rules():
            _LOG.warning(
                "without root and iptables, what listens on all addresses of this machine can be reached "
                "from algorithms' containers, too"
            )
            return
        self._port = port
        self._unguard()
        to_port = ["-p", "tcp", "-d", self.gateway, "--dport", str(port), "-j", "ACCEPT"]
        for rule in (["-j", "DROP"], to_port):  # each goes on top of the one before
            _iptables("-I", "INPUT", "-i", self._bridge, *rule)

    def repair(self) -> None:
        """Make it again, at the same address, if somebody removed it, and the rules if they are gone."""
        if self._find() is None:
            pool = docker.types.IPAMPool(subnet=str(self.subnet), gateway=self.gateway)
            self._create(docker.types.IPAMConfig(pool_configs=[pool]))
        if self._port is not None and len(self._rules()) < _RULES:
            self.guard(self._port)

    def holds(self, address: str) -> bool:
        """Whether ``address`` is a container's."""
        try:
            return ipaddress.ip_address(address) in self.subnet and address != self.gateway
        except ValueError:
            return False

    def close(self) -> None:
        """Remove it, once no container is on it."""
        if _may_set_rules():
            self._unguard()
        if (network := self._find()) is not None:
            network.remove()

    def _find(self) -> Any:
        """The network as it should be, or None; another one of that name is removed."""
        for network in self._client.networks.list(names=[self.name]):
            if network.name != self.name:
                continue  # Docker matches parts of names, too
            network.reload()
            wanted = {**_OPTIONS, _BRIDGE_NAME: self._bridge}
            if network.attrs["Internal"] and wanted.items() <= network.attrs["Options"].items():
                return network
            network.remove()
        return None

    def _create(self, ipam: Any = None) -> Any:
        made = self._client.networks.create(
            self.name,
            driver="bridge",
            internal=True,
            ipam=ipam,
            options={**_OPTIONS, _BRIDGE_NAME: self._bridge},
            labels={"mip.platform": self.name.removeprefix("mip-")},
        )
        made.reload()
        return made

    def _unguard(self) -> None:
        for words in self._rules():
            _iptables("-D", *words)

    def _rules(self) -> list[list[str]]:
        """Our rules, as iptables takes them."""
        lines = [line.split() for line in _iptables("-S", "INPUT").splitlines()]
        return [words[1:] for words in lines if words[0] == "-A" and self._bridge in words]


def _may_set_rules() -> bool:
    return os.geteuid() == 0 and shutil.which("iptables") is not None


def _iptables(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed program, our own arguments
            ["iptables", "-w", "10", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or type(error).__name__
        raise Unavailable(
            "FIREWALL_REFUSED",
            f"iptables can't shut this machine off from the workers' containers: {str(said).strip()[-300:]}",
        ) from error
    return done.stdout
