"""Results on their way to the client.

Clauses; what a URL opens shows only where a client asks, so the test is of a whole platform,
``test/system/test_end_to_end.py``, "a results link":

- O1 a signed URL opens that one object to whoever has it, until it expires, and nothing else
"""

from __future__ import annotations

from typing import Protocol


class Outputs(Protocol):
    """The output bucket, for reading."""

    def sign(self, bucket: str, key: str, *, base_url: str) -> str:
        """A URL that expires. ``base_url`` is the scheme and host by which the client reaches the API."""
