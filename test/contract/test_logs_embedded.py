"""Reading logs: the contract on the embedded engine, and what a file does that CloudWatch doesn't."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.testing.logs_contract import ALGO, LogPorts, LogsContract, numbered


def append(logs: LogGroups, data: bytes) -> None:
    with logs.open(ALGO) as descriptor:
        os.write(descriptor, data)


class TestEmbeddedLogs(LogsContract):
    @pytest.fixture(autouse=True)
    def _logs(self, tmp_path: Path) -> None:
        self.logs = LogGroups(tmp_path)
        self.logs.create(ALGO)

    def run(self, work: Callable[[LogPorts], Awaitable[None]]) -> None:
        async def write(worker: str, lines: Sequence[str]) -> None:
            append(self.logs, "".join(f"{line}\n" for line in lines).encode())

        asyncio.run(_limited(work(LogPorts(self.logs, write))))

    def test_s7_a_log_that_was_trimmed_or_made_anew_goes_on_with_its_newest_and_says_so(
        self, tmp_path: Path
    ) -> None:
        self.logs = LogGroups(tmp_path, most_bytes=2000)

        async def work(ports: LogPorts) -> None:
            await ports.write("a", numbered(0, 200))
            cursor = (await ports.logs.read(ALGO, lines=5)).cursor
            self.logs.trim()
            trimmed = await ports.logs.read(ALGO, lines=5, cursor=cursor)
            assert trimmed.gap and list(trimmed.lines) == numbered(195, 200)
            self.logs.delete(ALGO)
            gone = await ports.logs.read(ALGO, lines=5, cursor=trimmed.cursor)
            assert gone.gap and gone.lines == ()
            await ports.write("a", numbered(500, 900))
            anew = await ports.logs.read(ALGO, lines=5, cursor=trimmed.cursor)
            assert anew.gap and list(anew.lines) == numbered(895, 900)

        self.run(work)

    def test_s7_a_line_is_shown_when_it_is_whole_and_one_without_end_in_pieces(self) -> None:
        async def work(ports: LogPorts) -> None:
            append(self.logs, b"whole\nhal")
            first = await ports.logs.read(ALGO, lines=5)
            assert first.lines == ("whole",)
            append(self.logs, b"f\n")
            second = await ports.logs.read(ALGO, lines=5, cursor=first.cursor)
            assert second.lines == ("half",)
            append(self.logs, b"x" * 1_000_000)
            third = await ports.logs.read(ALGO, lines=5, cursor=second.cursor)
            assert third.lines and set(third.lines[0]) == {"x"}

        self.run(work)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 5)), max_size=12))
def test_s7_whatever_is_written_each_line_comes_once_and_in_order(
    tmp_path: Path, steps: list[tuple[bytes, int]]
) -> None:
    async def work() -> None:
        logs = LogGroups(tmp_path)
        logs.delete(ALGO)
        cursor = (await logs.read(ALGO, lines=1)).cursor
        written, seen = b"", []
        for data, lines in [*steps, (b"\n", 1000)]:
            append(logs, data)
            written += data
            page = await logs.read(ALGO, lines=lines, cursor=cursor)
            assert len(page.lines) <= lines and not page.gap
            seen, cursor = [*seen, *page.lines], page.cursor
        whole = (await logs.read(ALGO, lines=2000)).lines
        assert tuple(seen) == whole and len(whole) == written.count(b"\n")

    asyncio.run(work())


async def _limited(work: Awaitable[None]) -> None:
    await asyncio.wait_for(work, 30)
