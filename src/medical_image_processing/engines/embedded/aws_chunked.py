"""The ``aws-chunked`` body: chunks, each perhaps signed, then trailers, perhaps signed too.

Source: Amazon S3 API reference, "Signature Calculations for the Authorization Header: Transferring Payload in
Multiple Chunks", also "with trailing checksums".
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256

from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.sigv4 import EMPTY_SHA256

_MAX_LINE = 4096
_MAX_TRAILERS = 8
_HEADER = re.compile(rb"([0-9A-Fa-f]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?")
_TRAILER = re.compile(rb"([A-Za-z0-9-]{1,64}):[ \t]*([!-~ ]*?)[ \t]*")
_TRAILER_SIGNATURE = "x-amz-trailer-signature"


@dataclass
class ChunkSigner:
    """Signs one chunk after the other; each signature covers the one before, the first the request's."""

    key: bytes
    timestamp: str
    scope: str
    previous: str

    def chunk(self, content_sha256: str) -> str:
        """The signature of the next chunk."""
        return self._next("AWS4-HMAC-SHA256-PAYLOAD", f"{EMPTY_SHA256}\n{content_sha256}")

    def trailer(self, canonical: bytes) -> str:
        """The signature of the trailers."""
        return self._next("AWS4-HMAC-SHA256-TRAILER", sha256(canonical).hexdigest())

    def _next(self, kind: str, what: str) -> str:
        text = f"{kind}\n{self.timestamp}\n{self.scope}\n{self.previous}\n{what}"
        self.previous = hmac.digest(self.key, text.encode(), "sha256").hex()
        return self.previous


class _State(Enum):
    HEADER = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    DONE = auto()


class ChunkedDecoder:
    """Takes the body in any pieces and gives the content. ``signer`` is None for unsigned chunks.

    Raises AwsError ``SignatureDoesNotMatch`` for a wrong chunk, ``IncompleteBody`` for a malformed body.
    """

    def __init__(self, signer: ChunkSigner | None, *, with_trailer: bool) -> None:
        self.trailers: dict[str, str] = {}
        self._signer = signer
        self._with_trailer = with_trailer
        self._state = _State.HEADER
        self._line = bytearray()
        self._left = 0
        self._signature = ""
        self._hash = sha256()

    def feed(self, piece: bytes) -> Iterator[memoryview]:
        """The content in ``piece``, without copying it."""
        view, at = memoryview(piece), 0
        while at < len(piece):
            if self._state is _State.DATA:
                content = view[at : at + self._left]
                at += len(content)
                self._take(content)
                yield content
                continue
            end = piece.find(b"\n", at)
            self._line += view[at : len(piece) if end < 0 else end]
            if len(self._line) > _MAX_LINE:
                raise _malformed()
            if end < 0:
                return
            at = end + 1
            line, self._line = bytes(self._line.removesuffix(b"\r")), bytearray()
            self._take_line(line)

    def finish(self) -> None:
        """Call at the end of the body."""
        complete = self._state is _State.DONE or (self._state is _State.TRAILERS and not self._with_trailer)
        if not complete or self._line:
            raise _malformed()

    def _take(self, content: memoryview) -> None:
        self._left -= len(content)
        if self._signer is not None:
            self._hash.update(content)
        if not self._left:
            self._check_chunk()
            self._state = _State.DATA_END

    def _take_line(self, line: bytes) -> None:
        if self._state is _State.HEADER:
            self._begin_chunk(line)
        elif self._state is _State.TRAILERS and line:
            self._take_trailer(line)
        elif line:
            raise _malformed()
        elif self._state is _State.DATA_END:
            self._state = _State.HEADER
        elif self._state is _State.TRAILERS:
            self._check_trailers()
            self._state = _State.DONE

    def _begin_chunk(self, line: bytes) -> None:
        match = _HEADER.fullmatch(line)
        if match is None or (match[2] is None) != (self._signer is None):
            raise _malformed()
        self._left = int(match[1], 16)
        self._signature = (match[2] or b"").decode()
        self._hash = sha256()
        if self._left:
            self._state = _State.DATA
        else:
            self._check_chunk()
            self._state = _State.TRAILERS

    def _take_trailer(self, line: bytes) -> None:
        match = _TRAILER.fullmatch(line)
        if match is None or not self._with_trailer or len(self.trailers) >= _MAX_TRAILERS:
            raise _malformed()
        self.trailers[match[1].decode().lower()] = match[2].decode()

    def _check_chunk(self) -> None:
        if self._signer is not None:
            self._compare(self._signer.chunk(self._hash.hexdigest()), self._signature)

    def _check_trailers(self) -> None:
        if self._signer is None or not self._with_trailer:
            return
        signature = self.trailers.pop(_TRAILER_SIGNATURE, "")
        canonical = "".join(f"{name}:{value}\n" for name, value in self.trailers.items()).encode()
        self._compare(self._signer.trailer(canonical), signature)

    def _compare(self, expected: str, given: str) -> None:
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise AwsError("SignatureDoesNotMatch", "a chunk of the body has a wrong signature", status=403)


def _malformed() -> AwsError:
    return AwsError("IncompleteBody", "the aws-chunked body is cut short or malformed")
