"""Liver on CT by a smoothed threshold: a classical baseline, not a diagnostic tool."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from medical_image_processing.processing.base import Processor
from medical_image_processing.processing.liver import Mask, Pixels, close_fill_open, segment

SOFT_TISSUE_HU = (-160, 240)
SIGMA_PIXELS = 1.0
LIVER_HU = (50, 150)
CLOSING_PIXELS = 1
OPENING_PIXELS = 7

_KERNEL = (9, 9)  # out to four standard deviations


class Processing1(Processor):
    """Soft-tissue window, Gaussian, threshold, closing, hole filling, opening, components, the liver's."""

    ALGO_ID = "processing_1"

    def run(self, img: Pixels, meta: dict[str, Any] | None = None) -> dict[str, Any]:
        """The liver in ``img`` (HU); ``meta`` of the result has ``volume_ml``. No parameters."""
        return segment(_candidates, img, meta)


def _candidates(pixels: Pixels) -> Mask:
    windowed = np.clip(pixels, *SOFT_TISSUE_HU).astype(np.float32)
    smooth = cv2.GaussianBlur(windowed, _KERNEL, SIGMA_PIXELS)
    return close_fill_open(cv2.inRange(smooth, *LIVER_HU), CLOSING_PIXELS, OPENING_PIXELS)
