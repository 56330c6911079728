"""Sends an answer's head and body in one packet.

uvicorn writes them apart, and each write wakes the reader: a worker would be scheduled twice for every
answer, several times a job.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LARGE_BYTES = 65_536


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol over a transport that gathers small writes until the loop's next turn."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio.Protocol."""
        super().connection_made(cast(asyncio.Transport, _Gathering(transport, self.loop)))


class _Gathering:
    """A transport; everything but writing and closing is the real one's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        if len(data) > _LARGE_BYTES:  # not worth copying
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if not parts or self._transport.is_closing():
            return
        if len(parts[-1]) > _LARGE_BYTES:
            self._transport.write(b"".join(parts[:-1]))
            self._transport.write(parts[-1])
        else:
            self._transport.write(b"".join(parts))
