"""How a process keeps memory that it will need again. Called once at the start of a worker and the platform.

A slice of 512² is half a megabyte, and glibc takes blocks of that size from the kernel and gives them back one
by one (mallopt(3)): each array then costs a page fault every 4 KiB, which was nearly half of reading an image.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3


def keep_freed_memory(*, block_mib: int, total_mib: int) -> None:
    """Keep freed blocks of up to ``block_mib`` (at most 32), and up to ``total_mib`` of them, for the next ones.

    Does nothing where the C library isn't glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, block_mib * 2**20)
        mallopt(_M_TRIM_THRESHOLD, total_mib * 2**20)


def return_freed_memory() -> None:
    """Give the kernel back what was freed, also between what is in use (malloc_trim(3)). Takes milliseconds."""
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(ctypes.c_size_t(0))


def freeze_imports() -> None:
    """Let the garbage collector pass over what is there now: looking through it again costs milliseconds."""
    gc.collect()
    gc.freeze()
