"""A job at the limit of what a worker takes stays within its container; one beyond it is refused at once."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from made_series import Lie, edited, saved, series_files
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from sample_images import CT_SMALL, TEST_FILES
from test_worker_parts import ENV

from medical_image_processing.dicom.read import drain_series, read_image, read_series
from medical_image_processing.errors import InputRejected, MipError
from medical_image_processing.model.algorithm import OutputKind
from medical_image_processing.worker.arriving import ArrivingFiles
from medical_image_processing.worker.config import WorkerConfig, max_volume_bytes

MIB = 2**20

# A series that arrives, is read and made into outputs as the worker does it; prints the volume and the most memory
# that the process took.
JOB = """
import io, sys, threading
from dataclasses import replace
import numpy as np, pydicom
from medical_image_processing.memory import keep_freed_memory
import medical_image_processing.worker.worker
from medical_image_processing.dicom.read import drain_series
from medical_image_processing.model.algorithm import OutputKind
from medical_image_processing.worker.arriving import ArrivingFiles
from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.outputs import Outputs, load_writers
from test_worker_parts import ENV, attempt

kinds, slope, slices = tuple(map(OutputKind, sys.argv[1].split(","))), sys.argv[2], int(sys.argv[3])
keep_freed_memory(block_mib=16, total_mib=64)
load_writers(kinds)
dataset = pydicom.dcmread(sys.argv[4])
dataset.PixelData = np.tile(dataset.pixel_array, (4, 4)).tobytes()
dataset.Rows = dataset.Columns = 512
dataset.RescaleSlope, dataset.ImagePositionPatient = slope, ["0", "0", "54321.0"]
dataset.SOPInstanceUID = "1.2.54321.0"
held = io.BytesIO()
dataset.save_as(held)
template, files = held.getvalue(), ArrivingFiles(slices)
del dataset, held


def arrive():
    for index in range(slices):
        files.put(template.replace(b"54321.0", b"1%04d.0" % index), lambda _: None)


