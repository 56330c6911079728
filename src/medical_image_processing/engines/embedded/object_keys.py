"""Object keys as paths below one folder, so that a person can browse the bucket.

Every key maps to at most one path, and no key to one outside the folder.
"""

from __future__ import annotations

from medical_image_processing.engines.embedded.aws_error import AwsError

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
RESERVED = ".uploads"
"""The subfolder of unfinished uploads; no key begins with it."""


def check_key(key: str) -> None:
    """AwsError ``KeyTooLongError``, ``InvalidArgument`` when ``key`` can't be stored as a file."""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise AwsError("KeyTooLongError", f"a key has at most {MAX_KEY_BYTES} bytes")
    if not is_storable(key):
        raise AwsError(
            "InvalidArgument",
            "objects are stored as files: a key has no empty, '.' or '..' segment, no control character, no "
            f"segment over {MAX_SEGMENT_BYTES} bytes, and does not begin with '{RESERVED}'",
        )


def is_storable(key: str) -> bool:
    """Whether ``key`` can name a file below the bucket's folder."""
    segments = key.split("/")
    return (
        segments[0] != RESERVED
        and all(s not in ("", ".", "..") and len(s.encode()) <= MAX_SEGMENT_BYTES for s in segments)
        and not any(character < " " or character == "\x7f" for character in key)
    )
