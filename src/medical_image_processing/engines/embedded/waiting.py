"""Receivers in line for a queue's messages."""

from __future__ import annotations

import asyncio
from itertools import islice


class Line:
    """Waiters, woken in the order they came. ``version`` changes with every wake-up.

    Whoever looks for messages notes the version first and waits only if it is still the same: then no
    wake-up can fall between looking and waiting. ``may_have_messages`` spares a look at a queue that was
    found empty and has woken nobody since.
    """

    __slots__ = ("_waiters", "may_have_messages", "version")

    def __init__(self) -> None:
        self.version = 0
        self.may_have_messages = True
        self._waiters: dict[asyncio.Future[None], None] = {}

    def wake(self, count: int) -> None:
        """Wake up to ``count`` waiters."""
        if count <= 0:
            return
        self.version += 1
        self.may_have_messages = True
        for waiter in list(islice(self._waiters, count)):
            del self._waiters[waiter]
            if not waiter.done():
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Wake everybody."""
        self.wake(max(1, len(self._waiters)))

    async def wait(self, timeout_s: float) -> None:
        """Return when woken or after ``timeout_s``. A waiter cancelled after it was woken wakes the next."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_later(timeout_s, self._time_out, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                del self._waiters[waiter]
            else:
                self.wake(1)
            raise
        finally:
            timer.cancel()

    def _time_out(self, waiter: asyncio.Future[None]) -> None:
        if waiter in self._waiters:
            del self._waiters[waiter]
            if not waiter.done():
                waiter.set_result(None)