threading.Thread(target=arrive).start()
image = drain_series(files)
mask = (image.pixels > 0).astype(np.uint8)
config = replace(WorkerConfig.from_env(ENV), outputs=kinds)
written = Outputs(config, image, {"mask": mask, "labels": None, "meta": {}}).write(attempt())
assert list(written) == list(kinds)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(image.pixels.nbytes, int(peak.split()[1]) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's account of a process's memory is Linux's")
@pytest.mark.parametrize("slope", ["1", "0.5"], ids=["int16", "float32"])
@pytest.mark.parametrize("outputs", ["SC", "SC,SEG,SR", "SEG,SR"])
def test_a_series_at_the_limit_and_its_outputs_stay_within_the_container(outputs: str, slope: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", JOB, outputs, slope, "240", str(TEST_FILES / "CT_small.dcm")],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parent,
    )
    assert said.returncode == 0, said.stderr
    volume, peak = map(int, said.stdout.split())
    container = next(
        mib * MIB
        for mib in range(128, 8192)
        if (max_volume_bytes(mib * MIB, tuple(map(OutputKind, outputs.split(",")))) or 0) >= volume
    )
    assert peak < container, f"{peak / MIB:.0f} MiB of {container / MIB:.0f} for {volume / MIB:.0f}"


def test_the_less_is_made_the_more_may_come_in() -> None:
    alone, every = (OutputKind.SEG,), (OutputKind.SC, OutputKind.SEG, OutputKind.SR)
    limit = 1024 * MIB
    assert (max_volume_bytes(limit, alone) or 0) > (max_volume_bytes(limit, every) or 0) > 0.2 * limit
    assert max_volume_bytes(None, every) is None
    assert max_volume_bytes(64 * MIB, every) == 0


def test_the_platform_may_say_how_large_inputs_are() -> None:
    assert WorkerConfig.from_env({**ENV, "MIP_MAX_INPUT_MIB": "3"}).max_input_bytes == 3 * MIB
    assert 0 < WorkerConfig.from_env(ENV).max_input_bytes <= 2**31


def refusal(files: list[bytes], max_bytes: int) -> InputRejected:
    with pytest.raises(InputRejected) as raised:
        read_series(files, max_bytes=max_bytes)
    return raised.value


@pytest.mark.parametrize("slopes", ["0.5 0.5 0.5 0.5", "1 1 1 0.5", "0.5 1 1 1"])
def test_values_that_need_four_bytes_count_as_such(slopes: str) -> None:
    files = [
        edited(data, RescaleSlope=slope) for data, slope in zip(series_files(Lie()), slopes.split(), strict=True)
    ]
    pixels = 4 * 6 * 9
    assert read_series(files, max_bytes=4 * pixels).pixels.nbytes == 4 * pixels
    assert refusal(files, 4 * pixels - 1).code == "TOO_LARGE"


def test_a_volume_that_only_its_values_widen_is_refused_before_it_is_widened() -> None:
    files = series_files(Lie())
    files[2] = edited(files[2], RescaleIntercept="32000")
    pixels, asked = 4 * 6 * 9, []

    def allocate(shape: tuple[int, ...], dtype: object) -> np.ndarray:
        asked.append(np.dtype(dtype))  # type: ignore[call-overload]
        return np.empty(shape, asked[-1])

    with pytest.raises(InputRejected) as raised:
        read_series(files, allocate=allocate, max_bytes=4 * pixels - 1)
    assert raised.value.code == "TOO_LARGE" and asked == [np.int16]
    assert read_series(files, max_bytes=4 * pixels).pixels.dtype == np.float32


@pytest.mark.parametrize("changes", [{}, {"RescaleSlope": "0.5"}, {"RescaleIntercept": "32000"}], ids=str)
def test_a_single_file_is_held_to_the_limit_too(changes: dict[str, str]) -> None:
    data = edited(CT_SMALL, **changes)
    needed = read_image(data).pixels.nbytes
    assert needed == 128 * 128 * (4 if changes else 2)
    assert read_image(data, max_bytes=needed).pixels.nbytes == needed
    for read in (
        lambda: read_image(data, max_bytes=needed - 1),
        lambda: read_series([data], max_bytes=needed - 1),
    ):
        with pytest.raises(InputRejected) as raised:
            read()
        assert raised.value.code == "TOO_LARGE"


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_from_its_header() -> None:
    side = 23040
    run = b"\x81\x00" * (side * side // 128)
    frame = struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13) + run + run
    dataset = pydicom.dcmread(io.BytesIO(CT_SMALL))
    dataset.Rows = dataset.Columns = side
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    data = saved(dataset)
    assert len(data) < 17 * MIB
    with pytest.raises(InputRejected) as raised:
        read_image(data, max_bytes=512 * MIB)
    assert raised.value.code == "TOO_LARGE"


def test_a_series_that_is_too_large_is_refused_from_its_first_header() -> None:
    data = series_files(Lie())[0]
    files = ArrivingFiles(1000)
    files.put(data, lambda _: None)  # no other ever comes
    with pytest.raises(InputRejected) as raised:
        drain_series(files, max_bytes=50_000)
    assert raised.value.code == "TOO_LARGE"


def test_a_series_just_too_large_is_refused_as_soon_as_that_is_sure() -> None:
    files = ArrivingFiles(4)
    arriving = series_files(Lie())
    for data in arriving[:3]:
        files.put(data, lambda _: None)
    files.fail(MipError("NOT_NEEDED", "the last one"))
    with pytest.raises(InputRejected) as raised:
        drain_series(files, max_bytes=3 * 6 * 9 * 2 - 1)
    assert raised.value.code == "TOO_LARGE"


def test_localizers_and_repeats_take_no_room() -> None:
    files = series_files(Lie())
    localizer = edited(CT_SMALL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    image = read_series([localizer, *files, *files[:3]], max_bytes=4 * 6 * 9 * 2)
    assert image.pixels.shape == (4, 6, 9)
