"""containers/grayscale, compiled here: as NumPy computes it, whatever the size, type and number of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sample_images import abdominal_ct

from medical_image_processing.dicom.read import read_image
from medical_image_processing.worker.native import INCLUDE
from medical_image_processing.worker.nrrd import Placement, create_volume, read_volume, write_header

pytestmark = pytest.mark.needs("g++")

GRAYSCALE = Path(__file__).parents[2] / "containers" / "grayscale"
Pixels = npt.NDArray[Any]


@pytest.fixture(scope="session")
def grayscale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; its build treats warnings as errors."""
    program = tmp_path_factory.mktemp("grayscale") / "grayscale"
    subprocess.run([str(GRAYSCALE / "build.sh"), str(INCLUDE), str(program)], check=True, timeout=120)
    return program


def run(program: Path, folder: Path, pixels: Pixels, *, threads: int = 2, **parameters: float) -> Pixels:
    for file in folder.iterdir():
        file.unlink()
    create_volume(folder / "in.nrrd", pixels.shape, pixels.dtype).pixels[...] = pixels
    write_header(folder / "in.nrrd", pixels, Placement.of({}))
    (folder / "parameters.json").write_text(json.dumps(parameters))
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MIP_PARAMETERS": str(folder / "parameters.json")}
    command = [str(program), str(folder / "in.nrrd"), str(folder / "out.nrrd")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return read_volume(folder / "out.nrrd", pixels.shape)


def bilateral(pixels: Pixels, sigma_pixels: float, sigma_units: float) -> Pixels:
    """The filter by its definition, slice by slice."""
    radius = int(np.ceil(2 * sigma_pixels))
    smooth = np.empty(pixels.shape)
    for slice_, out in zip(pixels.astype(np.float64), smooth, strict=True):
        padded = np.pad(slice_, radius, mode="edge")
        total, weights = np.zeros(slice_.shape), np.zeros(slice_.shape)
        for dy in range(2 * radius + 1):
            for dx in range(2 * radius + 1):
                neighbour = padded[dy : dy + slice_.shape[0], dx : dx + slice_.shape[1]]
                distance = (dy - radius) ** 2 + (dx - radius) ** 2
                weight = np.exp(-((neighbour - slice_) ** 2) / (2 * sigma_units**2))
                weight *= np.exp(-distance / (2 * sigma_pixels**2)) if radius else 1
                total += weight * neighbour
                weights += weight
        out[...] = total / weights
    return smooth


def window(values: Pixels, center: float, width: float) -> Pixels:
    """PS3.3 C.11.2.1.2.1."""
    gray = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.clip(np.floor(gray + 0.5), 0, 255).astype(np.uint8)


def drawn(shape: tuple[int, ...], dtype: str) -> Pixels:
    """Edges, slopes and noise."""
    random = np.random.default_rng(sum(shape))
    slope = np.linspace(-300, 300, int(np.prod(shape))).reshape(shape)
    return (slope + 200 * (random.random(shape) > 0.5) + random.normal(0, 20, shape)).astype(dtype)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 64, 48), (3, 17, 129), (2, 1, 200), (2, 200, 1)])
@pytest.mark.parametrize("sigma_pixels", [0.0, 0.7, 2.0])
def test_it_is_what_numpy_computes(
    grayscale: Path, tmp_path: Path, shape: tuple[int, ...], dtype: str, sigma_pixels: float
) -> None:
    pixels = drawn(shape, dtype)
    shown = run(grayscale, tmp_path, pixels, sigma_pixels=sigma_pixels, sigma_units=60, window_center=20)
    expected = window(bilateral(pixels, sigma_pixels, 60), 20, 400)
    assert shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_a_real_slice_keeps_its_edges_and_loses_its_noise(grayscale: Path, tmp_path: Path) -> None:
    pixels = read_image(abdominal_ct()[9]).pixels[np.newaxis]
    shown = run(grayscale, tmp_path, pixels)
    assert np.abs(shown.astype(int) - window(bilateral(pixels, 1.5, 40), 40, 400)).max() <= 1
    plain = run(grayscale, tmp_path, pixels, sigma_pixels=0)
    liver = (slice(0, 1), slice(230, 260), slice(130, 160))
    assert shown[liver].std() < 0.7 * plain[liver].std()


