"""Everything above a threshold: the smallest useful algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medical_image_processing.processing.base import Processor


class Threshold(Processor):
    """Marks what is brighter than ``parameters["above"]`` (modality units; 200 if left out: bone on CT)."""

    ALGO_ID = "threshold"

    def run(self, img: npt.NDArray[Any], meta: dict[str, Any] | None = None) -> dict[str, Any]:
        parameters = (meta or {}).get("parameters") or {}
        mask = (img > float(parameters.get("above", 200))).astype(np.uint8)
        return {"mask": mask, "labels": {"1": "above"}, "meta": {"marked_pixels": int(mask.sum())}}
