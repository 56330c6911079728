"""From an algorithm's answer to the DICOM files that its record asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from medical_image_processing.dicom.derived import Making
from medical_image_processing.dicom.grayscale_capture import write_grayscale_capture
from medical_image_processing.dicom.image import Image, Pixels
from medical_image_processing.dicom.secondary_capture import write_secondary_capture
from medical_image_processing.dicom.segments import Segments
from medical_image_processing.model.algorithm import OutputKind
from medical_image_processing.processing.base import check_image, check_result, has_image, invalid_result
from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.leases import Attempt
from medical_image_processing.worker.segments import read_segments


def load_writers(kinds: Sequence[OutputKind]) -> None:
    """Import what these need, so that the first job doesn't wait for it. Secondary Captures need nothing more."""
    if set(kinds) - {OutputKind.SC}:
        import highdicom  # noqa: F401


class Outputs:
    """An answer, or AlgorithmFailed ``INVALID_RESULT`` if it can't be used; :meth:`write` makes the files."""

    def __init__(self, config: WorkerConfig, image: Image, result: Any) -> None:
        self._config = config
        self._image = image
        self._kinds = config.outputs
        self._values: Pixels | None = None
        self._segments: Segments | None = None
        if has_image(result):
            self._values = check_image(result, image.pixels)
            _check_image_outputs(config.outputs)
            return
        self._mask = check_result(result, image.pixels)
        if set(config.outputs) & {OutputKind.SEG, OutputKind.SR}:
            self._segments = read_segments(result, self._mask, algo_id=config.algo_id)

    def write(self, attempt: Attempt) -> dict[OutputKind, bytes]:
        """The files in the order of the record; :class:`InputRejected` where the source doesn't allow one."""
        # The capture, by far the largest, last: then it needn't lie in memory while the others are made.
        made = {kind: self._write(kind, attempt) for kind in sorted(self._kinds, key=_is_capture)}
        return {kind: made[kind] for kind in self._kinds}

    def _write(self, kind: OutputKind, attempt: Attempt) -> bytes:
        if kind is OutputKind.SC:
            what = "overlay" if self._values is None else "image"
            return self._write_capture(self._making(attempt, what))
        # Imported here: a worker that makes Secondary Captures alone never needs highdicom.
        assert self._segments is not None
        if kind is OutputKind.SEG:
            from medical_image_processing.dicom.segmentation import write_segmentation

            return write_segmentation(self._image, self._segments, self._making(attempt, "segmentation"))
        from medical_image_processing.dicom.measurement_report import write_measurement_report

        return write_measurement_report(self._image, self._segments, self._making(attempt, "measurements"))

    def _write_capture(self, making: Making) -> bytes:
        said: Mapping[str, Any] = vars(making)
        if self._values is not None:
            return write_grayscale_capture(self._image, self._values, **said)
        return write_secondary_capture(self._image, self._mask, **said)

    def _making(self, attempt: Attempt, what: str) -> Making:
        """Dated when the job was sent, not now, so that another attempt makes the same bytes."""
        return Making(
            job_id=attempt.job.job_id,
            algo_id=attempt.job.algo_id,
            revision=self._config.revision,
            series_description=f"{self._config.algo_id} {what}, research use only",
            made_at=datetime.now() if attempt.sent_at is None else datetime.fromtimestamp(attempt.sent_at),
            image_digest=self._config.image_digest,
        )


def _is_capture(kind: OutputKind) -> bool:
    return kind is OutputKind.SC


def _check_image_outputs(kinds: Sequence[OutputKind]) -> None:
    if others := [kind for kind in kinds if kind is not OutputKind.SC]:
        raise invalid_result(
            f"an image can only become SC, and the record's outputs ask for {', '.join(others)}; return a mask, "
            "or change the record"
        )
