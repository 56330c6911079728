"""Names that stand for UIDs and PACS ids where the real ones may not go: in what a de-identifying algorithm gets.

Clauses, each a test in ``test/contract/test_pseudonyms_embedded.py``:

- N1 the same name has the same pseudonym, across restarts; without the platform's secret it can't be guessed
- N2 what :meth:`keep` has returned for is found by its pseudonym, whatever is killed
- N3 what was never kept is not found
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Pseudonyms(Protocol):
    """Pseudonyms of UIDs are UIDs under 2.25 (DICOM PS3.5, B.2), those of other names UUIDs."""

    def of(self, name: str) -> str:
        """The pseudonym. It may leave the platform once :meth:`keep` has returned, and not before."""

    async def keep(self, names: Iterable[str]) -> None:
        """Put the pseudonyms of ``names`` on record, durably."""

    async def real(self, pseudonyms: Iterable[str]) -> dict[str, str]:
        """The names behind these; those that are no pseudonyms are not in it."""
