"""A bucket of DICOM files as a PACS: keys are ``study_id/series_id/image_id``, with or without ``.dcm``.

Nothing is read to answer: an image is looked up by its key, a series is listed, and links are S3's own, so the
bytes never pass through here. Ids are therefore paths, never DICOM UIDs, unless the keys are made of these; and a
series comes in the order of its keys. Objects with another extension than ``.dcm`` are not images.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from medical_image_processing.engines.aws.clients import AwsClient, Refused
from medical_image_processing.errors import NotFound
from medical_image_processing.pacs.archive import Link, Reading

LINK_LIFETIME_S = 600
"""A worker fetches at once. A task's credentials, with which a link ends too, last at least this long
(Amazon ECS developer guide, "Task IAM role")."""

_SUFFIX = ".dcm"
# An extension begins with a letter; the last part of a UID does not.
_OTHER_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
_MISSING = ("404", "NoSuchKey", "NotFound")


class BucketImage(NamedTuple):
    """One object. What stands for its UIDs in the access record are the parts of its key."""

    key: str

    @property
    def study_uid(self) -> str:
        """The first part."""
        return self.key.partition("/")[0]

    @property
    def series_uid(self) -> str:
        """All parts between."""
        return self.key.partition("/")[2].rpartition("/")[0]

    @property
    def sop_uid(self) -> str:
        """The last part, without ``.dcm``."""
        return self.key.rpartition("/")[2].removesuffix(_SUFFIX)


class BucketArchive:
    """Implements :class:`pacs.archive.Archive` over a bucket. ``clock`` gives epoch seconds."""

    def __init__(self, s3: AwsClient, bucket: str, *, clock: Callable[[], float] = time.time) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._clock = clock

    async def studies(self) -> list[str]:
        """The keys' first parts."""
        folders = [page.get("CommonPrefixes", ()) async for page in self._pages("", Delimiter="/")]
        return [folder["Prefix"].rstrip("/") for some in folders for folder in some]

    async def image(self, study_id: str, series_id: str, image_id: str) -> BucketImage:
        """One image. NotFound as the archive says."""
        found = await self._find(study_id, series_id, image_id)
        if found is not None:
            return found
        if await self._holds(f"{study_id}/{series_id}/"):
            raise NotFound("IMAGE_NOT_FOUND", "the series asked for has no such image; check image_id")
        raise await self._nothing(study_id, series_id)

    async def images(self, study_id: str, series_id: str | None) -> list[BucketImage]:
        """Those of a series, or of a whole study, in the order of their keys."""
        prefix = f"{study_id}/" if series_id is None else f"{study_id}/{series_id}/"
        found = [
            BucketImage(item["Key"])
            async for page in self._pages(prefix)
            for item in page.get("Contents", ())
            if _is_image(item["Key"]) and item["Size"] > 0
        ]
        if not found:
            raise await self._nothing(study_id, series_id)
        return found

    async def first_known(self, readings: Sequence[Reading]) -> Reading | None:
        """The first of these that names something."""
        for reading in readings:
            study_id, series_id, image_id = reading
            if series_id is None or image_id is None:
                if await self._holds(f"{study_id}/"):
                    return reading
            elif await self._find(study_id, series_id, image_id) is not None:
                return reading
        return None

    async def bundle(self, study_id: str, series_id: str) -> None:
        """None: the bucket's own links are the shortest way."""

    async def links(self, images: Sequence[BucketImage], base: str) -> list[Link]:
        """S3's presigned links; ``base`` is not in them."""
        expires_at = int(self._clock()) + LINK_LIFETIME_S
        urls = await self._s3.run("presign", lambda: [self._sign(image.key) for image in images])
        return [Link(url, expires_at) for url in urls]

    def _sign(self, key: str) -> str:
        given = {"Bucket": self._bucket, "Key": key, "ResponseContentType": "application/dicom"}
        return str(self._s3.boto.generate_presigned_url("get_object", Params=given, ExpiresIn=LINK_LIFETIME_S))

    async def _find(self, study_id: str, series_id: str, image_id: str) -> BucketImage | None:
        """The key as it was asked for goes before that with ``.dcm``."""
        exact = f"{study_id}/{series_id}/{image_id}"
        keys = [exact] if exact.endswith(_SUFFIX) else [exact, exact + _SUFFIX]
        for key in keys:  # one after the other: mostly the first is there, and the second look not paid for
            if await self._exists(key):
                return BucketImage(key)
        return None

    async def _exists(self, key: str) -> bool:
        try:
            await self._s3.call("head_object", Bucket=self._bucket, Key=key)
        except Refused as error:
            if error.aws_code in _MISSING:
                return False
            raise
        return True

    async def _holds(self, prefix: str) -> bool:
        answer = await self._s3.call("list_objects_v2", Bucket=self._bucket, Prefix=prefix, MaxKeys=1)
        return bool(answer.get("KeyCount"))

    async def _pages(self, prefix: str, **how: Any) -> AsyncIterator[dict[str, Any]]:
        while True:
            page = await self._s3.call("list_objects_v2", Bucket=self._bucket, Prefix=prefix, **how)
            yield page
            if not page.get("IsTruncated"):
                return
            how["ContinuationToken"] = page["NextContinuationToken"]

    async def _nothing(self, study_id: str, series_id: str | None) -> NotFound:
        if series_id is not None and await self._holds(f"{study_id}/"):
            return NotFound("SERIES_NOT_FOUND", "the study asked for has no such series; check series_id")
        return NotFound("STUDY_NOT_FOUND", "the PACS has no such study; check study_id, or store it first")


def _is_image(key: str) -> bool:
    name = key.rpartition("/")[2]
    return name.endswith(_SUFFIX) or not (name in ("", "DICOMDIR") or _OTHER_EXTENSION.search(name))
