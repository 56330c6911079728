"""Draws thumbnails in a process beside this one, which may crash, hang or grow without harm to anybody.

It is started for the first picture, ends a while after the last, and reads to the end of its input: a platform
that is killed leaves none behind. Of this process's environment, which may hold keys, it gets what an interpreter
needs and no more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from medical_image_processing.errors import InputRejected

_LOG = logging.getLogger(__name__)
_COMMAND = (sys.executable, "-P", "-m", "medical_image_processing.dicom.draw_thumbnails")
_INHERITED = (
    *("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),  # each thread takes of the addresses that it may have
)
_MOST_PNG_BYTES = 2**22


class Drawer:
    """``limit_s`` is for one picture, with the process's start; after ``idle_s`` without one the process ends."""

    def __init__(self, command: Sequence[str] = _COMMAND, *, limit_s: float = 20.0, idle_s: float = 60.0) -> None:
        self._command = command
        self._limit_s = limit_s
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def draw(self, data: bytes) -> bytes:
        """The file's picture, one at a time. InputRejected, also where it takes the process down or too long."""
        async with self._turn:
            if self._leaving is not None:
                self._leaving.cancel()
            try:
                async with asyncio.timeout(self._limit_s):
                    kind, content = await self._ask(data)
            except (TimeoutError, OSError, EOFError, ValueError) as error:
                _LOG.warning("an image could not be drawn: %s", type(error).__name__)
                self._end()
                raise InputRejected("UNDECODABLE_PIXELS", "the image's pixels can't be decoded here") from error
            except asyncio.CancelledError:
                self._end()  # what it answers would be taken for the next one's
                raise
            self._leaving = asyncio.get_running_loop().call_later(self._idle_s, self._end)
        if kind == 0:
            return content
        raise InputRejected(content.decode("ascii", "replace"), "the image has no picture that can be drawn")

    async def close(self) -> None:
        """End the process, if there is one."""
        self._end()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _ask(self, data: bytes) -> tuple[int, bytes]:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(len(data).to_bytes(8, "big"))
        process.stdin.write(data)
        await process.stdin.drain()
        head = await process.stdout.readexactly(9)  # IncompleteReadError is an EOFError
        size = int.from_bytes(head[1:], "big")
        if size > _MOST_PNG_BYTES:
            raise ValueError("a picture is too large")
        return head[0], await process.stdout.readexactly(size)

    def _end(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            ending = asyncio.get_running_loop().create_task(_ended(process))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """What it still says is read, so that all of its pipes are closed."""
    await process.communicate()
