"""A CT of nobody: an abdomen drawn in Hounsfield units, as a series of CT images, for pictures of the web client.

Samples of the tests are somebody's images and are downloaded; pictures of those would be somebody's, too.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SLICES, SIZE = 24, 512
SPACING_MM, THICKNESS_MM = 0.72, 5.0
_AIR, _LUNG, _FAT, _MUSCLE, _LIVER = -1000, -850, -100, 44, 108
_EDGE_MM = 0.9
"""Half of the width of an edge, as a scanner blurs it."""

Field = npt.NDArray[np.float32]


class _Slice:
    """One slice that is painted shape by shape. Coordinates are the patient's: mm to the left, to the back, up."""

    def __init__(self, z: float) -> None:
        place = (np.arange(SIZE, dtype=np.float32) - SIZE / 2 + 0.5) * SPACING_MM
        x, y = np.meshgrid(place, place)
        # Nothing in a body is an ellipse.
        self._x = x + 3.0 * np.sin(y / 31 + z / 40) + 1.5 * np.sin(y / 13 + x / 29 + z / 25)
        self._y = y + 3.0 * np.sin(x / 37 - z / 45) + 1.5 * np.sin(x / 17 - y / 23 + z / 30)
        self._z = z
        self.hu = np.full((SIZE, SIZE), _AIR, np.float32)

    def shape(
        self,
        centre: tuple[float, float, float],
        axes: tuple[float, float, float],
        turn: float = 0.0,
        power: float = 2.0,
    ) -> Field:
        """How much of each pixel a superellipsoid covers, 0 to 1. ``turn`` is about the long axis, in degrees."""
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        x, y, z = self._x - centre[0], self._y - centre[1], abs(self._z - centre[2])
        u, v = np.abs(x * cos + y * sin) / axes[0], np.abs(y * cos - x * sin) / axes[1]
        radius = (u**power + v**power + (z / axes[2]) ** power) ** (1 / power)
        inside_mm = (1 - radius) * min(axes[:2])
        return np.clip(inside_mm / (2 * _EDGE_MM) + 0.5, 0, 1).astype(np.float32)

    def paint(self, value: float, covered: Field) -> None:
        """Fill what is covered with a value in HU."""
        self.hu += covered * (value - self.hu)


def _abdomen(z: float) -> Field:
    """The slice at a height in mm, from -60 at the kidneys to 60 at the dome of the liver."""
    long = 1000.0
    one = _Slice(z)
    wide = 1 + 0.03 * math.sin(z / 60)
    one.paint(_FAT, one.shape((0, 0, 0), (172 * wide, 122 * wide, long), power=2.3))
    wall = one.shape((0, -1, 0), (157 * wide, 104 * wide, long), power=2.3)
    one.paint(_MUSCLE, wall)
    cavity = one.shape((0, -6, 0), (146 * wide, 92 * wide, long), power=2.25)
    one.paint(_LUNG if z > 0 else _FAT, cavity)
    # Below the diaphragm, with the lungs' lower ends beside and behind it.
    dome = np.minimum(cavity, one.shape((0, -8, -60), (147 * wide, 93 * wide, 170), power=2.6))
    one.paint(_MUSCLE, np.minimum(cavity, one.shape((0, -8, -58), (149 * wide, 95 * wide, 172), power=2.6)))
    one.paint(_FAT, dome)
    _paint_bones_and_muscles(one, z)
    _paint_organs(one, z, dome)
    return one.hu


def _paint_bones_and_muscles(one: _Slice, z: float) -> None:
    long = 1000.0
    for side in (-1, 1):
        one.paint(_MUSCLE + 2, one.shape((side * 37, 74, 0), (30, 22, long), side * 12))
        one.paint(_MUSCLE, one.shape((side * 34, 52, -70), (17, 16, 75)))
        # Ribs fall towards the front, so that a slice meets each at another angle.
        for number in range(-3, 9):
            angle = math.radians(18 + 24 * number + z * 0.55)
            if -0.9 < math.sin(angle) < 0.97 and math.cos(angle) > 0.12:
                place = (side * 152 * math.cos(angle) ** 0.85, 98 * math.sin(angle) - 3, z)
                one.paint(330, one.shape(place, (9, 4.2, long), side * (62 - math.degrees(angle) * 0.75)))
                one.paint(220, one.shape(place, (6, 2.0, long), side * (62 - math.degrees(angle) * 0.75)))
    disc = abs((z + 15) % 35 - 17.5) > 14
    one.paint(470, one.shape((0, 49, 0), (24, 19, long), power=2.4))
    one.paint(40 if disc else 210, one.shape((0, 49, 0), (21.5, 16.5, long), power=2.4))
    one.paint(430, one.shape((0, 77, 0), (17, 12, long)))
    one.paint(430, one.shape((0, 92, 0), (4.5, 14, long)))
    for side in (-1, 1):
        one.paint(390, one.shape((side * 24, 76, 0), (17, 5, long), side * 18))
    one.paint(25, one.shape((0, 73, 0), (11, 8.5, long)))


