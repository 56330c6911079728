"""JPEG that neither pydicom nor its plugins decode: lossless, and extended with 12 bits.

What scanners and archives have compressed losslessly for decades is in 1.2.840.10008.1.2.4.70. imagecodecs brings
libjpeg-turbo, whose threads run side by side; it is imported when the first such image comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from medical_image_processing.errors import InputRejected

Pixels = npt.NDArray[Any]

SYNTAXES = frozenset({JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1})
TRUSTING_SYNTAXES = frozenset({JPEGBaseline8Bit, JPEGLSLossless, JPEGLSNearLossless})
"""Those whose decoders, which are others, make room for whatever a frame says of its size."""

# Start of frame markers with what follows them: ITU-T T.81 B.2.2. C4, C8 and CC are something else.
_FRAME_MARKERS = (frozenset(range(0xC0, 0xD0)) | {0xF7}) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def decode_frame(frame: bytes, shape: tuple[int, int, int], bits_allocated: int) -> Pixels:
    """(rows, columns) or (rows, columns, samples) of a frame that must have ``shape`` and fit ``bits_allocated``.

    Raises :class:`InputRejected` ``UNDECODABLE_PIXELS``. The size is compared before memory is taken for it.
    """
    precision, *stated = _read_start_of_frame(frame)
    if tuple(stated) != shape or precision > bits_allocated:
        raise broken()
    import imagecodecs

    try:
        decoded: Pixels = imagecodecs.jpeg8_decode(frame)
    except Exception as error:  # each codec has its own
        raise broken() from error
    if decoded.shape != (shape if shape[2] > 1 else shape[:2]):
        raise broken()
    return decoded.astype(np.uint8 if bits_allocated == 8 else np.uint16, copy=False)


def check_frame(frame: bytes, shape: tuple[int, int, int]) -> None:
    """As :func:`decode_frame`, before another decoder believes what the frame says of its size."""
    if tuple(_read_start_of_frame(frame)[1:]) != shape:
        raise broken()


def broken() -> InputRejected:
    """The error for a frame that contradicts the header, or itself."""
    return InputRejected(
        "UNDECODABLE_PIXELS", "The JPEG pixel data is broken or contradicts the header; fetch the file again."
    )


def _read_start_of_frame(frame: bytes) -> tuple[int, int, int, int]:
    """Precision in bits, rows, columns and components."""
    place = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while place + 10 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker in _FRAME_MARKERS:
            rows, columns = (int.from_bytes(frame[place + at : place + at + 2], "big") for at in (5, 7))
            return frame[place + 4], rows, columns, frame[place + 9]
        if marker == 0xFF:
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        else:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    raise broken()
