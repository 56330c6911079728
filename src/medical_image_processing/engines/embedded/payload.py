"""What a body must turn out to be: its length, its hash in the signature, its checksums.

Source: Amazon S3 user guide, "Checking object integrity"; API reference, PutObject.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from medical_image_processing.engines.embedded.aws_chunked import ChunkedDecoder, ChunkSigner
from medical_image_processing.engines.embedded.aws_error import AwsError
from medical_image_processing.engines.embedded.sigv4 import UNSIGNED_PAYLOAD, Signature

Buffer = bytes | memoryview

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKSUM = "x-amz-checksum-"
_NOT_CHECKSUMS = frozenset({"algorithm", "type", "mode"})
_STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
_STREAMING_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
_STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


class _Digest(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A running CRC of ``size`` bytes, big-endian as S3 has it."""

    def __init__(self, function: Callable[[Buffer, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


def _digest(name: str) -> _Digest:
    if name in ("sha256", "sha1", "sha512", "md5"):
        return hashlib.new(name, usedforsecurity=False)
    if name == "crc32":
        return _Crc(zlib.crc32, 4)
    if name in ("crc32c", "crc64nvme"):
        from awscrt import checksums  # slow to import, and Python's own clients send CRC32

        function = checksums.crc32c if name == "crc32c" else checksums.crc64nvme
        return _Crc(lambda data, before: int(function(bytes(data), before)), 4 if name == "crc32c" else 8)
    raise AwsError("InvalidRequest", "send a CRC32, CRC32C, CRC64NVME, SHA1, SHA256 or SHA512 checksum, or none")


class Payload:
    """Takes a body piece by piece, gives the content, and at the end says whether it is what was declared.

    ``key`` is the signing key of the request; ``signature`` the checked one. AwsError
    ``MissingContentLength``, ``EntityTooLarge``, ``InvalidDigest``, ``InvalidArgument``.
    """

    def __init__(self, headers: Mapping[str, str], signature: Signature, key: bytes, *, max_bytes: int) -> None:
        kind = payload_hash(headers, signature)
        self.length = _declared_length(headers, is_streaming=kind.startswith("STREAMING-"))
        if self.length > max_bytes:
            raise AwsError("EntityTooLarge", f"at most {max_bytes} bytes can be stored in one request")
        self._received = 0
        self._decoder = _decoder(kind, signature, key)
        self._sha256 = kind if _HEX_SHA256.fullmatch(kind) else None
        self._expected: dict[str, str] = {}
        self._digests: dict[str, _Digest] = {}
        for name in headers.get("x-amz-trailer", "").lower().replace(" ", "").split(","):
            if name.startswith(_CHECKSUM):
                self._digests[name] = _digest(name.removeprefix(_CHECKSUM))
        for name, value in headers.items():
            if name.startswith(_CHECKSUM) and name.removeprefix(_CHECKSUM) not in _NOT_CHECKSUMS:
                self._expect(name, name.removeprefix(_CHECKSUM), value)
        if "content-md5" in headers:
            self._expect("content-md5", "md5", headers["content-md5"])
        if self._sha256 is not None:
            self._digests["x-amz-content-sha256"] = _digest("sha256")

    def _expect(self, name: str, algorithm: str, value: str) -> None:
        self._digests[name] = digest = _digest(algorithm)
        try:
            valid = len(base64.b64decode(value, validate=True)) == len(digest.digest())
        except binascii.Error:
            valid = False
        if not valid:
            raise AwsError("InvalidDigest", f"the {name} header is not a digest of that kind in base64")
        self._expected[name] = value

    def feed(self, pieces: Iterable[bytes]) -> list[Buffer]:
        """The content of ``pieces``."""
        decoder = self._decoder
        content: list[Buffer] = [
            part for piece in pieces for part in (decoder.feed(piece) if decoder else (piece,)) if len(part)
        ]
        for part in content:
            self._received += len(part)
            for digest in self._digests.values():
                digest.update(part)
        if self._received > self.length:
            raise AwsError("IncompleteBody", "the body is longer than it was declared to be")
        return content

    def finish(self) -> None:
        """AwsError ``IncompleteBody``, ``BadDigest``, ``XAmzContentSHA256Mismatch``."""
        if self._decoder is not None:
            self._decoder.finish()
            self._expected |= {n: v for n, v in self._decoder.trailers.items() if n in self._digests}
        if self._received != self.length:
            raise AwsError("IncompleteBody", "the body is shorter than it was declared to be")
        for name, digest in self._digests.items():
            if name == "x-amz-content-sha256":
                if not hmac.compare_digest(digest.digest().hex(), self._sha256 or ""):
                    raise AwsError("XAmzContentSHA256Mismatch", "the body is not the one that was signed")
            elif base64.b64encode(digest.digest()).decode() != self._expected.get(name):
                raise AwsError("BadDigest", f"the body does not have the {name} that was sent with it")


def payload_hash(headers: Mapping[str, str], signature: Signature) -> str:
    """What stands for the payload in an S3 request's signature."""
    given = headers.get("x-amz-content-sha256")
    if given is not None:
        return given
    if signature.expires_s is not None:
        return UNSIGNED_PAYLOAD
    raise AwsError("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")


def _declared_length(headers: Mapping[str, str], *, is_streaming: bool) -> int:
    length = headers.get("x-amz-decoded-content-length" if is_streaming else "content-length", "")
    if not length.isascii() or not length.isdecimal() or len(length) > 15:
        raise AwsError("MissingContentLength", "You must provide the Content-Length HTTP header.", status=411)
    return int(length)


def _decoder(kind: str, signature: Signature, key: bytes) -> ChunkedDecoder | None:
    if kind == UNSIGNED_PAYLOAD or _HEX_SHA256.fullmatch(kind):
        return None
    if kind == _STREAMING_UNSIGNED_TRAILER:
        return ChunkedDecoder(None, with_trailer=True)
    if kind in (_STREAMING, _STREAMING_TRAILER):
        signer = ChunkSigner(key, signature.timestamp, signature.scope, signature.signature)
        return ChunkedDecoder(signer, with_trailer=kind == _STREAMING_TRAILER)
    raise AwsError("InvalidArgument", "x-amz-content-sha256 is no payload hash that Signature Version 4 knows")
