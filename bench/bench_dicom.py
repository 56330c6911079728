"""What reading an image and writing its result cost beside the algorithm itself.

python bench/bench_dicom.py
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pydicom

from medical_image_processing import samples
from medical_image_processing.dicom.image import Image
from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.dicom.secondary_capture import write_secondary_capture


def milliseconds(work: Callable[[], object], repeats: int) -> str:
    """Median with the 5th and 95th percentile of one call."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1000)
    low, middle, high = np.percentile(taken, (5, 50, 95))
    return f"{middle:7.2f} ms  (5 % {low:.2f}, 95 % {high:.2f})"


def uncompressed(data: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.decompress(generate_instance_uid=False)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def result(image: Image) -> bytes:
    mask = np.zeros(image.pixels.shape, np.uint8)
    mask[..., 100:300, 100:300] = 1
    return write_secondary_capture(
        image, mask, job_id="job", algo_id="processing_1", revision=1, series_description="bench"
    )


def main() -> None:
    folder = samples.abdominal_ct(samples.default_cache())
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    plain = [uncompressed(data) for data in files]
    image, volume = read_image(plain[0]), read_series(plain)
    print(f"read a slice, uncompressed        {milliseconds(lambda: read_image(plain[0]), 500)}")
    print(f"read a slice, JPEG 2000 lossless  {milliseconds(lambda: read_image(files[0]), 50)}")
    print(f"read 20 slices, uncompressed      {milliseconds(lambda: read_series(plain), 50)}")
    print(f"read 20 slices, JPEG 2000         {milliseconds(lambda: read_series(files), 10)}")
    print(f"write the result of a slice       {milliseconds(lambda: result(image), 500)}")
    print(f"write the result of 20 slices     {milliseconds(lambda: result(volume), 50)}")


if __name__ == "__main__":
    main()
