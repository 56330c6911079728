"""Which series of a study is an input: never a result of ours, a report or a segmentation, and always the same."""

from __future__ import annotations

import itertools
from datetime import datetime

import numpy as np
import pytest
from made_series import Lie, edited, series_files
from sample_images import CT_SMALL, TEST_FILES

from medical_image_processing.dicom.derived import Making
from medical_image_processing.dicom.measurement_report import write_measurement_report
from medical_image_processing.dicom.read import read_image
from medical_image_processing.dicom.secondary_capture import write_secondary_capture
from medical_image_processing.dicom.segmentation import write_segmentation
from medical_image_processing.dicom.segments import Segment, Segments
from medical_image_processing.errors import InputRejected
from medical_image_processing.worker.pacs import largest_series

MAKING = Making("job-1", "algo", 1, "a result", datetime(2026, 11, 24))


def results(data: bytes) -> list[bytes]:
    image = read_image(data)
    segments = Segments((image.pixels > 0).astype(np.uint8), (Segment("body"),))
    return [
        write_secondary_capture(image, segments.numbers, **vars(MAKING)),
        write_segmentation(image, segments, MAKING),
        write_measurement_report(image, segments, MAKING),
    ]


def test_an_image_is_chosen_before_its_own_results_in_any_order() -> None:
    made = results(CT_SMALL)
    for files in itertools.permutations([CT_SMALL, *made]):
        assert largest_series(list(files)) == [CT_SMALL]
    assert largest_series([*made, *(edited(made[0], SOPInstanceUID=f"1.2.{n}") for n in range(9)), CT_SMALL]) == [
        CT_SMALL
    ]


def test_what_an_archive_writes_into_the_file_meta_information_does_not_count() -> None:
    capture = results(CT_SMALL)[0]
    foreign = capture.replace(
        b"2.25.112338225606232069172264609337322998143", b"1.2.276.0.7230010.3.0.3.6.4".ljust(44, b"\0")
    )
    assert foreign != capture
    assert largest_series([foreign, CT_SMALL]) == [CT_SMALL]


def test_reports_of_others_are_no_input() -> None:
    report = (TEST_FILES / "reportsi.dcm").read_bytes()
    assert largest_series([report, edited(report, SOPInstanceUID="1.2.3"), CT_SMALL]) == [CT_SMALL]


def test_the_largest_series_is_chosen_and_of_several_the_first_uid() -> None:
    three = series_files(Lie(positions=(0.0, 1.0, 2.0)), SeriesInstanceUID="1.2.9")
    others = [edited(data, SeriesInstanceUID="1.2.8") for data in three]
    assert largest_series([CT_SMALL, *three]) == three
    for files in ([*three, *others], [*others, *three]):
        assert largest_series(files) == others


def test_a_study_of_results_alone_is_refused() -> None:
    with pytest.raises(InputRejected) as raised:
        largest_series(results(CT_SMALL))
    assert raised.value.code == "NO_PIXELS"
