"""From encoded pixel data to arrays: stored values are made here, and what they mean in ``modality_units.py``.

Uncompressed monochrome, what scanners send, is viewed in place. JPEG 2000 of that kind goes through
OpenCV, whose decoder gives the same values as pylibjpeg's and lets other threads run meanwhile; lossless and
12-bit JPEG through imagecodecs. All the rest is pydicom's, with its plugins. What a header claims is compared
with the bytes that are there before any memory is taken for it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from medical_image_processing.dicom import header, jpeg, jpeg_2000
from medical_image_processing.dicom.image import Pixels
from medical_image_processing.dicom.modality_units import rescales, stay_short, to_modality_units
from medical_image_processing.errors import InputRejected

MAX_DECODED_BYTES = 2**31
"""No object may decode to more than this."""
_MAX_COMPRESSION = 1000
_ALWAYS_ALLOWED_BYTES = 64 * 2**20

_LITTLE_ENDIAN = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
_NATIVE = _LITTLE_ENDIAN | {ExplicitVRBigEndian}
_JPEG_2000 = frozenset({JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL})
_PIXEL_TAGS = (header.PIXEL_DATA, 0x7FE00008, 0x7FE00009)
_ENCODED_PIXEL_TAGS = frozenset(
    struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) for tag in _PIXEL_TAGS for order in "<>"
)
_MONOCHROME = frozenset({"MONOCHROME1", "MONOCHROME2"})
_FLOAT_BYTES = 4
_PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_RED_GREEN_BLUE = np.array([0.299, 0.587, 0.114], np.float32)

# OpenCV writes its decoder's complaints to standard error; ours are exceptions.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class Layout:
    """What the header says of the pixel data (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, rows, columns)."""
        return (self.frames, self.rows, self.columns)

    @property
    def decoded_bytes(self) -> int:
        """How much memory the stored values take."""
        pixels = self.frames * self.rows * self.columns * self.samples
        return (pixels * self.bits_allocated + 7) // 8

    @property
    def is_plain(self) -> bool:
        """Whether it is monochrome of whole bytes, which needs no conversion."""
        return self.samples == 1 and self.bits_allocated in (8, 16) and self.photometric in _MONOCHROME


def readable_syntaxes() -> tuple[str, ...]:
    """The transfer syntaxes that :func:`decode` reads here, with the decoders that are installed: their UIDs."""
    return tuple(uid for uid in AllTransferSyntaxes if _is_readable(uid))


def _is_readable(uid: UID) -> bool:
    if uid in _LITTLE_ENDIAN or uid in jpeg.SYNTAXES:
        return True
    try:
        return get_decoder(uid).is_available
    except NotImplementedError:  # pydicom has none for it, as for video
        return False


def read_layout(dataset: Dataset) -> Layout:
    """The layout of ``dataset``, or :class:`InputRejected` ``BAD_HEADER``."""
    frames = header.number(dataset, header.NUMBER_OF_FRAMES, 1)
    layout = Layout(
        rows=header.unsigned(dataset, header.ROWS),
        columns=header.unsigned(dataset, header.COLUMNS),
        frames=int(frames) or 1,
        samples=header.unsigned(dataset, header.SAMPLES_PER_PIXEL, 1),
        photometric=header.text(dataset, header.PHOTOMETRIC_INTERPRETATION),
        bits_allocated=(allocated := header.unsigned(dataset, header.BITS_ALLOCATED)),
        bits_stored=header.unsigned(dataset, header.BITS_STORED, allocated),
        is_signed=header.unsigned(dataset, header.PIXEL_REPRESENTATION, 0) == 1,
    )
    if layout.rows == 0 or layout.columns == 0:
        raise header.bad(header.ROWS if layout.rows == 0 else header.COLUMNS, "is zero")
    if frames < 0 or frames != int(frames):
        raise header.bad(header.NUMBER_OF_FRAMES, "is not a count")
    if layout.samples not in (1, 3):
        raise header.bad(header.SAMPLES_PER_PIXEL, "is neither 1 nor 3")
    if not 0 < layout.bits_stored <= layout.bits_allocated <= 64:
        raise header.bad(header.BITS_STORED, "does not fit BitsAllocated")
    return layout


def bytes_a_pixel(dataset: Dataset) -> int:
    """What a pixel takes at least, as far as the header tells: stored, or in modality units.

    Those take 4 bytes where the rescale isn't whole. Where it is, only the values can tell; they mostly take 2.
    """
    slopes, intercepts = rescales(dataset, 1)
    is_whole = slopes[0].is_integer() and intercepts[0].is_integer()
    samples = header.unsigned(dataset, header.SAMPLES_PER_PIXEL, 1)
    stored = samples * header.unsigned(dataset, header.BITS_ALLOCATED, 16) // 8
    return max(2 if is_whole else _FLOAT_BYTES, stored)


def too_large(needed: int, max_bytes: int) -> InputRejected:
    """The error for images that take more memory than a worker has for them."""
    return InputRejected(
        "TOO_LARGE",
        f"The images take {needed} bytes, and this worker may take {max_bytes}; "
        "send less at once, or give the algorithm more memory.",
    )


def decode(dataset: FileDataset, max_bytes: int | None = None) -> Pixels:
    """The pixels in modality units, (frames, rows, columns), int16 where exact, else float32.

    ``max_bytes``: what they may take. Raises :class:`InputRejected`: ``NO_PIXELS``, ``BAD_HEADER``, ``TOO_LARGE``,
    ``UNDECODABLE_PIXELS``.
    """
    encoded = _encoded(dataset)
    layout = read_layout(dataset)
    pixels = layout.frames * layout.rows * layout.columns
    if max_bytes is not None and (needed := pixels * bytes_a_pixel(dataset)) > max_bytes:
        raise too_large(needed, max_bytes)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise InputRejected(
            "BAD_HEADER", "The file lacks its transfer syntax; ask its source for a complete file."
        )
    if not isinstance(syntax, UID):
        raise InputRejected(
            "BAD_HEADER", "The file names more than one transfer syntax; ask its source for a correct file."
        )
    if not syntax.is_transfer_syntax:
        raise InputRejected("UNDECODABLE_PIXELS", _why_undecodable(syntax))
    _check_size(layout, len(encoded), syntax)
    stored = _view(encoded, layout) if syntax in _LITTLE_ENDIAN and layout.is_plain else None
    if stored is None and syntax in _JPEG_2000:
        stored = _decode_jpeg_2000(encoded, layout)
    if stored is None and syntax in jpeg.SYNTAXES:
        stored = _decode_jpeg(encoded, layout)
    if stored is None and syntax in jpeg.TRUSTING_SYNTAXES:
        _check_frames(encoded, layout)
    if stored is None:
        stored = _decode_any(dataset, layout, syntax)
    if max_bytes is not None and stored.size * _FLOAT_BYTES > max_bytes and not stay_short(stored, dataset):
        raise too_large(stored.size * _FLOAT_BYTES, max_bytes)
    return to_modality_units(stored, dataset)


def _encoded(dataset: Dataset) -> bytes:
    for tag in _PIXEL_TAGS:
        element = dataset.get_item(tag, keep_deferred=True)
        if element is not None and isinstance(element.value, bytes) and element.value:
            return element.value
    raise _no_pixels()


def check_pixels_begin(tag: bytes) -> None:
    """:class:`InputRejected` ``NO_PIXELS`` unless the encoded ``tag`` is that of pixel data."""
    if tag not in _ENCODED_PIXEL_TAGS:
        raise _no_pixels()


def _no_pixels() -> InputRejected:
    return InputRejected("NO_PIXELS", "The DICOM object holds no pixel data; send an image.")


def _check_size(layout: Layout, held_bytes: int, syntax: Any) -> None:
    claimed = layout.decoded_bytes
    if syntax.is_encapsulated:
        limit = min(MAX_DECODED_BYTES, max(_ALWAYS_ALLOWED_BYTES, _MAX_COMPRESSION * held_bytes))
    else:
        limit = MAX_DECODED_BYTES
    if claimed > limit:
        raise InputRejected(
            "TOO_LARGE",
            f"The header claims {claimed} bytes of pixels and the file holds {held_bytes}; the limit is {limit}.",
        )
    if layout.photometric == "YBR_FULL_422":
        claimed = claimed * 2 // 3
    if not syntax.is_encapsulated and held_bytes < claimed:
        raise InputRejected(
            "UNDECODABLE_PIXELS",
            f"The pixel data is cut short: {held_bytes} bytes of {claimed}; fetch the file again.",
        )


def _view(encoded: bytes | memoryview, layout: Layout) -> Pixels:
    """Little endian monochrome where it lies. Only bits beyond BitsStored make a copy necessary."""
    kind = f"<{'i' if layout.is_signed else 'u'}{layout.bits_allocated // 8}"
    count = layout.frames * layout.rows * layout.columns
    stored: Pixels = np.frombuffer(encoded, kind, count).reshape(layout.shape)
    return without_unused_bits(stored, layout)


def without_unused_bits(stored: Pixels, layout: Layout) -> Pixels:
    """``stored`` with its bits above BitsStored made sign or zero, as PS3.5 8.1.1 leaves them undefined."""
    unused = stored.dtype.itemsize * 8 - layout.bits_stored
    if unused == 0:
        return stored
    low, high = (
        (-(1 << layout.bits_stored - 1), 1 << layout.bits_stored - 1)
        if layout.is_signed
        else (
            0,
            1 << layout.bits_stored,
        )
    )
    if int(stored.max()) < high and int(stored.min()) >= low:
        return stored
    cleaned: Pixels = np.right_shift(np.left_shift(stored, unused), unused)
    return cleaned


def _decode_jpeg_2000(encoded: bytes, layout: Layout) -> Pixels | None:
    """Unsigned monochrome frames by OpenCV, or None where it can't or where it might differ from pydicom.

    Raises :class:`InputRejected` where a codestream contradicts the header: decoders would believe it, and
    take memory or, in pydicom's case, time without end.
    """
    try:
        frames = list(generate_frames(encoded, number_of_frames=layout.frames))
    except Exception as error:
        raise jpeg_2000.broken() from error
    shape = (layout.rows, layout.columns, layout.samples)
    components = [jpeg_2000.read_component(frame, shape) for frame in frames]
    if len(frames) != layout.frames:
        raise jpeg_2000.broken()
    if not layout.is_plain or layout.is_signed or set(components) != {(layout.bits_stored, False)}:
        return None
    decoded: list[Pixels] = []
    for frame in frames:
        image = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None or image.shape != (layout.rows, layout.columns):
            return None
        decoded.append(image)
    return np.stack(decoded) if len(decoded) > 1 else decoded[0][np.newaxis]


def _decode_jpeg(encoded: bytes, layout: Layout) -> Pixels | None:
    """Monochrome or red, green and blue frames that pydicom has no decoder for; else None."""
    if not (layout.is_plain or (layout.samples == 3 and layout.photometric == "RGB")):
        return None
    try:
        frames = list(generate_frames(encoded, number_of_frames=layout.frames))
    except Exception as error:
        raise jpeg.broken() from error
    if len(frames) != layout.frames:
        raise jpeg.broken()
    shape = (layout.rows, layout.columns, layout.samples)
    decoded = np.stack([jpeg.decode_frame(frame, shape, layout.bits_allocated) for frame in frames])
    if layout.samples == 3:
        return _luminance(decoded)
    kind = np.dtype(f"{'i' if layout.is_signed else 'u'}{layout.bits_allocated // 8}")
    return without_unused_bits(decoded.view(kind), layout)


def _check_frames(encoded: bytes, layout: Layout) -> None:
    try:
        for frame in generate_frames(encoded, number_of_frames=layout.frames):
            jpeg.check_frame(frame, (layout.rows, layout.columns, layout.samples))
    except InputRejected:
        raise
    except Exception as error:
        raise jpeg.broken() from error


def _decode_any(dataset: FileDataset, layout: Layout, syntax: Any) -> Pixels:
    """Whatever pydicom and its plugins can decode; colour becomes luminance."""
    try:
        values, info = get_decoder(syntax).as_array(dataset, raw=False)
        photometric = info["photometric_interpretation"]
        if photometric == "PALETTE COLOR":
            values = apply_color_lut(values, dataset)
            photometric = "RGB"
        if layout.samples == 3 or photometric == "RGB":
            values = values[..., 0] if str(photometric).startswith("YBR") else _luminance(values)
        return values.reshape(layout.shape).astype(values.dtype.newbyteorder("="), copy=False)
    except BaseException as error:
        # Decoders raise anything on broken data; a panic of the Rust ones isn't even an Exception.
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise InputRejected("UNDECODABLE_PIXELS", _why_undecodable(syntax)) from error


def _luminance(colours: Pixels) -> Pixels:
    """ITU-R BT.601 luma of (…, red, green, blue); whole numbers where the colours had at most 16 bits."""
    whole = np.uint16 if colours.dtype.kind == "u" else np.int32
    luminance = np.empty(colours.shape[:-1], whole if colours.dtype.itemsize <= 2 else np.float32)
    for place in np.ndindex(colours.shape[:-3]):  # frame by frame: on the way each takes four times as much
        luminance[place] = np.rint(colours[place][..., :3] @ _RED_GREEN_BLUE)
    return luminance


def decoders_of(syntax: UID) -> tuple[str, ...]:
    """What decodes pixels in ``syntax``, in the order in which it is tried; nothing where they can't be read."""
    if syntax in _NATIVE:
        return ("pydicom",)
    own = ("imagecodecs",) if syntax in jpeg.SYNTAXES else ("OpenCV",) if syntax in _JPEG_2000 else ()
    return (*own, *_plugins(syntax))


