"""Results on their way to the client.

Clauses, each a test in ``testing/``:

- O1 a signed URL opens that one object to whoever has it, until it expires, and nothing else
"""

from __future__ import annotations

from typing import Protocol


class Outputs(Protocol):
    """The output bucket, for reading."""

    def sign(self, bucket: str, key: str, *, host: str) -> str:
        """A URL that expires. ``host`` is the name by which the client reaches the platform."""
