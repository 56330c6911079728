"""What a DICOMweb server is asked for, so that it finds the words that a person types (PS3.18, section 10.6).

Of several words the server is asked for one, in each attribute that a search looks at: what has all of them has
that one, and whoever asks looks for the others in what it answers. Wild cards stand for whatever servers spell in
their own ways (PS3.4, section C.2.2.2.4), and each usual case is asked for, since a server may tell them apart.
"""

from __future__ import annotations

import asyncio
import calendar
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import NamedTuple

from medical_image_processing.errors import MipError, PermanentError
from medical_image_processing.pacs.archive import Described, SeriesDescription, date_in, words

Question = dict[str, str]
"""An attribute's keyword, and what it is matched with; none for all there is."""


class Looked(NamedTuple):
    """A page of what the server answers: how many items, how many of them fit the question, and the series among
    them that have all the words."""

    items: int
    fitting: int
    series: list[SeriesDescription]


class _End(Enum):
    """How a question ended: all was read, or not; the server refuses to match by it, or answers what it has."""

    ALL = auto()
    CUT = auto()
    REFUSED = auto()
    UNMATCHED = auto()


MOST_LOOKED_AT = 5000
"""Items of one answer: a server that does not match by an attribute may tell all that it has."""
_NAMED = ("PatientName", "StudyDescription", "SeriesDescription")
_NUMBERED = ("PatientID", "AccessionNumber")
# What needs no escape in an address: some servers take an escaped one as it stands, wild cards as well.
_ODD = re.compile(r"[^A-Za-z0-9._~-]+")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]{1,15}")
_DAYS = re.compile(r"[0-9]{8}-[0-9]{8}")
_UID_PART = re.compile(r"[0-9.]*\.[0-9.]*")


def questions(text: str) -> list[Question]:
    """What finds every series that has the words of ``text``, and others."""
    word = max(words(text), key=_tells, default="")
    if not _ODD.sub("", word):
        return [{}]
    asked = [
        {name: one} for one in _patterns(word, word.lower(), word.upper(), word.capitalize()) for name in _NAMED
    ]
    asked += [{name: one} for one in _patterns(word, word.upper()) for name in _NUMBERED]
    if _CODE.fullmatch(word):
        asked.append({"Modality": word.upper()})
    if (days := _days(date_in(word))) is not None:
        asked.append({"StudyDate": days})
    if _UID_PART.fullmatch(word):
        # A UID is matched whole (PS3.4, section C.2.2.2.2), and a part of one only by looking.
        asked = [{"StudyInstanceUID": word}, {"SeriesInstanceUID": word}, *asked, {}]
    return asked


def _tells(word: str) -> tuple[bool, int]:
    """How few series it is likely to be in."""
    asked = _ODD.sub("", word)
    return bool(asked) and not _UID_PART.fullmatch(word), len(asked)


def _patterns(*words: str) -> list[str]:
    return list(dict.fromkeys(_ODD.sub("*", f"*{word}*") for word in words))


def _days(word: str) -> str | None:
    """The dates that begin with it, as a range (PS3.4, section C.2.2.2.5)."""
    if not (word.isascii() and word.isdecimal() and len(word) in (4, 6, 8)) or not "1900" <= word[:4] < "2200":
        return None
    year, first, last = int(word[:4]), int(word[4:6] or 1), int(word[4:6] or 12)
    if not 1 <= first <= 12:
        return None
    days = calendar.monthrange(year, last)[1]
    if word[6:]:
        return word if 1 <= int(word[6:]) <= days else None
    return f"{year}{first:02d}01-{year}{last:02d}{days}"


def fits(text: str, asked: str) -> bool:
    """Whether ``text`` is what ``asked``, a value of a question, matches, upper and lower case apart."""
    first, _, last = asked.partition("-")
    if _DAYS.fullmatch(asked) and first <= text <= last:
        return True
    return fnmatchcase(text.casefold(), asked.casefold())


async def look(
    asked: Sequence[Question], pages: Callable[[Question], AsyncGenerator[Looked, None]], limit: int, look_s: float
) -> Described:
    """The first ``limit`` of what ``pages`` answers, as much as there is after ``look_s``.

    A server need not match by all attributes (PS3.18, section 10.6.1.2). One that refuses some has told all that
    it can match; of one that answers what doesn't fit the question, all is looked through, once. So a failure is
    one where nothing is answered: the first fault, or TimeoutError.
    """
    found: list[dict[tuple[str, str], SeriesDescription]] = [{} for _ in (*asked, "everything")]
    faults: list[MipError] = []
    ends: list[_End] = []
    is_answered = is_late = False

    def together() -> dict[tuple[str, str], SeriesDescription]:
        return {uids: one for some in found for uids, one in some.items()}

    async def ask(question: Question, into: dict[tuple[str, str], SeriesDescription]) -> _End:
        nonlocal is_answered
        looked_at = 0
        try:
            async with aclosing(pages(question)) as given:
                async for page in given:
                    is_answered = True
                    into.update(((one.study_id, one.series_id), one) for one in page.series)
                    looked_at += page.items
                    if len(into) > limit or looked_at >= MOST_LOOKED_AT:
                        return _End.CUT
                    # Not a few: servers may compare more loosely than we do, accents apart or by sound.
                    if question and page.fitting * 2 < page.items:
                        return _End.UNMATCHED
        except MipError as fault:
            faults.append(fault)
            return _End.REFUSED if question and isinstance(fault, PermanentError) else _End.CUT
        is_answered = True
        return _End.ALL

    tasks = [asyncio.create_task(ask(*both)) for both in zip(asked, found, strict=False)]
    try:
        async with asyncio.timeout(look_s):
            for task in asyncio.as_completed(tasks):
                ends.append(await task)
                if len(together()) > limit:
                    break
            else:
                if _End.UNMATCHED in ends and {} not in asked:
                    ends.append(await ask({}, found[-1]))
    except TimeoutError:
        is_late = True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not is_answered and (is_late or faults):
        raise TimeoutError if is_late else faults[0]
    series = list(together().values())
    return Described(series[:limit], not is_late and _End.CUT not in ends and len(series) <= limit)
