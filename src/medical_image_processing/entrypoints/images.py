"""Algorithm images: found on a Docker engine, and built from a folder with a Dockerfile."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medical_image_processing.errors import InvalidRequest, NotFound, Unavailable

LAST_LINES = 30

_TIMEOUT_S = 600
_STEP = re.compile(r"^Step (\d+/\d+) : (.*)$")
_TAG_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """An image on the engine.

    ``size_bytes`` is what it takes unpacked, ``user`` is empty for root, ``command`` its entry point and
    arguments together.
    """

    tag: str
    image_id: str
    size_bytes: int
    user: str
    architecture: str
    command: tuple[str, ...]


@contextmanager
def docker_engine() -> Iterator[Any]:
    """A client of the engine that ``DOCKER_HOST`` names, else of this machine's.

    Unavailable ``NO_DOCKER_ENGINE`` where none answers.
    """
    from medical_image_processing.engines.embedded.containers import connect  # docker's client loads slowly

    try:
        client = connect()
    except Unavailable as error:
        host = os.environ.get("DOCKER_HOST") or "this machine's default address"
        raise Unavailable(
            "NO_DOCKER_ENGINE",
            f"no Docker engine answers at {host}; start one (`sudo systemctl start docker`, or Docker "
            "Desktop), join the group docker, or set DOCKER_HOST to its address",
        ) from error
    client.api.timeout = _TIMEOUT_S
    try:
        yield client
    finally:
        client.close()


def find_image(engine: Any, tag: str) -> Image:
    """What the engine knows by that name. NotFound ``IMAGE_NOT_FOUND``."""
    from docker.errors import DockerException

    try:
        found = engine.images.get(tag)
    except DockerException as error:
        raise NotFound(
            "IMAGE_NOT_FOUND", f"there is no image {tag} on this engine; build it with `mip build FOLDER`"
        ) from error
    config = found.attrs["Config"]
    return Image(
        tag=tag,
        image_id=found.id,
        size_bytes=int(found.attrs["Size"]),
        user=str(config.get("User") or ""),
        architecture=str(found.attrs["Architecture"]),
        command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
    )


def build_image(engine: Any, folder: Path, *, tag: str, base: str | None, tell: Tell, log: Tell) -> Image:
    """Build ``folder/Dockerfile`` as ``tag``. ``tell`` hears of every step, ``log`` each line it prints.

    A folder of this project's ``containers/`` has the project as its context, any other itself. ``base``
    replaces the Dockerfile's own ``ARG BASE``. InvalidRequest ``NO_DOCKERFILE`` and ``BUILD_FAILED``, whose
    details have the last lines; NotFound ``BASE_NOT_FOUND``.
    """
    from docker.errors import DockerException

    dockerfile = folder.absolute() / "Dockerfile"
    if not dockerfile.is_file():
        raise InvalidRequest("NO_DOCKERFILE", f"{folder} has no Dockerfile; `mip new` makes a folder that has one")
    build = _Build(tell, log)
    try:
        for event in engine.api.build(
            path=str(_context(folder)),
            dockerfile=str(dockerfile),
            tag=tag,
            buildargs={"BASE": base} if base else {},
            rm=True,
            forcerm=True,
            decode=True,
        ):
            build.hear(event)
    except (DockerException, OSError) as error:
        # Of the engine's refusal its own words, without the request that it refused.
        said = getattr(error, "explanation", None) or error
        raise InvalidRequest("BUILD_FAILED", f"{dockerfile} can't be built: {said}") from error
    return find_image(engine, tag)


def default_tag(folder: Path) -> str:
    """``mip-algos:NAME`` for a folder, ``mip-base:latest`` for our base. InvalidRequest ``BAD_TAG``."""
    folder = folder.resolve()
    if not _TAG_NAME.match(folder.name):
        raise InvalidRequest("BAD_TAG", f"no image can be named after the folder '{folder.name}'; give --tag NAME")
    is_base = folder.name == "base" and _project_of(folder) is not None
    return "mip-base:latest" if is_base else f"mip-algos:{folder.name}"


class _Build:
    """Hears the engine's events of one build."""

    def __init__(self, tell: Tell, log: Tell) -> None:
        self._tell = tell
        self._log = log
        self._lines: list[str] = []
        self._step, self._instruction = "", ""

    def hear(self, event: dict[str, Any]) -> None:
        """One event; raises what an error among them means."""
        if "error" in event:
            raise self._failure(str(event["error"]).strip())
        for line in str(event.get("stream", "")).splitlines():
            if not line.strip():
                continue
            if step := _STEP.match(line):
                self._step, self._instruction = step.groups()
                self._tell(f"step {self._step}: {_shortened(self._instruction)}")
            self._lines.append(line)
            self._log(line)

    def _failure(self, said: str) -> InvalidRequest | NotFound:
        if self._instruction.startswith("FROM "):
            return NotFound(
                "BASE_NOT_FOUND",
                f"the base image of '{self._instruction}' is not on this machine and can't be pulled ({said}); "
                "mip-base is built with `mip build containers/base`, another is named with --base IMAGE",
            )
        where = f"step {self._step} ({_shortened(self._instruction)})" if self._step else "the Dockerfile"
        lines = self._lines[-LAST_LINES:]
        return InvalidRequest("BUILD_FAILED", f"{where} failed: {said}", details={"log": lines})


def _shortened(text: str, limit: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _context(folder: Path) -> Path:
    return _project_of(folder) or folder.absolute()


def _project_of(folder: Path) -> Path | None:
    """The clone of this project whose ``containers/`` the folder lies in."""
    containers = folder.resolve().parent
    is_ours = containers.name == "containers" and (containers.parent / "requirements-worker.lock").is_file()
    return containers.parent if is_ours else None
