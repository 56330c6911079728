"""A bucket of DICOM files as a PACS: keys are ``study_id/series_id/image_id``, with or without ``.dcm``.

Nothing is read to answer: an image is looked up by its key, a series is listed, and links are S3's own, so the
bytes never pass through here. Ids are therefore paths, never DICOM UIDs, unless the keys are made of these; and a
series comes in the order of its keys. Objects with another extension than ``.dcm`` are not images. Only who asks
what a series is has the beginning of one of its files read, and who wants to see it, one of them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

from medical_image_processing.dicom.identity import Description, read_description
from medical_image_processing.engines.aws.clients import AwsClient, Refused
from medical_image_processing.errors import NotFound
from medical_image_processing.naming import PACS_ID_PATTERN
from medical_image_processing.pacs.archive import Described, Link, Reading, SeriesDescription, too_large

LINK_LIFETIME_S = 600
"""A worker fetches at once. A task's credentials, with which a link ends too, last at least this long
(Amazon ECS developer guide, "Task IAM role")."""

_SUFFIX = ".dcm"
# An extension begins with a letter; the last part of a UID does not.
_OTHER_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
_MISSING = ("404", "NoSuchKey", "NotFound")
_UNREADABLE = (*_MISSING, "InvalidObjectState")
"""Of an object that was listed: it is gone, or was put where it takes hours to read."""
_ID = re.compile(PACS_ID_PATTERN)
_MOST_PAGES = 100
"""Of a thousand keys each, that one question for series has listed: seconds, of the 29 that API Gateway waits."""
_LISTING_LIFETIME_S = 60.0
"""Of one that a search had no time to go through: longer, and what is new would not be found."""
_HEAD_BYTES = 2**16
_HEADS_SIDE_BY_SIDE = 16
_HEADS_AT_ONCE = 64
_MOST_HEADS_KNOWN = 10_000
_NOTHING_SAID = Description("", "", "", "")


class BucketImage(NamedTuple):
    """One object. What stands for its UIDs in the access record are the parts of its key.

    ``etag`` is known where the object was listed.
    """

    key: str
    etag: str = ""

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


class _SeriesFound(NamedTuple):
    """``version`` names the state of the object that tells what the series is."""

    study_id: str
    series_id: str
    key: str
    version: str
    images: int | None


@dataclass
class _Listing:
    """The series below a prefix, in the order of their keys, as far as these are listed."""

    study_id: str | None
    series_id: str | None
    expires: float = 0.0
    """By the event loop's clock."""
    found: dict[tuple[str, str], _SeriesFound] = field(default_factory=dict)
    pages: int = 0
    go_on: dict[str, str] = field(default_factory=dict)
    """Where."""
    is_through: bool = False
    is_all: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class BucketArchive:
    """Implements :class:`pacs.archive.Archive` over a bucket. ``clock`` gives epoch seconds; a search ends after
    ``look_s``."""

    def __init__(
        self, s3: AwsClient, bucket: str, *, clock: Callable[[], float] = time.time, look_s: float = 20.0
    ) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._clock = clock
        self._look_s = look_s
        self._unfinished: _Listing | None = None
        self._said: OrderedDict[str, Description] = OrderedDict()

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
            BucketImage(item["Key"], item["ETag"])
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

    async def read_file(self, image: BucketImage, *, most_bytes: int) -> bytes:
        """All of an object. InputRejected ``TOO_LARGE``. NotFound where it is gone, or in an archive for hours."""

        def read() -> bytes:
            answer = self._s3.boto.get_object(Bucket=self._bucket, Key=image.key)
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > most_bytes:
                    raise too_large(most_bytes)
                return bytes(body.read())

        try:
            return await self._s3.run("get_object", read)
        except Refused as error:
            if error.aws_code not in _UNREADABLE:
                raise
            raise NotFound(
                "IMAGE_NOT_FOUND", "the image went since it was listed, or can't be read now"
            ) from error

    def version(self, image: BucketImage) -> str:
        """S3's own name for the content."""
        return f"{image.etag} {image.key}"

    async def describe(
        self, study_id: str | None, series_id: str | None, limit: int, search: str | None = None
    ) -> Described:
        """The first ``limit`` series in the order of their keys; of a study, or the ones with that id; that have
        the words of ``search``.

        Of a very large bucket those among the first keys. How many images the last one has is then not known.
        A search ends after a time; what was listed and read is kept in mind, so that the same one gets further.
        """
        listing = _Listing(study_id, series_id)
        if search is None:
            await self._list(listing, limit)
            return Described(await self._described(list(listing.found.values())), listing.is_all)
        now = asyncio.get_running_loop().time()
        known = self._unfinished
        if (
            known is not None
            and (known.study_id, known.series_id) == (study_id, series_id)
            and now < known.expires
        ):
            listing = known
        found: list[SeriesDescription] = []
        try:
            async with asyncio.timeout_at(now + self._look_s):
                async with listing.lock:
                    await self._list(listing)
                listed = list(listing.found.values())
                for at in range(0, len(listed), _HEADS_AT_ONCE):
                    described = await self._described(listed[at : at + _HEADS_AT_ONCE])
                    found += [one for one in described if one.has(search)]
                    if len(found) > limit:
                        return Described(found[:limit], False)
        except TimeoutError:
            listing.expires = listing.expires or now + self._look_s + _LISTING_LIFETIME_S
            self._unfinished = listing
            return Described(found, False)
        if self._unfinished is listing:
            self._unfinished = None
        return Described(found, listing.is_all)

    async def _described(self, listed: Sequence[_SeriesFound]) -> list[SeriesDescription]:
        room = asyncio.Semaphore(_HEADS_SIDE_BY_SIDE)

        async def described(one: _SeriesFound) -> SeriesDescription:
            async with room:
                said = await self._head(one)
            texts = (said.date or None, said.modality or None, said.study or None, said.series or None)
            return SeriesDescription(one.study_id, one.series_id, *texts, one.images)

        return list(await asyncio.gather(*map(described, listed)))

    async def _list(self, listing: _Listing, limit: int | None = None) -> None:
        """Go on with it, up to ``limit`` series: those whose ids can be asked for, as what else lies in the bucket
        is nobody's matter. Page by page, so that what was listed when the time ended stays."""
        study_id, series_id = listing.study_id, listing.series_id
        prefix = "" if study_id is None else f"{study_id}/" if series_id is None else f"{study_id}/{series_id}/"
        if listing.is_through:
            return
        found, place = listing.found, None
        async for page in self._pages(prefix, **listing.go_on):
            for item in page.get("Contents", ()):
                if (place := _place(item, study_id)) is None or series_id not in (None, place[1]):
                    continue
                known = found.get(place)
                if known is None:
                    if len(found) == limit:
                        return
                    known = _SeriesFound(*place, item["Key"], item["ETag"], 0)
                found[place] = known._replace(images=(known.images or 0) + 1)
            listing.pages += 1
            if page.get("IsTruncated"):
                listing.go_on = {"ContinuationToken": page["NextContinuationToken"]}
                if listing.pages == _MOST_PAGES:
                    if place in found:
                        found[place] = found[place]._replace(images=None)
                    listing.is_through = True
                    return
        listing.is_through = listing.is_all = True

    async def _head(self, series: _SeriesFound) -> Description:
        """What its first image says of it; nothing where that is gone, or was put where it takes hours to read."""
        known_as = f"{series.version} {series.key}"
        if (known := self._said.get(known_as)) is not None:
            self._said.move_to_end(known_as)
            return known

        def read() -> Description:
            wanted = f"bytes=0-{_HEAD_BYTES - 1}"
            answer = self._s3.boto.get_object(Bucket=self._bucket, Key=series.key, Range=wanted)
            with closing(answer["Body"]) as body:
                return read_description(BytesIO(body.read(_HEAD_BYTES)))

        try:
            said = await self._s3.run("get_object", read)
        except Refused as error:
            if error.aws_code not in (*_UNREADABLE, "InvalidRange"):
                raise
            return _NOTHING_SAID
        self._said[known_as] = said
        while len(self._said) > _MOST_HEADS_KNOWN:
            self._said.popitem(last=False)
        return said

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


def _place(item: dict[str, Any], study_id: str | None) -> tuple[str, str] | None:
    """The study and the series of an object, as they are asked for; None of what is no image, or of no series."""
    key = item["Key"]
    if not _is_image(key) or item["Size"] == 0:
        return None
    study = key.partition("/")[0] if study_id is None else study_id
    series = key.removeprefix(f"{study}/").rpartition("/")[0]
    return (study, series) if _is_id(study) and _is_id(series) else None


def _is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text)) and not any(part in ("", ".", "..") for part in text.split("/"))


def _is_image(key: str) -> bool:
    name = key.rpartition("/")[2]
    return name.endswith(_SUFFIX) or not (name in ("", "DICOMDIR") or _OTHER_EXTENSION.search(name))
