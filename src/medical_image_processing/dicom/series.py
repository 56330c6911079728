"""Which files of a series make its volume, whether they fit together, and in which order: all from their headers,
before a pixel is decoded or memory is taken.

Localizers among other images, and files that came twice, are left out. Files of several patients, studies, series,
modalities, frames of reference, orientations, sizes or spacings, several images at one place (phases, echoes), and
images that don't lie one behind the other are no volume and are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset

from medical_image_processing.dicom import header
from medical_image_processing.dicom.geometry import (
    Plane,
    are_in_line,
    heights,
    in_plane_spacings,
    share_orientation,
    share_spacing,
    shares_place,
)
from medical_image_processing.dicom.pixels import bytes_a_pixel, too_large
from medical_image_processing.dicom.volume import inconsistent

_TOLD_APART_BY = (header.INSTANCE_NUMBER, header.IMAGE_POSITION, header.IMAGE_ORIENTATION, header.ROWS)
_COMMON = {
    header.SERIES_INSTANCE_UID: "series",
    header.MODALITY: "modalities",
    header.FRAME_OF_REFERENCE_UID: "frames of reference",
}


def arrange(headers: Sequence[Dataset]) -> list[int]:
    """The indices of the files that make the volume, in the order of its slices.

    Along the normal, ascending; by Instance Number where a position is missing. :class:`InputRejected`
    ``INCONSISTENT_SERIES``.
    """
    _check_one_patient(headers)
    kept = _without_repeats(headers, _without_localizers(headers))
    if len(kept) == 1:
        return kept
    chosen = [headers[index] for index in kept]
    _check_alike(chosen)
    planes = [Plane.of(source) for source in chosen]
    if not share_orientation(planes):
        raise inconsistent("its images lie in different orientations")
    places = heights(planes)
    if shares_place(places):
        different = len({round(place, 2) for place in places})
        raise inconsistent(
            f"{len(places)} images lie at only {different} places, as those of several phases or echoes do"
        )
    spacings = in_plane_spacings((source, 0) for source in chosen)
    if not share_spacing(spacings):
        raise inconsistent("its images differ in how far apart their pixels are")
    if not are_in_line(planes, spacings[0]):
        raise inconsistent("its images don't lie one behind the other")
    order = places or [header.number(source, header.INSTANCE_NUMBER, 0.0) for source in chosen]
    return [kept[index] for index in sorted(range(len(kept)), key=order.__getitem__)]


class Room:
    """Tells from the headers, as they come, that a series takes more than ``max_bytes`` (None: any number)."""

    def __init__(self, max_bytes: int | None, files: int) -> None:
        self._max_bytes = max_bytes
        self._files = files
        self._taken = 0
        self._seen: set[str] = set()

    def count(self, source: Dataset) -> None:
        """One more header. :class:`InputRejected` ``TOO_LARGE`` as soon as that is sure."""
        if self._max_bytes is None or _is_localizer(source):
            return
        if uid := header.sop_instance_uid(source):
            if uid in self._seen:
                return
            self._seen.add(uid)
        needed = _size(source) * bytes_a_pixel(source)
        self._taken += needed
        # That the rest are like this one isn't sure. But over half would have to be localizers, or to come twice.
        expected = needed * self._files if needed * self._files > 2 * self._max_bytes else self._taken
        if expected > self._max_bytes:
            raise too_large(expected, self._max_bytes)


def check_size(sources: Sequence[Dataset], max_bytes: int | None) -> None:
    """:class:`InputRejected` ``TOO_LARGE`` for a volume that takes more than ``max_bytes``."""
    if max_bytes is None:
        return
    needed = len(sources) * _size(sources[0]) * max(map(bytes_a_pixel, sources))
    if needed > max_bytes:
        raise too_large(needed, max_bytes)


def _size(source: Dataset) -> int:
    return header.unsigned(source, header.ROWS) * header.unsigned(source, header.COLUMNS)


def _check_one_patient(headers: Sequence[Dataset]) -> None:
    """By ID and study, which must be the same; by issuer and birth date, where they are stated.

    By name only if there is no ID: a name may be written in several ways.
    """
    stated = [_stated(headers, tag) for tag in (header.ISSUER_OF_PATIENT_ID, header.PATIENT_BIRTH_DATE)]
    for tag in (header.STUDY_INSTANCE_UID, header.PATIENT_ID):
        stated.append({header.raw(source, tag) for source in headers})
    if not header.raw(headers[0], header.PATIENT_ID):
        stated.append({name.rstrip(b"^= ") for name in _stated(headers, header.PATIENT_NAME)})
    if any(len(values) > 1 for values in stated):
        raise inconsistent("its files belong to different patients or studies")


def _stated(sources: Iterable[Dataset], tag: int) -> set[bytes]:
    return {value for source in sources if (value := header.raw(source, tag))}


def _without_localizers(headers: Sequence[Dataset]) -> list[int]:
    """All but what says in its Image Type that it is one (PS3.3 C.8.2.1.1.1), unless nothing else is there."""
    images = [index for index, source in enumerate(headers) if not _is_localizer(source)]
    return images or list(range(len(headers)))


def _is_localizer(source: Dataset) -> bool:
    return b"LOCALIZER" in header.raw(source, header.IMAGE_TYPE).upper().split(b"\\")


def _without_repeats(headers: Sequence[Dataset], indices: list[int]) -> list[int]:
    """The first of each instance. Anonymizers that give all the same UID leave number and position."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for index in indices:
        source = headers[index]
        uid = header.sop_instance_uid(source)
        name = (uid, *(header.raw(source, tag) for tag in _TOLD_APART_BY))
        if not uid or name not in seen:
            kept.append(index)
        seen.add(name)
    return kept


def _check_alike(chosen: Sequence[Dataset]) -> None:
    """What slices of one volume have in common; what isn't stated can't differ."""
    sizes = {tuple(header.unsigned(source, tag) for tag in (header.ROWS, header.COLUMNS)) for source in chosen}
    if len(sizes) > 1:
        raise inconsistent("its images differ in rows or columns")
    if any(header.number(source, header.NUMBER_OF_FRAMES, 1) > 1 for source in chosen):
        raise inconsistent("some of its objects have several frames; process them one by one")
    for tag, what in _COMMON.items():
        if len(_stated(chosen, tag)) > 1:
            raise inconsistent(f"its files are of several {what}")
    if len({header.is_monochrome1(source) for source in chosen}) > 1:
        raise inconsistent("in some of its images low values are white, in others black")
