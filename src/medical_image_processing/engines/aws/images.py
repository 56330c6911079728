"""What an image's name means, pinned: a tag may mean another image tomorrow, a digest can't.

Workers have no way to the internet, so images are in this region's ECR, or named by their digest by somebody
who knows that they can be reached.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.errors import PermanentError

_DIGEST = re.compile(r"^(?P<name>[^@]+)@(?P<digest>sha256:[0-9a-f]{64})$")
_ECR = re.compile(
    r"^(?P<host>(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)"
    r"/(?P<repository>[a-z0-9][a-z0-9._/-]*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?$"
)


@dataclass(frozen=True)
class PinnedImage:
    """``uri`` names exactly the content of ``digest``."""

    uri: str
    digest: str


class Images:
    """Pins images."""

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    async def pin(self, image_uri: str) -> PinnedImage:
        """PermanentError when no such image can be had."""
        if by_digest := _DIGEST.match(image_uri):
            return PinnedImage(image_uri, by_digest["digest"])
        named = _ECR.match(image_uri)
        if named is None:
            raise PermanentError(
                "IMAGE_NOT_PINNED",
                f"the image {image_uri} is not in ECR, where its tag could be looked up; push it there (docker "
                "push ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG), or name it by digest: NAME@sha256:…",
            )
        if named["region"] != self._clients.region:
            raise PermanentError(
                "IMAGE_IN_ANOTHER_REGION",
                f"the image {image_uri} is in {named['region']}, and workers in {self._clients.region} can't "
                "reach it; push it to the ECR of their region",
            )
        digest = await self._look_up(image_uri, named)
        return PinnedImage(f"{named['host']}/{named['repository']}@{digest}", digest)

    async def _look_up(self, image_uri: str, named: re.Match[str]) -> str:
        tag = named["tag"] or "latest"
        try:
            answer = await self._clients.client("ecr").call(
                "describe_images",
                registryId=named["account"],
                repositoryName=named["repository"],
                imageIds=[{"imageTag": tag}],
            )
        except Refused as error:
            missing = {"ImageNotFoundException": "tag", "RepositoryNotFoundException": "repository"}
            if (what := missing.get(error.aws_code)) is None:
                raise
            raise _not_found(image_uri, what) from error
        if not answer["imageDetails"]:
            raise _not_found(image_uri, "tag")
        return str(answer["imageDetails"][0]["imageDigest"])


def _not_found(image_uri: str, what: str) -> PermanentError:
    return PermanentError(
        "IMAGE_NOT_FOUND", f"the image {image_uri} is not in ECR: there is no such {what}; push it first"
    )
