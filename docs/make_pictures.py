"""Makes the README's pictures, docs/result.png and docs/web-client.png: processing_1 on the phantom of phantom.py.

``python docs/make_pictures.py [FOLDER]``: the web client is built where its sources have changed, a platform is
started over the phantom, and Debian's Chromium opens it.
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import pydicom
from phantom import write_series
from PIL import Image

from medical_image_processing.dicom.picture import side_by_side_png
from medical_image_processing.dicom.read import read_image
from medical_image_processing.dicom.secondary_capture import write_secondary_capture
from medical_image_processing.entrypoints.private_platform import private_platform
from medical_image_processing.entrypoints.waiting import wait_until_settled
from medical_image_processing.processing.base import Processor, check_result

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "test" / "web"))
from web_client import Person, built_client, chromium  # noqa: E402

SHOWN = 13
"""The slice in the pictures, from 1, with the liver's veins."""
ALGORITHM = {
    "algo_id": "processing_1",
    "image_uri": "mip-algos:processing_1",
    "cpu": 1024,
    "memory": 2048,
    "command": ["/app/worker.sh"],
    "outputs": ["SC", "SEG", "SR"],
    "description": "Liver on CT: window, filter, threshold, morphology",
}
ACTIVE_S = 60


def result_picture(file: Path) -> bytes:
    """A slice and the liver in it, as `./mip demo` shows it: a PNG."""
    image = read_image(file.read_bytes())
    mask = check_result(Processor.factory("processing_1").run(image.pixels, image.meta()), image.pixels)
    result = write_secondary_capture(
        image, mask, job_id="picture", algo_id="processing_1", revision="1", series_description="processing_1"
    )
    return side_by_side_png(image, pydicom.dcmread(BytesIO(result)))


def client_picture(series: Path) -> bytes:
    """The web client at 1280 pixels, a result beside its original: a PNG. An error where it comes to none."""
    built_client()
    with private_platform(series, command="pictures", runtime="process") as platform, chromium() as browser:
        platform.client.call("POST", "admin", "algorithms", body=ALGORITHM)
        wait_until_settled(platform.client, "processing_1", ACTIVE_S, lambda _: None)
        someone = Person(browser, platform.env["API_BASE"], theme="dark")
        images = len(list(series.glob("*.dcm")))
        try:
            page = someone.visit()
            someone.open_series(images)
            someone.wait_loaded(images)
            someone.run("processing_1")
            page.wait_for_selector('.view >> nth=1 >> css=.view-image[data-ready="true"]')
            page.wait_for_selector(".segments:has-text('liver')")
            page.locator(".measurements tr", has_text="Volume").wait_for()
            page.locator(".view-image").first.focus()
            page.keyboard.press("Home")
            for _ in range(SHOWN - 1):
                page.keyboard.press("ArrowDown")
            for view in (0, 1):
                page.wait_for_selector(f'.view >> nth={view} >> css=.view-image[data-index="{SHOWN - 1}"]')
            page.mouse.move(0, 0)
            assert not someone.broken, someone.broken
            return page.screenshot()
        finally:
            someone.close()


def packed(png: bytes) -> bytes:
    """The same picture in fewer bytes: 256 colours do."""
    picture = Image.open(BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def main(folder: Path) -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory(prefix="mip-phantom-") as place:
        series = Path(place)
        write_series(series)
        (folder / "result.png").write_bytes(packed(result_picture(sorted(series.glob("*.dcm"))[SHOWN - 1])))
        (folder / "web-client.png").write_bytes(packed(client_picture(series)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
