"""A connection whose other end is not trusted: what it may send is bounded before memory is taken for it.

pynetdicom reads as many bytes as a PDU's header announces, up to 4 GiB, for as long as it takes, and keeps a
message until its last fragment comes. Here the PDUs' framing (PS3.8, section 9.3) is followed on the way, and a
peer that goes too far gets an A-ABORT and no more attention.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import time

from medical_image_processing.dimse import limits

_LOG = logging.getLogger(__name__)
_HEADER = struct.Struct(">BxL")
_P_DATA_TF = 0x04
_LAST_TYPE = 0x07
_A_ABORT = struct.pack(">BxLxxBB", 0x07, 4, 2, 6)
"""By the service provider, for an invalid parameter (PS3.8, section 9.3.8)."""


class PeerSocket(socket.socket):
    """Takes over ``connection``. ``begin_message`` when the bytes of a next message start to count.

    A PDU must be complete ``pdu_timeout_s`` after its first byte; a message has ``most_message_bytes``.
    ``message_bytes``: how many have come of it.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        pdu_timeout_s: float = limits.PDU_TIMEOUT_S,
        most_message_bytes: int = limits.INSTANCE_BYTES,
    ) -> None:
        super().__init__(fileno=connection.detach())
        self.settimeout(pdu_timeout_s)
        self._pdu_timeout_s = pdu_timeout_s
        self._most_message_bytes = most_message_bytes
        self._header = bytearray()
        self._left = 0
        self.message_bytes = 0
        self._deadline = 0.0
        self._refusal: str | None = None

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As usual; ConnectionAbortedError once the peer went too far."""
        data = super().recv(bufsize, flags)
        self._follow(data)
        if self._refusal is not None:
            raise ConnectionAbortedError(errno.ECONNABORTED, self._refusal)
        return data

    def begin_message(self) -> None:
        """The message before is done with."""
        self.message_bytes = 0

    def refuse(self, why: str) -> None:
        """Take nothing more from the peer."""
        if self._refusal is None:
            self._refusal = why
            _LOG.warning("a DICOM peer was cut off: %s", why)
            with contextlib.suppress(OSError):
                self.send(_A_ABORT)

    def _follow(self, data: bytes) -> None:
        self.message_bytes += len(data)
        if self.message_bytes > self._most_message_bytes:
            self.refuse(f"a message of more than {self._most_message_bytes} bytes")
        rest = memoryview(data)
        while rest and self._refusal is None:
            if not self._header and not self._left:
                self._deadline = time.monotonic() + self._pdu_timeout_s
            if self._left:
                taken = min(self._left, len(rest))
                self._left -= taken
            else:
                taken = min(_HEADER.size - len(self._header), len(rest))
                self._header += rest[:taken]
                if len(self._header) == _HEADER.size:
                    self._begin_pdu(*_HEADER.unpack(self._header))
            rest = rest[taken:]
        if (self._left or self._header) and time.monotonic() > self._deadline:
            self.refuse(f"a PDU that was not complete after {self._pdu_timeout_s:.0f} s")

    def _begin_pdu(self, kind: int, length: int) -> None:
        self._header.clear()
        self._left = length
        most = limits.PDU_BYTES if kind == _P_DATA_TF else limits.OTHER_PDU_BYTES
        if not 0 < kind <= _LAST_TYPE:
            self.refuse("what it sends is no DICOM")
        elif length > most:
            self.refuse(f"a PDU of more than {most} bytes")