def test_the_number_of_threads_changes_no_byte(grayscale: Path, tmp_path: Path) -> None:
    pixels = drawn((5, 100, 120), "int16")
    one, two, many = (run(grayscale, tmp_path, pixels, threads=threads).tobytes() for threads in (1, 2, 7))
    assert one == two == many


def test_the_patient_stays_where_he_is(grayscale: Path, tmp_path: Path) -> None:
    import SimpleITK

    pixels = drawn((2, 8, 9), "int16")
    meta = {"origin": (1.0, -2.0, 3.5), "directions": ((0.0, -2.0, 0.0), (0.0, 0.0, -0.5), (0.25, 0.0, 0.0))}
    create_volume(tmp_path / "in.nrrd", pixels.shape, pixels.dtype).pixels[...] = pixels
    write_header(tmp_path / "in.nrrd", pixels, Placement.of(meta))
    subprocess.run([str(grayscale), str(tmp_path / "in.nrrd"), str(tmp_path / "out.nrrd")], check=True, timeout=60)
    before, after = (SimpleITK.ReadImage(str(tmp_path / name)) for name in ("in.nrrd", "out.nrrd"))
    assert after.GetOrigin() == before.GetOrigin()
    assert after.GetDirection() == before.GetDirection()
    assert after.GetSpacing() == before.GetSpacing()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ('{"window_width": 0}', "window_width must be at least 1"),
        ('{"sigma_units": "many"}', "sigma_units must be a number"),
        ('{"sigma_pixels": 9}', "sigma_pixels must lie between 0 and 8"),
        (
            '{"a": {"sigma_pixels": 9}, "b": ["sigma_pixels"], "c": "sigma_pixels\\"", "sigma_pixels" : -1.0e0}',
            "sigma",
        ),
        ('{"a', "no JSON"),
    ],
)
def test_bad_parameters_are_its_reason(grayscale: Path, tmp_path: Path, parameters: str, said: str) -> None:
    (tmp_path / "parameters.json").write_text(parameters)
    pixels = drawn((1, 8, 8), "int16")
    create_volume(tmp_path / "in.nrrd", pixels.shape, pixels.dtype).pixels[...] = pixels
    write_header(tmp_path / "in.nrrd", pixels, Placement.of({}))
    done = subprocess.run(
        [str(grayscale), str(tmp_path / "in.nrrd"), str(tmp_path / "out.nrrd")],
        env={"MIP_PARAMETERS": str(tmp_path / "parameters.json")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be opened"),
        (b"", "can't be read"),
        (b"P5 1 1 255\n", "is no NRRD file"),
        (b"NRRD0004\ntype: short\nsizes: 4 4 1\nendian: little\nencoding: raw\n\n", "cut short"),
        (b"NRRD0004\ntype: short\nsizes: 4 -4 1\nendian: little\nencoding: raw\n\n", "bad sizes"),
        (b"NRRD0004\ntype: short\nsizes: 4 4 1\nendian: big\nencoding: raw\n\n", "byte order"),
        (b"NRRD0004\ntype: double\nsizes: 4 4 1\nendian: little\nencoding: raw\n\n", "another type"),
    ],
)
def test_a_bad_input_is_its_reason(grayscale: Path, tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "in.nrrd").write_bytes(content)
    command = [str(grayscale), str(tmp_path / "in.nrrd"), str(tmp_path / "out.nrrd")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, said in done.stderr.splitlines()[-1]) == (1, True)


def test_the_example_of_the_docs_compiles_and_works(tmp_path: Path) -> None:
    page = (GRAYSCALE.parents[1] / "docs" / "native.md").read_text()
    (tmp_path / "threshold.cpp").write_text(page.partition("```c++\n")[2].partition("```")[0])
    (compile_line,) = [line for line in page.splitlines() if line.startswith("g++")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-ec", compile_line], cwd=tmp_path, env=environment, check=True, timeout=120)
    pixels = drawn((2, 9, 7), "int16")
    (tmp_path / "data").mkdir()
    np.testing.assert_array_equal(run(tmp_path / "threshold", tmp_path / "data", pixels, above=50), pixels > 50)
