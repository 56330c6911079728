"""Where this platform's workers run: as processes of this machine, or in Docker containers on a network."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.engines.embedded.processes import ProcessRuntime
from medical_image_processing.engines.embedded.runtime import Runtime
from medical_image_processing.entrypoints.settings import Settings
from medical_image_processing.errors import Unavailable

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workplace:
    """``gateway`` is the address at which workers reach this machine; None where that is the platform's own.

    ``is_inside(address)`` tells whether a caller is a worker's container, which must not reach the API.
    ``guard(port)`` shuts everything but that port of this machine off from workers, as far as that can be done.
    ``close`` comes last, whatever happened.
    """

    runtime: str
    create_runtime: Callable[[LogGroups], Runtime]
    gateway: str | None = None
    is_inside: Callable[[str], bool] = lambda _: False
    guard: Callable[[int], None] = lambda _: None
    close: Callable[[], None] = lambda: None


def open_workplace(settings: Settings) -> Workplace:
    """What ``settings`` asks for: Docker where an engine answers, unless they say otherwise. Unavailable."""
    if settings.runtime == "process" or settings.allow_commands is not None:
        return _processes(settings)
    try:
        return _containers(settings)
    except Unavailable as error:
        if settings.runtime == "docker" or error.code not in ("DOCKER_UNAVAILABLE", "DOCKER_ELSEWHERE"):
            raise
        if error.code == "DOCKER_ELSEWHERE":
            _LOG.warning("workers are processes: %s", error.message)
        return _processes(settings)


def _processes(settings: Settings) -> Workplace:
    def create(logs: LogGroups) -> Runtime:
        run_dir = settings.home / "run"
        return ProcessRuntime(logs=logs, run_dir=run_dir, allow_commands=settings.allow_commands)

    return Workplace("process", create)


def _containers(settings: Settings) -> Workplace:
    # Imported here: the client takes a while to load, and not every machine runs containers.
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    from medical_image_processing.engines.embedded import containers
    from medical_image_processing.engines.embedded.docker_network import WorkerNetwork

    client = containers.connect()
    platform_id = containers.platform_id(settings.home)
    network = WorkerNetwork(client, platform_id)
    network.open()
    try:
        socket.create_server((network.gateway, 0)).close()
    except OSError as error:
        network.close()
        raise Unavailable(
            "DOCKER_ELSEWHERE",
            "the Docker engine is not this machine's own (a virtual machine's, or rootless): containers could not "
            "reach the platform; run it where the engine is, or with --runtime process",
        ) from error

    def close() -> None:
        try:
            network.close()
        except (DockerException, RequestException, Unavailable) as error:
            _LOG.warning("the workers' network stays until the next start: %s", type(error).__name__)
        client.close()

    def create(logs: LogGroups) -> Runtime:
        return containers.ContainerRuntime(client, network, platform_id=platform_id, logs=logs)

    return Workplace("docker", create, network.gateway, network.holds, network.guard, close)
