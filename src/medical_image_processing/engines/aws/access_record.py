"""Which algorithm read which image, for which job (law A4): in the audit table, found by study, reader and job.

What was read at once of one series is one entry, with all its images. It stands there under each of the three
that it may be asked by, as no index need be paid for and none can be behind: ``STUDY``, ``reader/ALGORITHM``,
``job/JOB``. No study, algorithm or job has a slash in its name.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from medical_image_processing.engines.aws.tables import Item, Table
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.model.page import Page
from medical_image_processing.model.timestamps import to_iso
from medical_image_processing.ports.accesses import Access

READ = "read"
MOST_IMAGES = 200
"""Of an entry, which has at most 400 KB; an id has at most 512 characters."""
_BATCH = 100
_MOST_LOOKED_AT = 2000
_CURSOR = re.compile(r"([0-9]{1,4})_([0-9TZ:.-]{1,40})_([0-9a-f]{1,40})")
_LAST = "~"
"""Sorts after every time."""


class _Place(NamedTuple):
    """Where a page begins: so many images into the entry of that time, from the newest."""

    at: str
    skipped: int

    @classmethod
    def of(cls, cursor: str) -> _Place | None:
        """None for a cursor that is not ours."""
        match = _CURSOR.fullmatch(cursor)
        return cls(f"{match[2]}#{match[3]}", int(match[1])) if match else None

    def __str__(self) -> str:
        return f"{self.skipped}_{self.at.replace('#', '_')}"


class AccessRecord:
    """Implements :class:`ports.accesses.Accesses`. Entries can only be added."""

    def __init__(self, table: Table, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock

    async def note(self, reader: str, images: Sequence[tuple[str, str, str]], job_id: str | None) -> None:
        """``reader`` may have links to these images, named by Study, Series and SOP Instance UID.

        On record when it returns; TransientError when that can't be.
        """
        now = to_iso(self._clock())
        entries: list[Item] = []
        for number, (study_uid, series_uid, uids) in enumerate(_grouped(images)):
            told = {"study": study_uid, "series": series_uid, "images": uids, "job_id": job_id}
            entry = {
                "at": f"{now}#{number:04x}{secrets.token_hex(8)}",
                "actor": reader,
                "action": READ,
                "details": json.dumps(told),
            }
            entries += [{"subject": subject, **entry} for subject in _subjects(study_uid, reader, job_id)]
        await self._table.put_all(entries)

    async def page(
        self,
        *,
        study_uid: str | None = None,
        algo_id: str | None = None,
        job_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Access]:
        """One page, newest first; short with a cursor after a look at many of which few are asked for.

        InvalidRequest ``FILTER_NEEDED`` where neither study, algorithm nor job is given.
        """
        place = _Place(_LAST, 0) if cursor is None else _Place.of(cursor)
        if place is None:
            return Page((), None)
        subject = _subject(study_uid, algo_id, job_id)
        asked = {"study_uid": study_uid, "algo_id": algo_id, "job_id": job_id}
        found: list[Access] = []
        for _ in range(_MOST_LOOKED_AT // _BATCH):
            values = {"subject": subject, "at": place.at}
            items = await self._table.query(
                "#subject = :subject AND #at <= :at", values, forward=False, limit=_BATCH
            )
            for item in items:
                accesses = _accesses(item) if item["action"] == READ else []
                skipped = place.skipped if item["at"] == place.at else 0
                fitting = all(
                    value is None or (accesses and getattr(accesses[0], name) == value)
                    for name, value in asked.items()
                )
                for number, access in enumerate(accesses if fitting else []):
                    if number < skipped:
                        continue
                    if len(found) == limit:
                        return Page(tuple(found), str(_Place(item["at"], number)))
                    found.append(access)
            if len(items) < _BATCH:
                return Page(tuple(found), None)
            place = _Place(items[-1]["at"], MOST_IMAGES)
        return Page(tuple(found), str(place))


def _grouped(images: Sequence[tuple[str, str, str]]) -> Iterator[tuple[str, str, list[str]]]:
    """Images in their order, those of one series that follow each other together."""
    for (study_uid, series_uid), group in groupby(images, key=lambda image: image[:2]):
        uids = [image[2] for image in group]
        for start in range(0, len(uids), MOST_IMAGES):
            yield study_uid, series_uid, uids[start : start + MOST_IMAGES]


def _subjects(study_uid: str, reader: str, job_id: str | None) -> list[str]:
    named = [study_uid] if study_uid else []  # no key is empty
    return [*named, f"reader/{reader}", *([f"job/{job_id}"] if job_id else [])]


def _subject(study_uid: str | None, algo_id: str | None, job_id: str | None) -> str:
    """Under which there are the fewest."""
    if job_id is not None:
        return f"job/{job_id}"
    if study_uid is not None:
        return study_uid
    if algo_id is not None:
        return f"reader/{algo_id}"
    raise InvalidRequest("FILTER_NEEDED", "accesses: say which study, algo or job; on AWS there is no list of all")


def _accesses(item: Item) -> list[Access]:
    """Each image of an entry, the last first."""
    details = json.loads(item["details"])
    # Entries of earlier versions have one image, and stand under their study alone.
    uids = details.get("images") or [details["image"]]
    return [
        Access(
            at=item["at"].partition("#")[0],
            algo_id=item["actor"],
            job_id=details["job_id"],
            study_uid=details.get("study", item["subject"]),
            series_uid=details["series"],
            image_uid=uid,
        )
        for uid in reversed(uids)
    ]
