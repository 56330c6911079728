"""Container images on their way to ECR: built, pushed unless they are there already, named by digest."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medical_image_processing.engines.aws.clients import Refused
from medical_image_processing.entrypoints import images
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.errors import InvalidRequest, Unavailable

ARCHITECTURE = "amd64"
"""What the task definitions ask for: Fargate's X86_64."""

_MANIFESTS = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
]

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A folder below containers/, and the repository and tag its image goes to; no repository: only built upon."""

    folder: str
    repository: str | None = None
    tag: str = "latest"


SOURCES = (
    Source("base"),
    Source("processing_1", "mip-algos", "processing_1"),
    Source("processing_6", "mip-algos", "processing_6"),
    Source("grayscale", "mip-algos", "grayscale"),
    Source("pacs", "mip-pacs"),
)


@dataclass(frozen=True)
class Pushed:
    """An image in ECR. ``uri`` pins it; ``was_there`` when nothing had to be sent."""

    source: Source
    uri: str
    tag: str
    was_there: bool


def build_and_push(
    account: Account, root: Path, *, base: str | None, tell: Tell, sources: Sequence[Source] = SOURCES
) -> list[Pushed]:
    """Build every source in order, then send what ECR lacks. MipError of the image or of AWS."""
    with images.docker_engine() as engine:
        built = []
        for source in sources:
            folder = root / "containers" / source.folder
            if not folder.is_dir():
                continue
            tell(f"building {source.folder}")
            image = images.build_image(
                engine,
                folder,
                tag=images.default_tag(folder),
                base=base if source.folder in ("base", "pacs") else None,
                tell=partial(_tell_step, tell, source.folder),
                log=lambda _: None,
            )
            if image.architecture != ARCHITECTURE:
                raise InvalidRequest(
                    "IMAGE_ARCHITECTURE",
                    f"{image.tag} was built for {image.architecture}, and tasks run on {ARCHITECTURE}; set "
                    f"DOCKER_DEFAULT_PLATFORM=linux/{ARCHITECTURE}, or build where the processor is one",
                )
            built.append((source, image))
        registry = Registry(account, engine)
        return [registry.ensure(source, image, tell) for source, image in built if source.repository]


def _tell_step(tell: Tell, folder: str, step: str) -> None:
    tell(f"building {folder}: {step}")


class Registry:
    """The account's ECR, and the engine that sends to it."""

    def __init__(self, account: Account, engine: Any) -> None:
        self._account = account
        self._engine = engine
        self._login: dict[str, str] | None = None

    def ensure(self, source: Source, image: images.Image, tell: Tell) -> Pushed:
        """The image, there under the tag of its source and under one of its own that never moves."""
        repository = str(source.repository)
        uri, own_tag = self._uri(repository), f"{source.tag}-{image.image_id.partition(':')[2][:12]}"
        digest = self._digest_of(repository, own_tag, image)
        if digest is not None:
            return Pushed(source, f"{uri}@{digest}", own_tag, was_there=True)
        for tag in (own_tag, source.tag):
            tell(f"pushing {repository}:{tag}")
            digest = push(self._engine, image.tag, uri, tag, self._credentials())
        return Pushed(source, f"{uri}@{digest}", own_tag, was_there=False)

    def _uri(self, repository: str) -> str:
        (found,) = self._account.call("ecr", "describe_repositories", repositoryNames=[repository])["repositories"]
        return str(found["repositoryUri"])

    def _digest_of(self, repository: str, tag: str, image: images.Image) -> str | None:
        """The digest under which ECR has exactly this image, or None."""
        try:
            found = self._account.call(
                "ecr",
                "batch_get_image",
                repositoryName=repository,
                imageIds=[{"imageTag": tag}],
                acceptedMediaTypes=_MANIFESTS,
            )["images"]
        except Refused as error:
            if error.aws_code in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return None
            raise
        for one in found:
            digest = str(one["imageId"]["imageDigest"])
            if is_same_image(str(one.get("imageManifest", "{}")), digest, image.image_id):
                return digest
        return None

    def _credentials(self) -> dict[str, str]:
        if self._login is None:
            (given,) = self._account.call("ecr", "get_authorization_token")["authorizationData"]
            user, _, password = base64.b64decode(given["authorizationToken"]).decode().partition(":")
            self._login = {"username": user, "password": password}
        return self._login


def is_same_image(manifest: str, digest: str, image_id: str) -> bool:
    """Whether a manifest is of the engine's image: its id is the configuration's digest, or the manifest's own."""
    try:
        config = json.loads(manifest).get("config", {}).get("digest")
    except (ValueError, AttributeError):
        config = None
    return image_id in (config, digest)


def push(engine: Any, local: str, repository: str, tag: str, login: dict[str, str] | None) -> str:
    """Send the image ``local`` to ``repository:tag``; its digest there. Unavailable ``PUSH_FAILED``."""
    from docker.errors import DockerException

    digest = None
    try:
        engine.api.tag(local, repository, tag)
        for event in engine.api.push(repository, tag=tag, stream=True, decode=True, auth_config=login):
            if "error" in event:
                raise Unavailable("PUSH_FAILED", f"{repository}:{tag} can't be pushed: {event['error']}")
            digest = (event.get("aux") or {}).get("Digest") or digest
    except DockerException as error:
        said = getattr(error, "explanation", None) or error
        raise Unavailable("PUSH_FAILED", f"{repository}:{tag} can't be pushed: {said}") from error
    if digest is None:
        raise Unavailable("PUSH_FAILED", f"the engine told no digest of {repository}:{tag}; run it again")
    return str(digest)
