"""The baselines do what they say, and processors are found, checked and refused as the contract has it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sample_images import CT_SMALL, abdominal_ct, abdominal_liver, dice

from medical_image_processing.dicom.read import read_image, read_series
from medical_image_processing.errors import AlgorithmFailed, NotFound
from medical_image_processing.processing.base import Processor, check_result

ROOT = Path(__file__).parents[2]
BASELINES = ("processing_1", "processing_6")
GOOD_PACKAGE = """
from medical_image_processing.processing.base import Processor

class Elsewhere(Processor):
    ALGO_ID = "elsewhere"
    def run(self, img, meta=None):
        return {"mask": img > 0, "labels": None, "meta": {}}
"""


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("algo_id", BASELINES)
def test_the_liver_of_a_volume_is_found(algo_id: str) -> None:
    image = read_series(abdominal_ct())
    done: list[float] = []
    result = Processor.factory(algo_id).run(image.pixels, {**image.meta(), "progress": done.append})
    mask = check_result(result, image.pixels)
    assert dice(mask, abdominal_liver()) > 0.9
    assert result["meta"]["volume_ml"] == pytest.approx(mask.sum() * 2 * 0.9765625**2 / 1000, abs=0.1)
    assert done == sorted(done) and len(done) == 20 and done[0] > 0 and done[-1] <= 1


@pytest.mark.parametrize("algo_id", BASELINES)
def test_the_liver_of_a_slice_is_found(algo_id: str) -> None:
    image = read_series(abdominal_ct())
    result = Processor.factory(algo_id).run(image.pixels[10])
    assert dice(check_result(result, image.pixels[10]), abdominal_liver()[10]) > 0.9


@pytest.mark.parametrize("algo_id", BASELINES)
def test_slices_are_the_same_to_the_pixel_as_with_scipy(algo_id: str) -> None:
    naive = load(ROOT / "bench" / "naive_liver.py").NAIVE[algo_id]
    volume = read_series(abdominal_ct()).pixels
    for pixels in (volume[0], volume[10], volume[19], read_image(CT_SMALL).pixels):
        np.testing.assert_array_equal(Processor.factory(algo_id).run(pixels)["mask"], naive(pixels))


@pytest.mark.parametrize("algo_id", BASELINES)
def test_the_patients_right_is_taken_from_the_orientation(algo_id: str) -> None:
    pixels = read_series(abdominal_ct()).pixels[10]
    processor = Processor.factory(algo_id)
    expected = processor.run(pixels)["mask"]
    mirrored = processor.run(np.ascontiguousarray(pixels[:, ::-1]), {"orientation": (-1, 0, 0, 0, 1, 0)})["mask"]
    assert dice(mirrored[:, ::-1], expected) > 0.99


@pytest.mark.parametrize("algo_id", BASELINES)
@pytest.mark.parametrize(
    "img",
    [
        pytest.param(np.zeros((64, 64), np.int16), id="slice of nothing"),
        pytest.param(np.zeros((3, 64, 64), np.float32), id="volume of nothing"),
        pytest.param(np.full((1, 1), 90, np.int16), id="one pixel"),
        pytest.param(np.full((2, 5, 700), 32767, np.int16), id="bright and oblong"),
        pytest.param(np.full((40, 40), np.nan, np.float32), id="not numbers"),
    ],
)
def test_images_without_a_liver_give_an_answer(algo_id: str, img: np.ndarray[Any, Any]) -> None:
    mask = check_result(Processor.factory(algo_id).run(img), img)
    assert set(np.unique(mask)) <= {0, 1}


@pytest.mark.parametrize("algo_id", BASELINES)
def test_components_of_neighbouring_slices_are_joined(algo_id: str) -> None:
    """A large blob in one slice loses against one that goes on through all of them."""
    img = np.full((5, 128, 128), -1000, np.int16)
    img[:, 10:40, 10:40] = 100
    img[2, 60:110, 10:50] = 100
    mask = Processor.factory(algo_id).run(img)["mask"]
    assert mask[:, 25, 25].all()
    assert not mask[:, 85, 30].any()


def test_the_factory_imports_only_what_is_asked_for() -> None:
    program = (
        "import sys; from medical_image_processing.processing.base import Processor;"
        "print(Processor.factory('processing_6').ALGO_ID);"
        "print(*(name for name in sys.modules if 'scipy' in name or name.endswith('processing_1')))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split() == ["processing_6"]


def test_an_unknown_processor_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(NotFound) as raised:
        Processor.factory("nothing-like-it")
    assert raised.value.code == "UNKNOWN_PROCESSOR"
    assert "processing_1, processing_6" in raised.value.message


def install(folder: Path, name: str, code: str) -> None:
    """A package as pip would leave it in ``folder``: a module, and its metadata with an entry point."""
    (folder / f"{name}.py").write_text(code)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[medical_image_processing.processors]\n{name} = {name}:{name.capitalize()}\n"
    )


def test_a_processor_of_another_package_is_found_and_a_broken_one_beside_it_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "broken", "raise RuntimeError('broken')")
    install(tmp_path, "elsewhere", GOOD_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    img = np.array([[-1, 1]], np.int16)
    processor = Processor.factory("elsewhere")
    np.testing.assert_array_equal(check_result(processor.run(img), img), [[0, 1]])
    with pytest.raises(AlgorithmFailed) as raised:
        Processor.factory("broken")
    assert raised.value.code == "PROCESSOR_UNUSABLE"
    with pytest.raises(NotFound, match="broken, elsewhere"):
        Processor.factory("missing")


def test_the_example_processor_marks_what_is_above_its_parameter() -> None:
    package = load(ROOT / "examples/threshold_processor/src/threshold_processor/__init__.py")
    img = np.array([[100, 250, 400]], np.int16)
    processor = package.Threshold()
    np.testing.assert_array_equal(processor.run(img)["mask"], [[0, 1, 1]])
    np.testing.assert_array_equal(processor.run(img, {"parameters": {"above": 300}})["mask"], [[0, 0, 1]])


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(None, id="nothing"),
        pytest.param({"labels": None}, id="no mask"),
        pytest.param({"mask": [[0, 0], [0, 0]]}, id="a list"),
        pytest.param({"mask": np.zeros((2, 3), np.uint8)}, id="another shape"),
        pytest.param({"mask": np.zeros((2, 2), float)}, id="another type"),
    ],
)
def test_a_result_that_cannot_be_used_is_the_algorithms_failure(result: object) -> None:
    with pytest.raises(AlgorithmFailed) as raised:
        check_result(result, np.zeros((2, 2), np.int16))
    assert raised.value.code == "INVALID_RESULT"


def test_a_bool_mask_becomes_uint8() -> None:
    mask = check_result({"mask": np.eye(2, dtype=bool)}, np.zeros((2, 2), np.int16))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, [[1, 0], [0, 1]])
