"""Makes docs/result.png: processing_1 on a CT phantom drawn here, as `./mip demo` shows it on a real CT.

The real sample is somebody's image and is downloaded, not committed; this one is nobody's.
"""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medical_image_processing.dicom.picture import side_by_side_png
from medical_image_processing.dicom.read import read_image
from medical_image_processing.dicom.secondary_capture import write_secondary_capture
from medical_image_processing.processing.base import Processor, check_result


def phantom() -> np.ndarray:
    """An abdomen in Hounsfield units, (512, 512) int16: fat, muscle, liver, spleen, spine, gas."""
    hu = np.full((512, 512), -1000, np.int16)

    def ellipse(centre: tuple[int, int], axes: tuple[int, int], value: int, angle: int = 0) -> None:
        cv2.ellipse(hu, centre, axes, angle, 0, 360, value, -1)

    ellipse((256, 262), (214, 160), -95)
    ellipse((256, 262), (196, 142), 45)
    ellipse((256, 258), (180, 126), -90)
    ellipse((175, 230), (94, 84), 108, -12)
    ellipse((240, 196), (66, 38), 108, 8)
    ellipse((385, 250), (36, 62), 118, 14)
    ellipse((330, 205), (52, 34), 30)
    ellipse((330, 192), (26, 12), -900)
    ellipse((256, 352), (40, 34), 60)
    ellipse((256, 340), (28, 24), 420)
    ellipse((256, 308), (15, 15), 160)
    ellipse((178, 350), (26, 18), 165)
    ellipse((330, 346), (26, 18), 165)
    noise = np.random.default_rng(1).normal(0, 14, hu.shape)
    return cv2.GaussianBlur(hu.astype(np.float32) + noise.astype(np.float32), (0, 0), 1.1).astype(np.int16)


def as_dicom(hu: np.ndarray) -> bytes:
    """The phantom as a CT image."""

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image: Dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.PatientName, image.PatientID, image.Modality = "Phantom", "phantom", "CT"
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.PixelSpacing, image.SliceThickness = [0.8, 0.8], 2
    image.ImagePositionPatient, image.ImageOrientationPatient = [-205, -205, 0], [1, 0, 0, 0, 1, 0]
    image.PixelData = hu.tobytes()
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


def main() -> None:
    """Write the picture."""
    image = read_image(as_dicom(phantom()))
    mask = check_result(Processor.factory("processing_1").run(image.pixels, image.meta()), image.pixels)
    result = write_secondary_capture(
        image, mask, job_id="picture", algo_id="processing_1", revision="1", series_description="processing_1"
    )

    picture = side_by_side_png(image, pydicom.dcmread(BytesIO(result)))
    Path(__file__).with_name("result.png").write_bytes(picture)


if __name__ == "__main__":
    main()
