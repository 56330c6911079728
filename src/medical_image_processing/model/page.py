"""One page of a listing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """``items`` in order, and the cursor that continues after them, or None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None
