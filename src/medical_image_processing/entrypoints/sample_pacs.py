"""A folder of real DICOM files for a platform that was given none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from medical_image_processing import samples
from medical_image_processing.entrypoints.cli_output import ERR, print_note, size
from medical_image_processing.errors import Unavailable


def sample_pacs() -> Path:
    """The abdominal CT series, fetched once; pydicom's small CT where it can't be had."""
    cache = samples.default_cache()
    try:
        with _download_progress() as progress:
            return samples.abdominal_ct(cache, progress)
    except Unavailable as error:
        print_note(f"pydicom's small CT stands in for the abdominal one. {error.message}")
        return _small_ct(cache)


@contextmanager
def _download_progress() -> Iterator[samples.Progress]:
    """A bar on a terminal, else one line; nothing when nothing has to be fetched."""
    with Progress(
        TextColumn("fetching the sample CT"),
        BarColumn(),
        DownloadColumn(),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    ) as bar:
        task = bar.add_task("", visible=False)
        told = False

        def progress(done: int, total: int) -> None:
            nonlocal told
            if ERR.is_terminal:
                bar.update(task, completed=done, total=total, visible=True)
            elif not told:
                print_note(f"fetching the sample CT ({size(total)}, once)")
            told = True

        yield progress


def _small_ct(cache: Path) -> Path:
    """CT_small has a hundred neighbours in pydicom that no PACS should serve."""
    folder = cache / "ct-small"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(samples.ct_small(), folder / "CT_small.dcm")
    return folder
