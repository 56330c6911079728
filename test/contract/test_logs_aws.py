"""Reading logs: the contract on CloudWatch Logs, and a token that is too old."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from aws_emulator import AwsEmulator
from medical_image_processing import naming
from medical_image_processing.engines.aws.log_groups import LogGroups, _cursor
from medical_image_processing.testing.logs_contract import ALGO, LogPorts, LogsContract, numbered

STREAM = "worker/worker/"


class TestAwsLogs(LogsContract):
    @pytest.fixture(autouse=True)
    def _account(self, aws_emulator: AwsEmulator) -> None:
        self.account = aws_emulator.fresh_account()

    def run(self, work: Callable[[LogPorts], Awaitable[None]]) -> None:
        clients = self.account.clients()
        boto, made = clients.client("logs").boto, set[str]()
        moments = itertools.count(int(time.time() * 1000) - 60_000)

        async def write(worker: str, lines: Sequence[str]) -> None:
            where = {"logGroupName": naming.log_group(ALGO), "logStreamName": STREAM + worker}
            if worker not in made:
                boto.create_log_stream(**where)
                made.add(worker)
            events = [{"timestamp": next(moments), "message": line} for line in lines]
            boto.put_log_events(**where, logEvents=events)

        async def limited() -> None:
            logs = LogGroups(clients)
            await logs.create(ALGO)
            await asyncio.wait_for(work(LogPorts(logs, write)), 30)

        try:
            asyncio.run(limited())
        finally:
            clients.close()

    def test_s7_of_a_worker_that_speaks_again_after_ten_others_nothing_comes_twice(self) -> None:
        async def work(ports: LogPorts) -> None:
            await ports.write("first", numbered(0, 3))
            cursor, seen = (await ports.logs.read(ALGO, lines=50)).cursor, list[str]()
            for number in range(30):
                await ports.write(f"{number:0>32}", numbered(10 + number, 11 + number))
                page = await ports.logs.read(ALGO, lines=50, cursor=cursor)
                seen, cursor = [*seen, *page.lines], page.cursor
                if number == 11:
                    await ports.write("first", numbered(3, 5))
            assert sorted(seen) == sorted([*numbered(3, 5), *numbered(10, 40)])
            assert len(cursor) <= 4096 and cursor != (await ports.logs.read(ALGO, lines=50)).cursor

        self.run(work)

    def test_s7_a_token_that_is_good_no_more_goes_on_with_the_newest_and_says_so(self) -> None:
        async def work(ports: LogPorts) -> None:
            await ports.write("a", numbered(0, 50))
            old = _cursor({f"{STREAM}a": "f/long-gone"})
            page = await ports.logs.read(ALGO, lines=20, cursor=old)
            assert page.gap and list(page.lines) == numbered(30, 50)
            again = await ports.logs.read(ALGO, lines=20, cursor=page.cursor)
            assert (again.gap, again.lines) == (False, ())

        self.run(work)
