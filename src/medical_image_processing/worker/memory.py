"""What the kernel says of this container's memory, under control groups of both versions."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_KILLS = ("memory.events", "memory/memory.oom_control")
_KILL = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_NO_LIMIT = 2**60


def read_memory_limit(root: Path = _ROOT) -> int | None:
    """Bytes this container may use; None where there is no limit or it can't be read."""
    for name in _LIMITS:
        with suppress(OSError, ValueError):
            limit = int((root / name).read_text())
            return limit if limit < _NO_LIMIT else None
    return None


def count_memory_kills(root: Path = _ROOT) -> int:
    """How many processes of this container were killed for want of memory so far; 0 where nobody counts."""
    for name in _KILLS:
        with suppress(OSError):
            found = _KILL.search((root / name).read_text())
            return int(found[1]) if found else 0
    return 0
