"""Liver on CT by a median and a higher threshold: a classical baseline, not a diagnostic tool."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from medical_image_processing.processing.base import Processor
from medical_image_processing.processing.liver import Mask, Pixels, close_fill_open, segment

MEDIAN_PIXELS = 5
LIVER_HU = (60, 200)
CLOSING_PIXELS = 1
OPENING_PIXELS = 7


class Processing6(Processor):
    """Median filter, higher threshold, closing, hole filling, opening, components, the liver's."""

    ALGO_ID = "processing_6"

    def run(self, img: Pixels, meta: dict[str, Any] | None = None) -> dict[str, Any]:
        """The liver in ``img`` (HU); ``meta`` of the result has ``volume_ml``. No parameters."""
        return segment(_candidates, img, meta)


def _candidates(pixels: Pixels) -> Mask:
    # A median of 16-bit integers is OpenCV's fast one; fractions of a HU don't matter to it.
    whole = np.nan_to_num(np.clip(pixels, -32768, 32767)).astype(np.int16, copy=False)
    return close_fill_open(
        cv2.inRange(cv2.medianBlur(whole, MEDIAN_PIXELS), *LIVER_HU), CLOSING_PIXELS, OPENING_PIXELS
    )
