"""The clause of ports.resources.Logs, for every engine to inherit (see :mod:`testing.registry_contract`)."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from medical_image_processing.errors import InvalidRequest
from medical_image_processing.ports.resources import Logs
from medical_image_processing.testing.registry_contract import refused

HOSTILE_CURSORS = (
    *(
        "f" * 4096,
        "f" * 40 + "." + "0" * 16,
        "0.",
        "-1." + "0" * 16,
        "..",
        "e30",
        "e30=",
        "W10=",
        "bnVsbA==",
        "MQ==",
    ),
    *(
        base64.urlsafe_b64encode(text.encode()).decode()
        for text in (
            '{"worker/worker/a": ""}',
            '{"worker/worker/a": null}',
            '{"worker/worker/a": "\\ud800"}',
            '{"worker/worker/a": "f/0/s"}',
            '{"../other/a": "f/0/s"}',
            '{"worker/worker/a": {"a": 1}}',
            "[" * 3000,
            "9" * 3000,
        )
    ),
)
ALGO = "liver"


@dataclass(frozen=True)
class LogPorts:
    """Logs, and a worker's hand: ``write(worker, lines)``. The group of :data:`ALGO` exists."""

    logs: Logs
    write: Callable[[str, Sequence[str]], Awaitable[None]]


def numbered(first: int, last: int) -> list[str]:
    """Lines with a number each."""
    return [f'{{"line": {number}}}' for number in range(first, last)]


class LogsContract:
    """Clause S7."""

    def run(self, work: Callable[[LogPorts], Awaitable[None]]) -> None:
        """Run ``work`` against a fresh engine."""
        raise NotImplementedError

    def test_s7_the_newest_lines_and_then_each_that_comes_once(self) -> None:
        async def work(ports: LogPorts) -> None:
            empty = await ports.logs.read(ALGO, lines=5)
            assert (empty.lines, empty.gap) == ((), False)
            await ports.write("a", numbered(0, 20))
            newest = await ports.logs.read(ALGO, lines=5)
            assert list(newest.lines) == numbered(15, 20)
            nothing = await ports.logs.read(ALGO, lines=5, cursor=newest.cursor)
            assert (nothing.lines, nothing.gap) == ((), False)
            await ports.write("a", numbered(20, 30))
            seen: list[str] = []
            cursor = nothing.cursor
            for _ in range(4):  # more than one answer may hold
                page = await ports.logs.read(ALGO, lines=4, cursor=cursor)
                assert len(page.lines) <= 4 and not page.gap
                seen, cursor = [*seen, *page.lines], page.cursor
            assert seen == numbered(20, 30)

        self.run(work)

    def test_s7_from_before_the_first_line_on_and_of_workers_that_came_later(self) -> None:
        async def work(ports: LogPorts) -> None:
            cursor = (await ports.logs.read(ALGO, lines=5)).cursor
            await ports.write("a", numbered(0, 2))
            first = await ports.logs.read(ALGO, lines=50, cursor=cursor)
            assert list(first.lines) == numbered(0, 2)
            await ports.write("b", numbered(2, 4))
            await ports.write("a", numbered(4, 5))
            second = await ports.logs.read(ALGO, lines=50, cursor=first.cursor)
            assert sorted(second.lines) == numbered(2, 5) and not second.gap

        self.run(work)

    def test_s7_a_cursor_of_somewhere_else_is_refused_or_said_to_have_a_gap(self) -> None:
        async def work(ports: LogPorts) -> None:
            await ports.write("a", numbered(0, 3))
            await refused(InvalidRequest, "INVALID_CURSOR", ports.logs.read(ALGO, lines=5, cursor="nonsense"))
            nobody = await ports.logs.read("no_such", lines=5)
            assert nobody.lines == ()

        self.run(work)

    def test_s7_whatever_a_cursor_says_it_is_refused_or_leads_to_lines_of_this_log(self) -> None:
        async def work(ports: LogPorts) -> None:
            await ports.write("a", numbered(0, 3))
            cursor = (await ports.logs.read(ALGO, lines=5)).cursor
            for hostile in (*HOSTILE_CURSORS, cursor[:-1], cursor[1:], cursor * 2, cursor.swapcase()):
                try:
                    page = await ports.logs.read(ALGO, lines=5, cursor=hostile)
                except InvalidRequest as error:
                    assert error.code == "INVALID_CURSOR"
                else:
                    assert list(page.lines) in ([], numbered(0, 3)), hostile

        self.run(work)

    def test_s7_what_would_command_a_terminal_is_shown_as_what_it_is_not(self) -> None:
        async def work(ports: LogPorts) -> None:
            await ports.write("a", ["\x1b[2Jgone"])
            assert (await ports.logs.read(ALGO, lines=5)).lines == ("\ufffd[2Jgone",)

        self.run(work)