def _paint_organs(one: _Slice, z: float, dome: Field) -> None:
    def put(
        value: float, centre: tuple[float, float, float], axes: tuple[float, float, float], turn: float = 0
    ) -> None:
        one.paint(value, np.minimum(dome, one.shape(centre, axes, turn)))

    right = one.shape((-80, -12, 8), (61, 68, 88), -12, 2.3)
    left = one.shape((-8, -47, 22), (66, 33, 50), 12)
    liver = np.minimum(dome, one.shape((0, -8, -60), (141, 82, 166), power=2.6))
    liver = np.minimum(liver, np.maximum(right, left))
    # What lies behind it keeps its fat.
    for centre, axes, turn in (
        ((-66, 46, -48), (35, 39, 58), -24.0),
        ((0, 50, 0), (52, 44, 1000), 0.0),
        ((-24, 19, 0), (19, 15, 1000), 12.0),
    ):
        liver = np.minimum(liver, 1 - one.shape(centre, axes, turn))
    one.paint(_LIVER, liver)
    for centre, axes, turn in (
        ((-62, -14, 26), (34, 4.0, 16), 24.0),
        ((-92, 12, 14), (26, 3.4, 20), -42.0),
        ((-46, -34, 24), (26, 3.2, 15), -18.0),
        ((-100, -22, 2), (22, 2.8, 14), 36.0),
        ((-78, 30, -14), (20, 3.0, 18), 8.0),
        ((-40, 6, -2), (24, 6.5, 9), -16.0),
    ):
        one.paint(138, np.minimum(liver, one.shape(centre, axes, turn)))
    put(12, (-56, -42, -26), (17, 24, 24), 24)
    put(118, (108, 18, 20), (25, 52, 52), 16)
    for side, height in ((-1, -48), (1, -34)):
        put(185, (side * 66, 44, height), (27, 31, 52), side * 24)
        put(150, (side * 64, 43, height), (18, 22, 42), side * 24)
        put(-70, (side * 57, 40, height), (11, 11, 26), side * 24)
    put(165, (9, 17, 0), (11.5, 11.5, 1000))
    put(165, (-24, 19, 0), (12.5, 9, 1000), 12)
    put(92, (38, -12, -22), (38, 10, 15), -14)
    # The stomach, with its air in front since the patient lies on the back.
    put(48, (64, -36, 16), (42, 38, 44), 26)
    put(26, (64, -36, 16), (38, 34, 40), 26)
    put(-950, (62, -55, 16), (27, 14, 32), 8)
    for centre, axes in (
        ((96, -8, -50), (22, 25, 26)),
        ((14, -66, -50), (58, 18, 26)),
        ((-96, 8, -66), (22, 28, 24)),
    ):
        put(46, centre, axes)
        put(-20, centre, (axes[0] - 3, axes[1] - 3, axes[2] - 2))
        put(-920, (centre[0], centre[1] - 5, centre[2]), (axes[0] - 6, axes[1] - 8, axes[2] - 3))


def phantom() -> npt.NDArray[np.int16]:
    """The volume in Hounsfield units, (slices, rows, columns), from the feet to the head."""
    random = np.random.default_rng(6)
    volume = []
    for z in (np.arange(SLICES) - SLICES / 2 + 0.5) * THICKNESS_MM:
        hu = _abdomen(float(z))
        grain = cv2.GaussianBlur(random.normal(0, 26, hu.shape).astype(np.float32), (0, 0), 1.1)
        volume.append(np.where(hu > -990, hu + grain, hu))
    return np.clip(np.rint(volume), -1024, 3071).astype(np.int16)


def write_series(folder: Path) -> None:
    """Write the phantom into ``folder`` as CT images (PS3.3, section A.3)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, hu in enumerate(phantom(), 1):
        _image(hu, number).save_as(folder / f"{number:03}.dcm", enforce_file_format=True)


def _uid(*what: object) -> str:
    """The same for the same, so that a picture made anew is of the same series."""
    return str(generate_uid(entropy_srcs=["medical-image-processing phantom", *map(str, what)]))


def _image(hu: npt.NDArray[np.int16], number: int) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = _uid("image", number)
    image: Dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = _uid("study"), _uid("series")
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = _uid("frame of reference"), ""
    image.PatientName, image.PatientID = "Phantom", "phantom"
    image.PatientBirthDate = image.PatientSex = image.ReferringPhysicianName = image.AccessionNumber = ""
    image.StudyID, image.StudyDate, image.StudyTime = "1", "20260101", "120000"
    image.StudyDescription, image.SeriesDescription = "A drawn abdomen", "Phantom, portal venous phase"
    image.Modality, image.Manufacturer, image.BodyPartExamined = "CT", "", "ABDOMEN"
    image.PatientPosition, image.SeriesNumber, image.AcquisitionNumber = "HFS", 1, 1
    image.ImageType, image.InstanceNumber, image.KVP = ["DERIVED", "PRIMARY", "AXIAL"], number, None
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = hu.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, 0, "HU"
    image.WindowCenter, image.WindowWidth = 50, 400
    corner = round(-(SIZE / 2 - 0.5) * SPACING_MM, 3)
    image.PixelSpacing, image.SliceThickness = [SPACING_MM, SPACING_MM], THICKNESS_MM
    image.ImagePositionPatient = [corner, corner, (number - 1) * THICKNESS_MM]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelData = hu.tobytes()
    return image
