"""How well the classical baselines find the liver: Dice against the reference segmentation of FIELD.md.

    python bench/bench_dice.py

One patient, portal venous phase: an indication, not a validation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medical_image_processing import samples
from medical_image_processing.dicom.read import read_series
from medical_image_processing.processing.base import Processor


def dice(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    first, second = one != 0, other != 0
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def main() -> None:
    cache = samples.default_cache()
    folder = samples.abdominal_ct(cache)
    image = read_series([path.read_bytes() for path in sorted(folder.iterdir())])
    liver = samples.abdominal_ct_reference(cache) == samples.LIVER_LABEL
    print("algorithm        3-D     2-D mean   min    max")
    for algo_id in ("processing_1", "processing_6"):
        processor = Processor.factory(algo_id)
        volume = dice(processor.run(image.pixels, image.meta())["mask"], liver)
        slices = [
            dice(processor.run(one, image.meta())["mask"], truth)
            for one, truth in zip(image.pixels, liver, strict=True)
        ]
        print(f"{algo_id:14} {volume:6.3f}   {np.mean(slices):6.3f}  {min(slices):6.3f} {max(slices):6.3f}")


if __name__ == "__main__":
    main()
