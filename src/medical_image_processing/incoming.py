"""What a socket receives, with an end to all waiting: a peer that sends a byte now and then never lets a timeout
of the socket's own pass, be it in a status line, a header, the size of a chunk or a trailer.

Under the worker's HTTP client and the PACS API's downloads.
"""

from __future__ import annotations

import io
import socket
import time
from typing import Any


class Incoming(io.RawIOBase):
    """Each wait is ended after ``wait_s`` (s), and all of them at ``deadline``, by the monotonic clock."""

    def __init__(self, source: socket.socket, wait_s: float) -> None:
        self._socket = source
        self._wait_s = wait_s
        self.deadline = float("inf")

    def readable(self) -> bool:
        """It is for reading only."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As much as is there, at least one byte; 0 at the end. TimeoutError."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("it sends too slowly")
        if left_s >= self._wait_s:
            return self._socket.recv_into(buffer)
        self._socket.settimeout(left_s)
        try:
            return self._socket.recv_into(buffer)
        finally:
            self._socket.settimeout(self._wait_s)