def _plugins(syntax: UID) -> tuple[str, ...]:
    try:
        return tuple(get_decoder(syntax).available_plugins)
    except NotImplementedError:
        return ()


def _why_undecodable(syntax: Any) -> str:
    known = syntax.name != syntax
    name = f"'{syntax.name}'" if known else "an unknown transfer syntax"
    if known and (syntax in _NATIVE or _plugins(syntax)):
        return f"The pixel data, {name}, can't be decoded; it or its header is broken. Fetch the file again."
    return f"There is no decoder for {name}; send uncompressed, JPEG, JPEG-LS, JPEG 2000 or RLE."


def decode_in_place(data: bytes, start: int, dataset: Dataset) -> Pixels | None:
    """:func:`decode` for plain pixels, whose element begins at ``start`` of the file, without a copy of them.

    None where they are something else, and for :func:`decode`.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        return None
    layout = read_layout(dataset)
    if not layout.is_plain or data[start : start + 4] != _PIXEL_DATA_TAG:
        return None
    has_long_header = syntax == ExplicitVRLittleEndian
    value = start + (12 if has_long_header else 8)
    length = int.from_bytes(data[value - 4 : value], "little")
    if length == _UNDEFINED_LENGTH or not length:
        return None
    encoded = memoryview(data)[value : value + length]
    _check_size(layout, len(encoded), syntax)
    return to_modality_units(_view(encoded, layout), dataset)
