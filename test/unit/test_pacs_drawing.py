"""Pictures are drawn in a process that may end in any way, and others are drawn after it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from medical_image_processing.errors import InputRejected
from medical_image_processing.pacs.drawing import Drawer
from platform_process import children

CT = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()


def with_drawer(drawer: Callable[[], Drawer], work: Callable[[Drawer], Awaitable[None]]) -> None:
    async def run() -> None:
        made = drawer()
        try:
            await asyncio.wait_for(work(made), 60)
        finally:
            await made.close()

    asyncio.run(run())


async def rejected(drawer: Drawer, data: bytes) -> str:
    with pytest.raises(InputRejected) as caught:
        await drawer.draw(data)
    return caught.value.code


def test_what_has_a_picture_is_drawn_and_what_has_none_says_why() -> None:
    async def work(drawer: Drawer) -> None:
        pictures = await asyncio.gather(*(drawer.draw(CT) for _ in range(3)))
        assert pictures[0].startswith(b"\x89PNG") and len(set(pictures)) == 1
        assert await rejected(drawer, b"no DICOM") == "NOT_DICOM"
        assert await rejected(drawer, b"") == "NOT_DICOM"
        assert await drawer.draw(CT) == pictures[0]
        assert len(children("self", "draw_thumbnails")) == 1

    with_drawer(Drawer, work)
    assert children("self", "draw_thumbnails") == []


def test_a_process_that_is_killed_is_followed_by_another() -> None:
    async def work(drawer: Drawer) -> None:
        await drawer.draw(CT)
        [pid] = children("self", "draw_thumbnails")
        os.kill(pid, signal.SIGSTOP)  # it holds the picture, and dies with it
        drawing = asyncio.create_task(rejected(drawer, CT))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert await drawing == "UNDECODABLE_PIXELS"
        assert (await drawer.draw(CT)).startswith(b"\x89PNG")

    with_drawer(Drawer, work)


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.abort()",
        "import time; time.sleep(600)",
        "import sys; sys.stdout.buffer.write(bytes([0]) + (2**40).to_bytes(8, 'big')); sys.stdout.flush()",
        "import sys; sys.stdout.write('x')",
    ],
    ids=["it crashes", "it hangs", "it says too much", "it says too little"],
)
def test_whatever_becomes_of_the_process_the_caller_is_told(code: str) -> None:
    async def work(drawer: Drawer) -> None:
        for _ in range(2):
            assert await rejected(drawer, CT) == "UNDECODABLE_PIXELS"

    with_drawer(lambda: Drawer((sys.executable, "-c", code), limit_s=1.5), work)


def test_a_drawing_that_nobody_waits_for_any_more_is_not_taken_for_the_next_one() -> None:
    async def work(drawer: Drawer) -> None:
        first = asyncio.create_task(drawer.draw(CT))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await rejected(drawer, b"no DICOM") == "NOT_DICOM"

    with_drawer(Drawer, work)


def test_without_work_the_process_ends() -> None:
    async def work(drawer: Drawer) -> None:
        await drawer.draw(CT)
        while children("self", "draw_thumbnails"):
            await asyncio.sleep(0.02)
        assert (await drawer.draw(CT)).startswith(b"\x89PNG")

    with_drawer(lambda: Drawer(idle_s=0.2), work)
