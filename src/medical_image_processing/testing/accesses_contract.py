"""The clauses of ports.accesses, for every engine to inherit (see :mod:`testing.registry_contract`)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medical_image_processing.naming import NAME_PATTERN
from medical_image_processing.ports.accesses import Access, Accesses

Note = Callable[[str, Sequence[tuple[str, str, str]], str | None], Awaitable[None]]


@dataclass(frozen=True)
class AccessPorts:
    """The record, and how the PACS API writes it: reader, images by their three UIDs, job."""

    note: Note
    accesses: Accesses


async def all_pages(ports: AccessPorts, *, limit: int, **asked: Any) -> list[Access]:
    """Everything, page by page, none larger than ``limit``."""
    found: list[Access] = []
    cursor: str | None = None
    while True:
        page = await ports.accesses.page(limit=limit, cursor=cursor, **asked)
        assert len(page.items) <= limit
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found
        assert re.fullmatch(NAME_PATTERN, cursor), "the API takes no other"


async def six_jobs(ports: AccessPorts) -> None:
    """Two algorithms read two images each for every job but the first; and another study for one."""
    for number in range(6):
        images = [("1.2", "1.2.3", f"1.{number}.{image}") for image in range(2)]
        await ports.note(f"algo_{number % 2}", images, f"job-{number}" if number else None)
    await ports.note("algo_0", [("9.9", "", "")], "job-2")


class AccessesContract:
    """Clause I1."""

    def run(self, work: Callable[[AccessPorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        raise NotImplementedError

    def test_i1_a4_reads_are_found_by_study_newest_first_page_by_page(self) -> None:
        async def work(ports: AccessPorts) -> None:
            await six_jobs(ports)
            for limit in (1, 2, 5, 12, 13):
                seen = [one.image_uid for one in await all_pages(ports, limit=limit, study_uid="1.2")]
                assert seen == [f"1.{number}.{image}" for number in range(5, -1, -1) for image in (1, 0)], limit
            (access,) = (await ports.accesses.page(study_uid="9.9")).items
            assert (access.algo_id, access.job_id, access.series_uid, access.image_uid) == (
                "algo_0",
                "job-2",
                "",
                "",
            )
            assert access.at.endswith("Z") and "#" not in access.at
            assert (await ports.accesses.page(study_uid="no-such")).items == ()

        self.run(work)

    def test_i1_a4_reads_are_found_by_reader_and_by_job(self) -> None:
        async def work(ports: AccessPorts) -> None:
            await six_jobs(ports)
            by_reader = await all_pages(ports, limit=3, algo_id="algo_1")
            assert [one.job_id for one in by_reader] == ["job-5"] * 2 + ["job-3"] * 2 + ["job-1"] * 2
            by_job = await all_pages(ports, limit=2, job_id="job-2")
            assert [(one.study_uid, one.image_uid) for one in by_job] == [
                ("9.9", ""),
                ("1.2", "1.2.1"),
                ("1.2", "1.2.0"),
            ]
            asked = {"study_uid": "1.2", "algo_id": "algo_0", "job_id": "job-2"}
            assert [one.image_uid for one in await all_pages(ports, limit=1, **asked)] == ["1.2.1", "1.2.0"]
            assert await all_pages(ports, limit=9, **{**asked, "algo_id": "algo_1"}) == []
            of_nobody = await all_pages(ports, limit=9, study_uid="1.2", algo_id="algo_0")
            assert [one.job_id for one in of_nobody] == ["job-4"] * 2 + ["job-2"] * 2 + [None] * 2

        self.run(work)

    def test_i1_a_long_series_and_one_of_several_are_on_record_whole(self) -> None:
        async def work(ports: AccessPorts) -> None:
            images = [("1.2", f"1.2.{series}", f"{series}.{image}") for series in range(3) for image in range(450)]
            await ports.note("liver", images, "job-1")
            for asked in ({"study_uid": "1.2"}, {"algo_id": "liver"}, {"job_id": "job-1"}):
                found = await all_pages(ports, limit=400, **asked)
                assert [(one.study_uid, one.series_uid, one.image_uid) for one in found] == images[::-1]

        self.run(work)

    def test_i1_a_cursor_that_is_not_ours_finds_nothing(self) -> None:
        async def work(ports: AccessPorts) -> None:
            await six_jobs(ports)
            for cursor in ("nonsense", "_", "0_", "9" * 90, "-1", "0_2026_\n", "\u0661"):
                assert (await ports.accesses.page(study_uid="1.2", cursor=cursor)).items == ()

        self.run(work)
