"""A PNG for people: the original beside the result."""

from __future__ import annotations

import cv2
import numpy as np
from pydicom.dataset import Dataset

from medical_image_processing.dicom import header, overlay
from medical_image_processing.dicom.image import Image, as_slices
from medical_image_processing.dicom.overlay import Pixels
from medical_image_processing.dicom.secondary_capture import SECONDARY_CAPTURE, read_mask
from medical_image_processing.errors import InputRejected

THUMBNAIL_SIDE = 256
_PANEL = 512
_STRIP_SLICES = 6
_GAP = 8
_CAPTION = 34
_BACKGROUND = 18
_TEXT = (225, 225, 225)


def side_by_side_png(original: Image, result: Dataset) -> bytes:
    """The original on the left, the result of ``write_secondary_capture`` on the right, as a PNG file.

    Of a volume the slice with the largest mask, and below it a strip of slices from its first to its last.
    """
    masks, drawn = as_slices(read_mask(result)), _colours(result)
    areas = masks.reshape(len(masks), -1).sum(axis=1)
    shown = int(areas.argmax())
    pixels = original.slice_at(shown)
    window = overlay.window_of(original)
    plain = _paint(overlay.index_image(pixels, np.zeros(pixels.shape, np.uint8), window))
    height, width = _panel_size(original)
    place = f"slice {shown + 1} of {len(masks)}" if len(masks) > 1 else "one slice"
    millilitres = float(areas.sum() * np.prod(original.spacing) / 1000)
    area = f"{areas[shown] * original.spacing[1] * original.spacing[2] / 100:.0f} cm2"
    size = f"{millilitres:.0f} ml in all" if len(masks) > 1 else area
    rows = [
        _side_by_side(
            _captioned(_fit(plain, height, width), f"Original, {place}"),
            _captioned(_fit(drawn[shown], height, width), f"Result, {size}"),
        )
    ]
    if len(masks) > 1:
        rows.append(_strip(drawn, height, width))
    picture = cv2.copyMakeBorder(
        np.vstack(rows), _GAP, _GAP, _GAP, _GAP, cv2.BORDER_CONSTANT, value=[_BACKGROUND] * 3
    )
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def slice_png(original: Image) -> bytes:
    """One image, of several frames the middle one, in its true proportions, as a PNG file."""
    pixels = original.slice_at(len(as_slices(original.pixels)) // 2)
    window = overlay.window_of(original)
    plain = _paint(overlay.index_image(pixels, np.zeros(pixels.shape, np.uint8), window))
    height, width = _panel_size(original)
    _, encoded = cv2.imencode(".png", cv2.cvtColor(_fit(plain, height, width), cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def thumbnail_png(original: Image, *, side: int = THUMBNAIL_SIDE) -> bytes:
    """One image, of several frames the middle one, as a small PNG file of gray in its true proportions.

    ``side``: pixels of its longer side. The window is the header's (PS3.3, section C.11.2), else the modality's.
    """
    pixels = np.nan_to_num(original.slice_at(len(as_slices(original.pixels)) // 2).astype(np.float32))
    low, high = _stated_window(original) or overlay.choose_window(pixels, original.modality)
    small = _fit(pixels, *_panel_size(original, side))
    gray = np.clip((small - low) * (255.0 / (high - low)), 0, 255).astype(np.uint8)
    if header.text(original.sources[0], header.PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1":
        gray = 255 - gray  # its lowest value is white (PS3.3, section C.7.6.3.1.2)
    _, encoded = cv2.imencode(".png", gray)
    return encoded.tobytes()


def _stated_window(image: Image) -> overlay.Window | None:
    """The first window of the header; None without one that can be meant, or where values are others'."""
    source = image.sources[0]
    if header.REAL_WORLD_VALUE_MAPPING_SEQUENCE in source:
        return None
    try:
        centers = header.numbers(source, header.WINDOW_CENTER)
        widths = header.numbers(source, header.WINDOW_WIDTH)
    except InputRejected:
        return None
    if not centers or not widths or not 1 <= widths[0] < 1e7 or not abs(centers[0]) < 1e7:
        return None
    return centers[0] - widths[0] / 2, centers[0] + widths[0] / 2


def _colours(result: Dataset) -> Pixels:
    """(slices, rows, columns, 3) as a viewer shows them."""
    stored = np.frombuffer(result.PixelData, np.uint8)
    if result.SOPClassUID == SECONDARY_CAPTURE:
        return _paint(stored[: result.Rows * result.Columns].reshape(result.Rows, result.Columns))[np.newaxis]
    shape = (int(result.NumberOfFrames), result.Rows, result.Columns, 3)
    return stored[: int(np.prod(shape))].reshape(shape)


def _paint(index: Pixels) -> Pixels:
    painted: Pixels = cv2.applyColorMap(index, overlay.palette_rgb())
    return painted


def _panel_size(image: Image, side: int = _PANEL) -> tuple[int, int]:
    """Rows and columns of a panel: the image's true proportions, its longer side ``side``."""
    rows, columns = image.pixels.shape[-2:]
    height, width = rows * image.spacing[1], columns * image.spacing[2]
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _fit(picture: Pixels, height: int, width: int) -> Pixels:
    method = cv2.INTER_CUBIC if height > picture.shape[0] else cv2.INTER_AREA
    fitted: Pixels = cv2.resize(picture, (width, height), interpolation=method)
    return fitted


def _captioned(picture: Pixels, text: str) -> Pixels:
    captioned = cv2.copyMakeBorder(picture, 0, _CAPTION, 0, 0, cv2.BORDER_CONSTANT, value=[_BACKGROUND] * 3)
    place = (4, captioned.shape[0] - 12)
    cv2.putText(captioned, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _TEXT, 1, cv2.LINE_AA)
    return captioned


def _side_by_side(left: Pixels, right: Pixels) -> Pixels:
    gap = np.full((left.shape[0], _GAP, 3), _BACKGROUND, np.uint8)
    return np.hstack([left, gap, right])


def _strip(drawn: Pixels, height: int, width: int) -> Pixels:
    """Evenly spaced slices as wide together as two panels and their gap."""
    chosen = np.unique(np.linspace(0, len(drawn) - 1, min(len(drawn), _STRIP_SLICES)).round().astype(int))
    whole = 2 * width + _GAP
    edges = np.linspace(0, whole, len(chosen) + 1).round().astype(int)
    low = max(1, round(height * (whole / len(chosen)) / width))
    return np.hstack(
        [
            _fit(drawn[index], low, int(end - start))
            for index, start, end in zip(chosen, edges[:-1], edges[1:], strict=True)
        ]
    )
