"""Images that nodes sent by C-STORE, and for which there is no job yet.

Clauses, each a test in ``test/contract/test_arrivals_embedded.py``:

- C1 what was noted waits, whatever is killed, until it is done with (law J1)
- C2 what came after a series was looked at still waits when that is done with
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class ArrivedSeries(NamedTuple):
    """A series, who sent it (an AE title), and for which algorithm."""

    node: str
    algo_id: str
    study_uid: str
    series_uid: str


@dataclass(frozen=True)
class Arrived:
    """Instances of a series, up to ``receipt``: each SOP Instance UID once, sorted."""

    series: ArrivedSeries
    sop_uids: tuple[str, ...]
    receipt: int


class Arrivals(Protocol):
    """What came and waits for its job."""

    async def note(self, series: ArrivedSeries, sop_uid: str) -> None:
        """An instance is in the PACS. Durable when it returns."""

    async def waiting(self) -> Sequence[ArrivedSeries]:
        """Series with instances that wait, the longest waiting first."""

    async def look(self, series: ArrivedSeries) -> Arrived:
        """Those of a series."""

    async def done(self, arrived: Arrived, job_id: str) -> None:
        """There is a job for these; on record."""
