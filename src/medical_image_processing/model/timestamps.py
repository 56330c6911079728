"""Epoch seconds as the ISO 8601 text of the contract."""

from __future__ import annotations

from datetime import UTC, datetime


def to_iso(epoch_s: float) -> str:
    """``2026-11-24T03:09:00.123456Z``."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
