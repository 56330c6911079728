"""What an algorithm is, and how a container's is found (CONTRACT.md, "A Python algorithm")."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medical_image_processing.errors import AlgorithmFailed, NotFound

ENTRY_POINT_GROUP = "medical_image_processing.processors"
IMAGE_DTYPES = ("uint8", "uint16", "int16", "float32")
_PACKAGE = "medical_image_processing.processing"


class Processor(ABC):
    """One algorithm. A subclass names itself and turns an image into a mask.

    It lives in a module of :mod:`medical_image_processing.processing`, best named after its ``ALGO_ID``, or
    in any installed package that names the class in the entry-point group
    ``medical_image_processing.processors``. One instance serves every job of its worker, one at a time:
    load models in ``__init__``.
    """

    ALGO_ID: ClassVar[str]
    KEEPS_TIME_LIMIT: ClassVar[bool] = False
    """Whether :meth:`run` ends by itself at the worker's time limit; else the worker has to end."""

    @abstractmethod
    def run(self, img: npt.NDArray[Any], meta: dict[str, Any] | None = None) -> dict[str, Any]:
        """Process one image.

        ``img``: (rows, columns) or (slices, rows, columns), int16 or float32, in modality units (HU for CT).
        ``meta``: ``parameters`` (the job's own), ``spacing`` (mm between slices, rows, columns), ``modality``
        ("CT"), ``units`` ("HU", or empty), ``orientation`` (six direction cosines of rows and columns, or None),
        ``origin`` and ``directions`` (where the first pixel lies and the steps between slices, rows and columns,
        mm in the patient's coordinates, or None), ``corners`` (where each slice's first pixel lies, or empty),
        ``gaps`` (after which slices some seem to be missing) and, in a worker, ``progress``: a function to call
        now and then with how much is done, 0.0 to 1.0. Any may be missing.

        Returns ``{"mask": uint8 array of img's shape, "labels": anything or None, "meta": {...}}``; ``meta``
        must be JSON and is kept with the result, so no patient data. For Segmentations ``labels`` may be a dict
        from the mask's values to names or a label map, and ``meta`` may have ``segments`` and
        ``algorithm_family`` (docs/objects.md). An algorithm whose result is an image
        returns ``"image"`` instead of ``"mask"``: uint8, int16, uint16 or float32, img's shape. Whatever it
        raises fails the job.
        """

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The array into which a series is decoded, C-contiguous; :meth:`run` gets it as ``img``.

        Overridden where the volume should lie elsewhere than in this process's memory. May be called twice
        for a job, if the first dtype turns out too narrow.
        """
        return np.empty(shape, dtype)

    def end_job(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Called after every job, however it ended: let go of what :meth:`allocate` and :meth:`run` made."""

    @staticmethod
    def factory(algo_id: str) -> Processor:
        """A new instance of the processor whose ``ALGO_ID`` is ``algo_id``.

        Raises :class:`NotFound` ``UNKNOWN_PROCESSOR``, which says what there is, and
        :class:`AlgorithmFailed` ``PROCESSOR_UNUSABLE`` if its module or its constructor fails.
        """
        found = _find_in_package(algo_id) or _find_by_entry_point(algo_id)
        if found is None:
            known = ", ".join(known_processors()) or "none"
            raise NotFound(
                "UNKNOWN_PROCESSOR",
                f"No installed processor has ALGO_ID '{algo_id}'; there are: {known}. "
                f"Install the package that has it, or correct its entry point in '{ENTRY_POINT_GROUP}'.",
            )
        try:
            return found()
        except Exception as error:
            raise _unusable(algo_id, error) from error


def check_result(result: object, img: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The mask of what :meth:`Processor.run` returned for ``img``: uint8, its shape; bool is converted.

    Raises :class:`AlgorithmFailed` ``INVALID_RESULT``.
    """
    mask = _checked(result, "mask", img)
    if mask.dtype not in (np.uint8, np.bool_):
        raise invalid_result(f"'mask' must be uint8 or bool, not {mask.dtype}")
    return np.ascontiguousarray(mask, dtype=np.uint8)


def has_image(result: object) -> bool:
    """Whether :meth:`Processor.run` returned an image instead of a mask."""
    return isinstance(result, Mapping) and "image" in result and "mask" not in result


def check_image(result: object, img: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The image of what :meth:`Processor.run` returned for ``img``: one of :data:`IMAGE_DTYPES`, its shape.

    Raises :class:`AlgorithmFailed` ``INVALID_RESULT``.
    """
    image = _checked(result, "image", img)
    if image.dtype.name not in IMAGE_DTYPES:
        raise invalid_result(f"'image' must be {', '.join(IMAGE_DTYPES)}, not {image.dtype}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise invalid_result("'image' must be finite; it has NaN or infinity in it")
    return image


def _checked(result: object, name: str, img: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not isinstance(result, Mapping) or name not in result:
        raise invalid_result(f"run() must return a dict with '{name}', not {type(result).__name__}")
    found = result[name]
    if not isinstance(found, np.ndarray):
        raise invalid_result(f"'{name}' must be a numpy array, not {type(found).__name__}")
    if found.shape != img.shape:
        raise invalid_result(f"'{name}' must have the image's shape {img.shape}, not {found.shape}")
    return found


def known_processors() -> list[str]:
    """The ``ALGO_ID`` of every processor in this package, and the names of the installed entry points."""
    for module in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__):
        importlib.import_module(f"{_PACKAGE}.{module.name}")
    own = {cls.ALGO_ID for cls in _subclasses(Processor)}
    return sorted(own | {point.name for point in _entry_points()})


def _find_in_package(algo_id: str) -> type[Processor] | None:
    """The class in the module named after the algorithm, so that no other one is imported; else in any."""
    module = f"{_PACKAGE}.{algo_id.replace('-', '_')}"
    if importlib.util.find_spec(module) is not None:
        _import(module, algo_id)
        if (found := _loaded(algo_id)) is not None:
            return found
    for other in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__):
        _import(f"{_PACKAGE}.{other.name}", algo_id)
    return _loaded(algo_id)


def _find_by_entry_point(algo_id: str) -> type[Processor] | None:
    """The class of the entry point with that name; else of any. Broken packages stop only who asks for them."""
    points = _entry_points()
    for point in points:
        if point.name == algo_id:
            try:
                point.load()
            except Exception as error:
                raise _unusable(algo_id, error) from error
    if (found := _loaded(algo_id)) is not None:
        return found
    for point in points:
        try:
            point.load()
        except Exception:  # noqa: S112 - another algorithm's fault, reported when that one is started
            continue
    return _loaded(algo_id)


def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _import(module: str, algo_id: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise _unusable(algo_id, error) from error


def _loaded(algo_id: str) -> type[Processor] | None:
    return next((cls for cls in _subclasses(Processor) if algo_id == cls.ALGO_ID), None)


def _subclasses(parent: type) -> Iterator[type[Processor]]:
    children: Sequence[type[Processor]] = parent.__subclasses__()
    for child in children:
        if getattr(child, "ALGO_ID", None):
            yield child
        yield from _subclasses(child)


def invalid_result(fault: str) -> AlgorithmFailed:
    """The error for an answer of an algorithm that can't be used, and why."""
    return AlgorithmFailed("INVALID_RESULT", f"The algorithm's answer can't be used: {fault}.")


def _unusable(algo_id: str, error: Exception) -> AlgorithmFailed:
    return AlgorithmFailed(
        "PROCESSOR_UNUSABLE",
        f"The processor '{algo_id}' can't be started: {type(error).__name__}; its log has the traceback.",
    )
