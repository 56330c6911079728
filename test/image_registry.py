"""A registry of container images on this machine: images pushed there have a digest that ECS can pull."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from docker_engine import DockerEngine
from free_ports import free_port

PROGRAM = "docker-registry"
START_S = 20.0
STOP_S = 5.0

_CONFIG = """
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class RegistryMissing(Exception):
    """A registry can't be had here; the message says why."""


@dataclass(frozen=True)
class ImageRegistry:
    """Docker engines of this machine take ``127.0.0.1`` without TLS."""

    port: int

    def push(self, engine: DockerEngine, image: str) -> str:
        """Push a local image; its name by digest, as a task definition wants it."""
        repository = f"127.0.0.1:{self.port}/{image.partition(':')[0]}"
        with closing(engine.client()) as client:
            client.images.get(image).tag(repository, "pushed")
            for line in client.images.push(repository, "pushed", stream=True, decode=True):
                assert "error" not in line, line["error"]
            names = client.images.get(f"{repository}:pushed").attrs["RepoDigests"]
        return next(str(name) for name in names if name.startswith(f"{repository}@"))


@contextmanager
def running_registry() -> Iterator[ImageRegistry]:
    """An empty registry. It ends with this process. RegistryMissing."""
    if shutil.which(PROGRAM) is None:
        raise RegistryMissing(f"{PROGRAM} not installed; as root, ./mip test installs what it can")
    folder = Path(tempfile.mkdtemp(prefix="mip-registry-"))
    registry = ImageRegistry(free_port())
    (folder / "config.yml").write_text(_CONFIG.format(root=folder / "images", port=registry.port))
    command = ["setpriv", "--pdeathsig", "KILL", PROGRAM, "serve", str(folder / "config.yml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _await_answer(process, registry, folder / "log")
        yield registry
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await_answer(process: subprocess.Popen[bytes], registry: ImageRegistry, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{registry.port}/v2/", timeout=2, trust_env=False).is_success:
                return
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise RegistryMissing("the image registry does not start; it says: " + " / ".join(said))
