"""Masks as Secondary Capture: the image with the algorithm's mask drawn over it.

A slice becomes a Secondary Capture Image (PS3.3 A.8.1) in PALETTE COLOR, one byte a pixel; a volume a
Multi-frame True Color Secondary Capture Image (A.8.5) with the same colours. Any viewer shows the result, and
:func:`read_mask` gives the mask back exactly. Called by the worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import cache

import cv2
import numpy as np
from pydicom.dataset import Dataset

from medical_image_processing.dicom import header, overlay
from medical_image_processing.dicom.derived import (
    SECONDARY_CAPTURE,
    Making,
    PixelData,
    content_digest,
    made_uid,
    pixel_bits,
    write_file,
)
from medical_image_processing.dicom.encode import Elements, code, encode, unsigned_shorts
from medical_image_processing.dicom.image import Image, Pixels, as_slices
from medical_image_processing.dicom.overlay import Window

__all__ = ["SECONDARY_CAPTURE", "made_uid", "read_mask", "write_secondary_capture"]

MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.4"


def write_secondary_capture(
    image: Image,
    mask: Pixels,
    *,
    job_id: str,
    algo_id: str,
    revision: int | str,
    series_description: str,
    window: Window | None = None,
    made_at: datetime | None = None,
    image_digest: str = "",
) -> bytes:
    """The DICOM file of a result.

    ``mask``: uint8 of the image's shape, set where it isn't zero. ``window``: the values shown black and
    white, in modality units; chosen from the modality if left out. ``made_at``: local time, now if left out.
    Raises ValueError if mask and image differ in shape, :class:`InputRejected` ``TOO_LARGE`` for a volume that
    no DICOM object can hold.
    """
    if mask.shape != image.pixels.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the image {image.pixels.shape}")
    window = window or overlay.window_of(image)
    making = Making(job_id, algo_id, revision, series_description, made_at or datetime.now(), image_digest)
    said = f"Mask drawn over the image. {making.said_of}"
    derivation = {0x00082111: encode(0x00082111, "ST", said), 0x00089215: _derivation()}
    length = mask.size * (3 if image.is_volume else 1)
    pixels = PixelData(_drawn(image, mask, window), length, "OB")
    if image.is_volume:
        sop_class, elements = MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE, _true_color_elements()
    else:
        sop_class, elements = SECONDARY_CAPTURE, _palette_elements()
    return write_file(image, making, sop_class, content_digest(mask), derivation, elements, pixels)


def read_mask(dataset: Dataset) -> Pixels:
    """The mask that :func:`write_secondary_capture` drew: uint8, 0 or 1, in the shape of the image.

    ``dataset``: the whole result as pydicom reads it.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    drawn = np.frombuffer(dataset.PixelData, np.uint8)
    if dataset.SOPClassUID == SECONDARY_CAPTURE:
        inside: Pixels = drawn[: rows * columns].reshape(rows, columns) >= overlay.FIRST_MASK_INDEX
        return inside.astype(np.uint8)
    frames = int(dataset.NumberOfFrames)
    colours = drawn[: frames * rows * columns * 3].reshape(frames, rows, columns, 3)
    # Every gray of the palette has equal red and blue; no colour of the mask has.
    coloured: Pixels = colours[..., 0] != colours[..., 2]
    return coloured.astype(np.uint8)


def _drawn(image: Image, mask: Pixels, window: Window) -> Iterator[Pixels]:
    """The encoded slices one by one, so that a volume's colours never lie in memory twice."""
    for pixels, inside in zip(as_slices(image.pixels), as_slices(mask), strict=True):
        index = overlay.index_image(pixels, inside, window)
        yield cv2.applyColorMap(index, overlay.palette_rgb()) if image.is_volume else index


@cache
def _derivation() -> bytes:
    return code(0x00089215, "113076", "Segmentation")


@cache
def _palette_elements() -> Elements:
    """The colour lookup tables, 256 entries of 16 bits (PS3.3 C.7.6.3.1.5 and .6)."""
    elements = {
        header.SAMPLES_PER_PIXEL: unsigned_shorts(header.SAMPLES_PER_PIXEL, 1),
        header.PHOTOMETRIC_INTERPRETATION: encode(header.PHOTOMETRIC_INTERPRETATION, "CS", "PALETTE COLOR"),
        **pixel_bits(8),
    }
    for colour in range(3):
        descriptor, table = 0x00281101 + colour, 0x00281201 + colour
        elements[descriptor] = unsigned_shorts(descriptor, 256, 0, 16)
        elements[table] = encode(table, "OW", overlay.palette()[:, colour].astype("<u2").tobytes())
    return elements


@cache
def _true_color_elements() -> Elements:
    return {
        header.SAMPLES_PER_PIXEL: unsigned_shorts(header.SAMPLES_PER_PIXEL, 3),
        header.PHOTOMETRIC_INTERPRETATION: encode(header.PHOTOMETRIC_INTERPRETATION, "CS", "RGB"),
        0x00280006: unsigned_shorts(0x00280006, 0),  # Planar Configuration: colour by pixel
        **pixel_bits(8),
    }
