"""The image of the PACS API has what its program imports: of packages not more than the lock, of ours not all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from platform_process import clean_environment

ROOT = Path(__file__).parents[2]
PROGRAM = "medical_image_processing.entrypoints.pacs_service"
DRAWER = "medical_image_processing.dicom.draw_thumbnails"
DECODERS = {"imagecodecs", "pillow", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"}
"""What pydicom and dicom/jpeg.py look for once an image is compressed so."""
LOCK, DOCKERFILE = ROOT / "requirements-pacs.lock", ROOT / "containers/pacs/Dockerfile"

IMPORT = """
import importlib.metadata, sys
locked, left_out = (set(text.split()) for text in sys.argv[1:3])
of = importlib.metadata.packages_distributions()

class OnlyThere:
    def find_spec(self, name, path=None, target=None):
        first, second = (name.split(".") + [""])[:2]
        if first == "medical_image_processing":
            if second in left_out:
                raise ImportError(f"{name} is left out of the image")
        elif first in of and not locked & {one.lower().replace("_", "-") for one in of[first]}:
            raise ImportError(f"{name} is not in the lock")

sys.meta_path.insert(0, OnlyThere())
import importlib
importlib.import_module(sys.argv[3])
"""


def imports(locked: set[str], left_out: set[str], program: str = PROGRAM) -> str:
    """What goes wrong where no more than this is there; nothing if all is well."""
    command = [sys.executable, "-c", IMPORT, " ".join(locked), " ".join(left_out), program]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def test_the_image_of_the_pacs_api_has_all_that_its_program_imports() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), re.MULTILINE))
    (removed,) = re.findall(r"cd medical_image_processing && rm -r ([^)]+)\)", DOCKERFILE.read_text())
    left_out = {name.removesuffix(".py") for name in removed.split()}
    assert imports(locked, left_out) == ""
    assert imports(locked, left_out, DRAWER) == "" and locked >= DECODERS
    assert "cv2 is not in the lock" in imports(locked - {"opencv-python-headless"}, left_out, DRAWER)
    assert imports(locked - {"numpy", "pydicom", "opencv-python-headless"}, left_out) == "", "it serves without"
    assert "awscrt is not in the lock" in imports(locked - {"awscrt"}, left_out)
    assert "is left out" in imports(locked, left_out | {"control"})
