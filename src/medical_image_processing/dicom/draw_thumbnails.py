"""``python -m medical_image_processing.dicom.draw_thumbnails``: DICOM files in, PNG files out, until the end.

A process of its own, since what decodes images is native code and the files are anybody's: what crashes it, or
makes it grow, ends this and nothing else. Each message is eight bytes of length, big-endian, and that many bytes;
an answer has one byte before: 0 with a PNG, 1 with the code of why there is none. ``pacs/drawing.py`` starts it.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from medical_image_processing.dicom.picture import thumbnail_png
from medical_image_processing.dicom.read import read_image
from medical_image_processing.errors import InputRejected

MOST_MEMORY_BYTES = 4 * 2**30
"""Of addresses, of which far from all is memory."""
_NICENESS = 10


def main() -> None:
    """Draw what comes."""
    os.nice(_NICENESS)  # jobs first
    _go_first()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    files, pictures = sys.stdin.buffer, sys.stdout.buffer
    while (data := _read(files)) is not None:
        kind, content = _draw(data)
        pictures.write(kind + len(content).to_bytes(8, "big") + content)
        pictures.flush()


def _go_first() -> None:
    """Where a container's memory runs out, the kernel ends this, and not who serves images (proc(5))."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _draw(data: bytes) -> tuple[bytes, bytes]:
    try:
        return b"\0", thumbnail_png(read_image(data))
    except InputRejected as error:
        return b"\1", error.code.encode()
    except Exception:  # whatever it is, its text may quote the file
        return b"\1", b"UNDECODABLE_PIXELS"


def _read(files: BinaryIO) -> bytes | None:
    size = files.read(8)
    if len(size) < 8:
        return None
    data = files.read(int.from_bytes(size, "big"))
    return data


if __name__ == "__main__":
    main()
