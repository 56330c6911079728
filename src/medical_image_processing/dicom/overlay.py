"""A mask drawn over its image in eight bits a pixel, so that every viewer shows it and nothing is lost.

Index 0..127 is the windowed gray of the image, 128..254 the same gray tinted where the mask is set, 255 the
mask's contour. The mask is therefore exactly the indices from 128 on.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medical_image_processing.dicom.image import Image

Pixels = npt.NDArray[Any]
Window = tuple[float, float]
"""The values shown black and white, in modality units; where low values are white, the first is the higher one."""

FIRST_MASK_INDEX = 128
_GRAYS = 128
_CONTOUR_INDEX = 255
_CT_SOFT_TISSUE: Window = (-160.0, 240.0)  # centre 40 HU, width 400
_TINT = (255.0, 140.0, 0.0)
_TINT_SHARE = 0.35
_CONTOUR = (255.0, 220.0, 60.0)
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_SAMPLES = 65536


@cache
def palette() -> npt.NDArray[np.uint16]:
    """(256, 3) red, green and blue for every index, 16 bits."""
    gray = np.arange(_GRAYS) * (255.0 / (_GRAYS - 1))
    plain = np.repeat(gray[:, np.newaxis], 3, axis=1)
    tinted = plain * (1 - _TINT_SHARE) + np.array(_TINT) * _TINT_SHARE
    tinted[-1] = _CONTOUR
    eight_bits = np.rint(np.concatenate([plain, tinted])).astype(np.uint16)
    # The high byte repeated: a viewer that keeps only one of the two gets the same colour.
    colours: npt.NDArray[np.uint16] = eight_bits * 257
    return colours


@cache
def palette_rgb() -> npt.NDArray[np.uint8]:
    """(256, 1, 3) red, green and blue for every index, 8 bits, as OpenCV's applyColorMap takes them."""
    return (palette() >> 8).astype(np.uint8).reshape(256, 1, 3)


def choose_window(pixels: Pixels, modality: str) -> Window:
    """Soft tissue for CT; for every other modality what lies between the 1st and the 99th percentile."""
    if modality == "CT":
        return _CT_SOFT_TISSUE
    flat = pixels.reshape(-1)
    low, high = np.nanpercentile(flat[:: max(1, flat.size // _SAMPLES)], (1, 99))
    if not np.isfinite([low, high]).all():
        return (0.0, 1.0)
    return (float(low), float(high) if high > low else float(low) + 1.0)


def window_of(image: Image) -> Window:
    """:func:`choose_window` for an image as its header wants it shown: turned round where low values are white."""
    low, high = choose_window(image.pixels, image.modality)
    return (high, low) if image.is_shown_inverted else (low, high)


def index_image(pixels: Pixels, mask: Pixels, window: Window) -> Pixels:
    """One slice and its mask (rows, columns) as uint8 indices into :func:`palette`."""
    black, white = window
    scale = (_GRAYS - 1) / (white - black)
    # By way of sixteen bits, for which OpenCV has vector code: the same values in a quarter of the time.
    wide = cv2.addWeighted(pixels, scale, pixels, 0.0, -black * scale, dtype=cv2.CV_16S)
    cv2.threshold(wide, _GRAYS - 1, 0, cv2.THRESH_TRUNC, wide)
    cv2.threshold(wide, 0, 0, cv2.THRESH_TOZERO, wide)
    gray: Pixels = wide.astype(np.uint8)
    _, inside = cv2.threshold(mask, 0, 255, cv2.THRESH_BINARY)
    if not cv2.hasNonZero(inside):
        return gray
    contour = cv2.bitwise_xor(inside, cv2.erode(inside, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=[0]))
    _, tinted = cv2.threshold(gray, _GRAYS - 2, 0, cv2.THRESH_TRUNC)
    np.bitwise_or(tinted, FIRST_MASK_INDEX, out=tinted)
    cv2.copyTo(tinted, inside, gray)
    return np.maximum(gray, contour, out=gray)
