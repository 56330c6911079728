"""What the two classical liver baselines share: morphology on slices, and the choice of the liver.

Each slice is treated by itself, in one thread of OpenCV; a volume's slices run on all cores. What is left is
joined between slices, and the liver is taken to be the largest component whose centre lies in the patient's
right half. Nothing here learns from data: expect failures on thin patients, fatty or diseased livers, other
contrast phases and anything that touches the liver at the same density.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[Any]
"""uint8, set where it isn't zero."""

# What the mask is in the codes of DICOM (PS3.16: CID 7150, CID 7166, CID 7162).
_CODES = {
    "segments": [
        {
            "label": "liver",
            "category": ["123037004", "SCT", "Anatomical Structure"],
            "type": ["10200004", "SCT", "Liver"],
        }
    ],
    "algorithm_family": ["123104", "DCM", "Morphological Operations"],
}

# Workers and slices are what runs side by side; OpenCV's own threads on top only cost CPU.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Components:
    """The 8-connected components of one slice: 16-bit labels, and areas and centre columns from label 1 on."""

    labels: Pixels
    areas: Pixels
    columns: Pixels


def segment(candidates: Callable[[Pixels], Mask], img: Pixels, meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """The liver among ``candidates(slice)`` as a Processor returns it; ``img`` in HU, a slice or a volume."""
    meta = meta or {}
    slices = img if img.ndim == 3 else img[np.newaxis]
    report = meta.get("progress")
    components = []
    for done, found in enumerate(_side_by_side(lambda pixels: find_components(candidates(pixels)), slices), 1):
        components.append(found)
        if report is not None:
            report(0.9 * done / len(slices))
    mask = _draw(components, choose_liver(components, _right_half(slices.shape[2], meta.get("orientation"))))
    spacing = meta.get("spacing") or (1.0, 1.0, 1.0)
    millilitres = float(np.count_nonzero(mask) * np.prod(spacing) / 1000)
    return {
        "mask": mask if img.ndim == 3 else mask[0],
        "labels": {"1": "liver"},
        "meta": {"volume_ml": round(millilitres, 1), **_CODES},
    }


@cache
def disk(radius: int) -> Mask:
    """A round structuring element."""
    side = 2 * radius + 1
    element: Mask = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return element


def fill_holes(mask: Mask) -> Mask:
    """``mask`` with every hole filled that does not reach the border (background 4-connected)."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, outlines, -1, 255, cv2.FILLED)
    return filled


def close_fill_open(mask: Mask, closing: int, opening: int) -> Mask:
    """Closing, hole filling and opening with disks of these radii in pixels."""
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disk(closing))
    opened: Mask = cv2.morphologyEx(fill_holes(closed), cv2.MORPH_OPEN, disk(opening))
    return opened


def find_components(mask: Mask) -> Components:
    """The components of one slice. A slice of 512² after an opening has far fewer than 65,535."""
    _, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    return Components(labels, stats[1:, cv2.CC_STAT_AREA].astype(np.int64), centres[1:, 0])


def choose_liver(slices: list[Components], right_half: tuple[float, float]) -> list[list[int]]:
    """For every slice the labels of the liver: the largest 3-D component centred in ``right_half``, or none."""
    offsets = np.cumsum([0, *(len(found.areas) for found in slices)])
    owner = _joined(slices, offsets)
    areas = np.concatenate([found.areas for found in slices])
    columns = np.concatenate([found.columns for found in slices])
    if not len(areas):
        return [[] for _ in slices]
    volumes = np.bincount(owner, areas, len(areas))
    centres = np.bincount(owner, areas * columns, len(areas)) / np.maximum(volumes, 1)
    volumes[(centres < right_half[0]) | (centres >= right_half[1])] = 0
    liver = int(np.argmax(volumes))
    if volumes[liver] == 0:
        return [[] for _ in slices]
    return [
        [index - start + 1 for index in range(start, end) if owner[index] == liver]
        for start, end in pairwise(offsets)
    ]


def _side_by_side(work: Callable[[Pixels], Components], slices: Pixels) -> Any:
    """The results in order; a single slice is done here, a volume on all cores (OpenCV lets go of the GIL)."""
    if len(slices) == 1:
        yield work(slices[0])
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(work, slices)


def _joined(slices: list[Components], offsets: Pixels) -> Pixels:
    """For every slice component the first of the 3-D component it belongs to: touching across slices joins."""
    parent = list(range(int(offsets[-1])))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for below in range(len(slices) - 1):
        for one, other in _touching(slices[below], slices[below + 1]):
            first, second = sorted((root(int(offsets[below]) + one), root(int(offsets[below + 1]) + other)))
            parent[second] = first
    return np.array([root(index) for index in range(len(parent))], np.int64)


def _touching(lower: Components, upper: Components) -> Pixels:
    """Pairs of components, counted from 0, that lie over each other in neighbouring slices."""
    overlap = np.flatnonzero(cv2.min(lower.labels, upper.labels))
    table = np.zeros((len(lower.areas) + 1, len(upper.areas) + 1), bool)
    table[lower.labels.ravel()[overlap], upper.labels.ravel()[overlap]] = True
    return np.argwhere(table[1:, 1:])


def _right_half(columns: int, orientation: tuple[float, ...] | None) -> tuple[float, float]:
    """The columns of the patient's right: the first half, unless rows run towards it (PS3.3 C.7.6.2)."""
    runs_to_the_right = orientation is not None and orientation[0] < 0
    return (columns / 2, float(columns)) if runs_to_the_right else (0.0, columns / 2)


def _draw(slices: list[Components], chosen: list[list[int]]) -> Mask:
    mask = np.zeros((len(slices), *slices[0].labels.shape), np.uint8)
    for index, (found, labels) in enumerate(zip(slices, chosen, strict=True)):
        for label in labels:
            mask[index] |= found.labels == label
    return mask
