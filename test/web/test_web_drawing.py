"""Slices are drawn by WebGL where there is a graphics card, else by the processor: what is seen is the same."""

from __future__ import annotations

import io
from typing import Any

import pytest
from web_client import MakePerson, Person

ABDOMEN = 20
_COUNT_DRAWS = """
window.webglDraws = 0;
for (const kind of [WebGLRenderingContext, WebGL2RenderingContext])
    for (const name of ["drawArrays", "drawElements"]) {
        const draw = kind.prototype[name];
        kind.prototype[name] = function (...how) { window.webglDraws += 1; return draw.apply(this, how); };
    }
"""
# UNMASKED_RENDERER_WEBGL of WEBGL_debug_renderer_info: by it a page knows that WebGL is a program.
_CARD = """
for (const kind of [WebGLRenderingContext, WebGL2RenderingContext]) {
    const ask = kind.prototype.getParameter;
    kind.prototype.getParameter = function (name) { return name === 0x9246 ? "A card" : ask.call(this, name); };
}
"""
_NO_WEBGL = """
const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...how) {
    return kind.includes("webgl") ? null : get.call(this, kind, ...how);
};
"""
_NEXT_DRAWN = """view => {
    const place = document.querySelectorAll(".view-canvas")[view];
    window.webglDraws = 0;
    window.drawn = new Promise(done => place.addEventListener("CORNERSTONE_IMAGE_RENDERED", done, {once: true}));
}"""
_LENGTH = ".view-canvas svg >> text=/[1-9][0-9.]* mm/"
MACHINES = {"card": _CARD, "program": "", "none": _NO_WEBGL}


def picture(person: Person, view: int = 0) -> Any:
    """What a view draws: rows × columns × RGB."""
    import numpy as np
    from PIL import Image

    shot = person.page.locator(".view-canvas canvas").nth(view).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float)


def look(person: Person, machine: str) -> tuple[Any, str, int]:
    """The fourth slice, zoomed and panned, a length on it, and how often WebGL drew for it."""
    person.context.add_init_script(_COUNT_DRAWS + MACHINES[machine])
    page = person.visit()
    person.open_series(ABDOMEN)
    person.wait_loaded(ABDOMEN)
    frame = page.locator(".view-image").first
    box = frame.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    frame.focus()
    page.keyboard.press("Home")
    page.keyboard.press("+")
    page.mouse.move(x, y)
    page.mouse.down(button="middle")
    page.mouse.move(x + 40, y + 30, steps=3)
    page.mouse.up(button="middle")
    page.keyboard.press("l")
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y)  # at once: lengths on the way are told for a while
    page.mouse.up()
    length = page.wait_for_selector(_LENGTH)
    assert length is not None
    words = length.text_content() or ""
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector('.view-image[data-index="2"]')
    page.evaluate(_NEXT_DRAWN, 0)
    page.keyboard.press("ArrowDown")
    page.evaluate("window.drawn")
    seen, draws = picture(person), int(page.evaluate("window.webglDraws"))
    return seen, words, draws


def test_a_slice_looks_the_same_however_it_is_drawn(person: MakePerson) -> None:
    import numpy as np

    card, card_length, card_draws = look(person(), "card")
    assert card_draws > 0
    assert card.mean() > 20
    for machine in ("program", "none"):
        seen, length, draws = look(person(), machine)
        assert draws == 0, machine
        assert length == card_length, machine
        # WebGL interpolates values, the processor grays: at edges that isn't quite the same.
        unlike = abs(seen - card).mean()
        assert unlike < 2, machine
        for step, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            assert abs(np.roll(seen, step, axis) - card).mean() > unlike, f"{machine}: it is moved"


@pytest.mark.parametrize("machine", ["card", "none"])
def test_labels_are_seen_however_the_slice_is_drawn(person: MakePerson, machine: str) -> None:
    someone = person()
    someone.context.add_init_script(_COUNT_DRAWS + MACHINES[machine])
    page = someone.visit()
    someone.open_series(ABDOMEN)
    someone.run("processing_1")
    page.wait_for_selector(".segments:has-text('liver')")
    page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
    page.evaluate(_NEXT_DRAWN, 1)
    page.get_by_label("Opacity of the overlay").fill("0.9")
    page.evaluate("window.drawn")
    red, _, blue = picture(someone, 1).mean(axis=(0, 1))
    assert red - blue > 5
