"""A state machine of Hypothesis's over an engine, which lives in an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Generic, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

Engine = TypeVar("Engine")
T = TypeVar("T")


class EngineMachine(RuleBasedStateMachine, Generic[Engine]):
    """What the state machines of an engine have in common: it is opened at the start and closed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engine = self._run(self.open_engine())

    async def open_engine(self) -> Engine:
        """A fresh engine."""
        raise NotImplementedError

    async def close_engine(self) -> None:
        """Close it."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Hypothesis calls it after each example."""
        self._run(self.close_engine())
        self.runner.close()

    def _run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())
