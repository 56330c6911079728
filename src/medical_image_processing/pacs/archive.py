"""What the PACS API needs of the place where images lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from medical_image_processing.errors import InputRejected

if TYPE_CHECKING:
    from medical_image_processing.pacs.bundle import Bundle

_BETWEEN = ",;:\"'()[]"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}(-[0-9]{2})?")
Reading = tuple[str, str | None, str | None]
"""What an address may mean: study_id, and series_id and image_id where it names an image."""


class Link(NamedTuple):
    """An address that opens one image without a key, until ``expires_at`` (epoch seconds)."""

    url: str
    expires_at: int


class SeriesDescription(NamedTuple):
    """What an operator sees of a series, without the patient. ``date`` is as DICOM has it, YYYYMMDD."""

    study_id: str
    series_id: str
    date: str | None
    modality: str | None
    study_description: str | None
    series_description: str | None
    images: int | None

    def has(self, text: str, *hidden: str) -> bool:
        """Whether each word of ``text`` stands in some field, in upper or lower case, or in one of ``hidden``."""
        said = "\n".join(one for one in (*self[:-1], *hidden) if one).casefold()
        return all(word in said or date_in(word) in said for word in words(text.casefold()))


def words(text: str) -> list[str]:
    """What is typed, without what people write between words: ``Smith, John``."""
    return [word.strip(_BETWEEN) or word for word in text.split()]


def date_in(word: str) -> str:
    """A date such as 2024-01-31 as DICOM has it (PS3.5, section 6.2, DA); any other word as it is."""
    return word.replace("-", "") if _DATE.fullmatch(word) else word


class Described(NamedTuple):
    """Series that were asked for. Without ``is_all`` there are more of them, or there may be."""

    series: list[SeriesDescription]
    is_all: bool


def too_large(most_bytes: int) -> InputRejected:
    """A file that is longer than whoever reads it whole can use."""
    return InputRejected("TOO_LARGE", f"the image's file has more than {most_bytes >> 20} MiB")


class Image(Protocol):
    """One image; the UIDs are those of the access record, and ``key`` is its path in the archive."""

    @property
    def study_uid(self) -> str: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def sop_uid(self) -> str: ...
    @property
    def key(self) -> str: ...


Found = TypeVar("Found", bound=Image)


class Archive(Protocol[Found]):
    """Images by study, series and image id. NotFound ``STUDY_NOT_FOUND``, ``SERIES_NOT_FOUND``,
    ``IMAGE_NOT_FOUND``; TransientError when it can't be said now."""

    async def studies(self) -> list[str]:
        """All studies' ids."""

    async def image(self, study_id: str, series_id: str, image_id: str) -> Found:
        """One image."""

    async def images(self, study_id: str, series_id: str | None) -> Sequence[Found]:
        """Those of a series, or of a whole study, series after series."""

    async def first_known(self, readings: Sequence[Reading]) -> Reading | None:
        """The first of these that names something."""

    async def links(self, images: Sequence[Found], base: str) -> Sequence[Link]:
        """A link for each. ``base`` is the address under which the caller reached the API."""

    async def bundle(self, study_id: str, series_id: str) -> Bundle | None:
        """A series as one download; None where this archive has only links."""
