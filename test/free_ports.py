"""Ports for servers that can't say which one they were given, and for what comes back on the port it had."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 6_000
"""Below those that the system hands out by itself, to clients and to whoever binds to 0 (Linux: from 32768). Every
second one: a platform takes the next one for its workers."""
_OFFSETS = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """One on loopback that nobody listens on, and that nobody gets by chance before its server is there."""
    for _ in range(_COUNT):
        port = _FIRST + 2 * (next(_OFFSETS) % _COUNT)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no port is free")
