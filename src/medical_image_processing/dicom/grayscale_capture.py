"""Images as Secondary Capture in grayscale, for algorithms whose result is an image and no mask.

A slice becomes a Secondary Capture Image (PS3.3 A.8.1), a volume a Multi-frame Grayscale Byte (A.8.3) or Word
(A.8.4) Secondary Capture Image, MONOCHROME2. Bytes and unsigned words are stored as they are; signed words
are raised by 32768 and fractions spread over 16 bits, which the rescale takes back (C.8.6.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from medical_image_processing.dicom import header, overlay
from medical_image_processing.dicom.derived import (
    SECONDARY_CAPTURE,
    Making,
    PixelData,
    content_digest,
    pixel_bits,
    write_file,
)
from medical_image_processing.dicom.encode import Elements, encode, unsigned_shorts
from medical_image_processing.dicom.image import Image, Pixels, as_slices

MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.2"
MULTI_FRAME_GRAYSCALE_WORD_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.3"

_GREATEST = 65535


def write_grayscale_capture(
    image: Image,
    values: Pixels,
    *,
    job_id: str,
    algo_id: str,
    revision: int | str,
    series_description: str,
    made_at: datetime | None = None,
    image_digest: str = "",
) -> bytes:
    """The DICOM file of a result that is an image on ``image``'s grid.

    ``values``: uint8, uint16, int16 or float32, finite, of the image's shape; of float32 16 bits are kept.
    ``made_at``: local time, now if left out. Raises ValueError if shapes differ or ``values`` are of another
    type, :class:`InputRejected` ``TOO_LARGE`` for a volume that no DICOM object can hold.
    """
    if values.shape != image.pixels.shape:
        raise ValueError(f"the result has shape {values.shape}, the image {image.pixels.shape}")
    scale = _Scale.of(values)
    making = Making(job_id, algo_id, revision, series_description, made_at or datetime.now(), image_digest)
    said = f"Image made by algorithm. {making.said_of}"
    pixels = PixelData(_stored(values, scale), values.size * scale.bits // 8, "OB" if scale.bits == 8 else "OW")
    # Shown as the source is, but for multi-frame captures, which are MONOCHROME2 alone (PS3.3 A.8.3, A.8.4).
    photometric = "MONOCHROME1" if image.is_shown_inverted and not image.is_volume else "MONOCHROME2"
    elements = {**_monochrome(scale, photometric), **_window(values, scale)}
    if image.is_volume:
        elements[0x20500020] = encode(0x20500020, "CS", "IDENTITY")  # Presentation LUT Shape
    derivation = {0x00082111: encode(0x00082111, "ST", said)}
    return write_file(
        image, making, _sop_class(image, scale), content_digest(values), derivation, elements, pixels
    )


@dataclass(frozen=True)
class _Scale:
    """``value = stored * slope + intercept``; the two as the DICOM file states them."""

    bits: int
    slope: str = "1"
    intercept: str = "0"

    @classmethod
    def of(cls, values: Pixels) -> _Scale:
        match values.dtype.name:
            case "uint8":
                return cls(8)
            case "uint16":
                return cls(16)
            case "int16":
                return cls(16, intercept="-32768")
            case "float32":
                low, high = float(values.min()), float(values.max())
                return cls(16, f"{(high - low) / _GREATEST or 1:.9g}", f"{low:.9g}")
        raise ValueError(f"an image of {values.dtype} can't be written")


def _sop_class(image: Image, scale: _Scale) -> str:
    if not image.is_volume:
        return SECONDARY_CAPTURE
    if scale.bits == 8:
        return MULTI_FRAME_GRAYSCALE_BYTE_SECONDARY_CAPTURE
    return MULTI_FRAME_GRAYSCALE_WORD_SECONDARY_CAPTURE


def _stored(values: Pixels, scale: _Scale) -> Iterator[Pixels]:
    for slice_ in as_slices(values):
        contiguous = np.ascontiguousarray(slice_)
        if contiguous.dtype == np.int16:
            yield contiguous.view(np.uint16) ^ np.uint16(0x8000)
        elif contiguous.dtype == np.float32:
            steps = (contiguous - np.float64(scale.intercept)) / np.float64(scale.slope)
            yield np.clip(np.rint(steps), 0, _GREATEST).astype(np.uint16)
        else:
            yield contiguous


def _monochrome(scale: _Scale, photometric: str) -> Elements:
    """Image Pixel (PS3.3 C.7.6.3) and the rescale (C.8.6.3, C.11.1), whose unit nobody has told us."""
    return {
        header.SAMPLES_PER_PIXEL: unsigned_shorts(header.SAMPLES_PER_PIXEL, 1),
        header.PHOTOMETRIC_INTERPRETATION: encode(header.PHOTOMETRIC_INTERPRETATION, "CS", photometric),
        header.RESCALE_INTERCEPT: encode(header.RESCALE_INTERCEPT, "DS", scale.intercept),
        header.RESCALE_SLOPE: encode(header.RESCALE_SLOPE, "DS", scale.slope),
        0x00281054: encode(0x00281054, "LO", "US"),  # Rescale Type: unspecified
        **pixel_bits(scale.bits),
    }


def _window(values: Pixels, scale: _Scale) -> Elements:
    """What to show at first (PS3.3 C.11.2.1.3.2, exact so that it may be narrow). Bytes are shown as they are."""
    if scale.bits == 8:
        return {}
    low, high = overlay.choose_window(values, "")
    if high == low:
        return {}  # so large that the next number shown is the same
    return {
        0x00281050: encode(0x00281050, "DS", f"{(low + high) / 2:.9g}"),
        0x00281051: encode(0x00281051, "DS", f"{high - low:.9g}"),
        0x00281056: encode(0x00281056, "CS", "LINEAR_EXACT"),
    }
