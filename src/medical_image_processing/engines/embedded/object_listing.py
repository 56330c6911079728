"""Listing the bucket's folder in the order of the keys' UTF-8 bytes, as ListObjectsV2 gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from medical_image_processing.engines.embedded.object_keys import is_storable
from medical_image_processing.engines.embedded.objects import Stored, stored


@dataclass
class Listing:
    """One page. ``next_after`` continues it: the last key or common prefix given; None at the end."""

    objects: list[Stored] = field(default_factory=list)
    common_prefixes: list[str] = field(default_factory=list)
    next_after: str | None = None


def list_objects(root: Path, *, prefix: str, delimiter: str, after: str, max_keys: int) -> Listing:
    """Up to ``max_keys`` objects and common prefixes that come after ``after``."""
    listing, last, count = Listing(), after, 0
    for key, entry in _walk(root, "", prefix, after, one_of_folder=delimiter == "/"):
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: cut + len(delimiter)] if cut >= 0 else None
        if common is not None and common == last:
            continue
        if count == max_keys:
            listing.next_after = last if max_keys else None
            return listing
        if common is not None:
            listing.common_prefixes.append(common)
        else:
            try:
                listing.objects.append(stored(key, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue
        last, count = common or key, count + 1
    return listing


def _walk(
    root: Path, folder: str, prefix: str, after: str, *, one_of_folder: bool
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Keys that begin with ``prefix`` and come after ``after``, in order.

    ``one_of_folder``: of each folder beyond the prefix one key is enough, as all share a common prefix.
    """
    try:
        with os.scandir(root / folder) as entries:
            found = [(folder + entry.name, entry) for entry in entries if not entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return
    # A folder stands where its keys do: 'a/' comes after 'a.txt'.
    named = [(f"{key}/" if entry.is_dir(follow_symlinks=False) else key, entry) for key, entry in found]
    for key, entry in sorted((pair for pair in named if _is_key(pair[0])), key=lambda pair: pair[0].encode()):
        if key.endswith("/"):
            may_match = key.startswith(prefix) or prefix.startswith(key)
            if may_match and (key.encode() > after.encode() or after.startswith(key)):
                keys = _walk(root, key, prefix, after, one_of_folder=one_of_folder)
                yield from islice(keys, 1) if one_of_folder and len(key) > len(prefix) else keys
        elif key.startswith(prefix) and key.encode() > after.encode() and entry.is_file(follow_symlinks=False):
            yield key, entry


def _is_key(name: str) -> bool:
    try:
        return is_storable(name.removesuffix("/"))
    except UnicodeEncodeError:
        return False  # a file name that is no UTF-8: no key can name it
