"""From what an algorithm returned to segments; and what can't be used, with its reason."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from test_worker_parts import ENV

from medical_image_processing import naming
from medical_image_processing.dicom.segments import ARTIFICIAL_INTELLIGENCE, TISSUE, Code, Segment, Segments
from medical_image_processing.engines.embedded.task import Task
from medical_image_processing.errors import AlgorithmFailed, InvalidRequest
from medical_image_processing.model.algorithm import AlgorithmSpec, OutputKind
from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.segments import read_segments

MASK = np.array([[0, 1, 2], [2, 0, 5]], np.uint8)
LIVER = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}


def segments_of(labels: Any = None, mask: Any = MASK, **meta: Any) -> Segments:
    return read_segments({"mask": mask, "labels": labels, "meta": meta}, mask, algo_id="acts")


def names(segments: Segments) -> list[str]:
    return [segment.label for segment in segments.described]


@pytest.mark.parametrize("labels", [None, "anything", {"1": "liver"}, ["liver"], np.array([0.5])])
def test_a_mask_is_one_segment_unless_several_are_named(labels: Any) -> None:
    found = segments_of(labels)
    np.testing.assert_array_equal(found.numbers, MASK != 0)
    assert names(found) == ["liver" if isinstance(labels, dict) else "acts"]
    assert (found.described[0].category, found.described[0].type) == (TISSUE, TISSUE)


def test_names_for_values_make_segments_numbered_without_gaps() -> None:
    found = segments_of({"1": "liver", 2: "spleen", "9": "kidney", "x": "no value"})
    assert names(found) == ["liver", "spleen", "acts 5", "kidney"]
    np.testing.assert_array_equal(found.numbers, [[0, 1, 2], [2, 0, 3]])


def test_a_label_map_makes_a_segment_of_each_value() -> None:
    found = segments_of(np.array([[0, 300, 7], [7, 0, 0]]), segments=[{"label": "seventh", "value": 7}])
    assert names(found) == ["seventh", "acts 300"]
    np.testing.assert_array_equal(found.numbers, [[0, 2, 1], [1, 0, 0]])


def test_codes_come_from_the_results_meta() -> None:
    found = segments_of(
        segments=[
            {"label": "liver", "category": ["123037004", "SCT", "Anatomical Structure"], "type": LIVER},
            {"label": "lesion", "type": ["52988006", "SCT", "Lesion"]},
        ],
        algorithm_family=["123104", "DCM", "Morphological Operations"],
    )
    assert found.described[0] == Segment(
        "liver", Code("123037004", "SCT", "Anatomical Structure"), Code("10200004", "SCT", "Liver")
    )
    assert found.described[1] == Segment("lesion", TISSUE, Code("52988006", "SCT", "Lesion"))
    assert found.family.meaning == "Morphological Operations"
    assert segments_of().family == ARTIFICIAL_INTELLIGENCE


def test_labels_are_made_such_that_any_character_set_holds_them() -> None:
    assert names(segments_of({"1": "Leber\\groß\n" + "x" * 80})) == [("Leber/gro?" + "x" * 80)[:64]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"segments": "liver"},
        {"segments": [{"label": "a", "value": 0}]},
        {"segments": [{"label": "a", "value": 1}, {"label": "b", "value": 1}]},
        {"segments": [{"label": "a", "type": "Liver"}]},
        {"segments": [{"label": "a", "type": ["1" * 17, "SCT", "Liver"]}]},
        {"segments": [{"label": "a", "type": ["1", "SCT", "L\u00e9ber"]}]},
        {"labels": np.array([[1]])},
        {"labels": np.array([[0, -1, 2], [2, 0, 5]])},
        {"labels": np.arange(600).reshape(2, 300), "mask": np.ones((2, 300), np.uint8)},
        {"algorithm_family": 3},
    ],
)
def test_what_can_not_be_used_is_stated(wrong: dict[str, Any]) -> None:
    with pytest.raises(AlgorithmFailed) as raised:
        segments_of(**wrong)
    assert raised.value.code == "INVALID_RESULT"


def test_a_worker_is_told_what_its_record_asks_for() -> None:
    spec = AlgorithmSpec(
        algo_id="acts",
        image_uri="i",
        cpu=1024,
        memory=2048,
        command=("c",),
        outputs=("SEG", "SC"),
        env={"MIP_OUTPUTS": "SR"},
    )
    env = Task.of(spec, revision=1, runtime="process", image_digest=None).environment({})
    assert WorkerConfig.from_env(ENV | env).outputs == (OutputKind.SEG, OutputKind.SC)
    assert WorkerConfig.from_env(ENV).outputs == (OutputKind.SC,)
    with pytest.raises(InvalidRequest, match="MIP_OUTPUTS"):
        WorkerConfig.from_env({**ENV, "MIP_OUTPUTS": "SC,PNG"})


def test_a_task_that_was_kept_before_there_were_outputs_makes_secondary_captures() -> None:
    row = {
        "name": "mip-acts:1",
        "algo_id": "acts",
        "fingerprint": "f",
        "runtime": "process",
        "image_uri": "i",
        "image_digest": None,
        "command": ["c"],
        "env": {},
        "cpu": 1024,
        "memory": 2048,
        "revision": 1,
    }
    assert Task.of_row(row).environment({})["MIP_OUTPUTS"] == "SC"
    assert Task.of_row({**row, "outputs": ["SEG"]}).outputs == ("SEG",)


@pytest.mark.parametrize("outputs", [("SC", "SC"), ("SR",), ("SC", "SR"), (), ("PNG",)])
def test_outputs_that_make_no_sense_are_refused(outputs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="outputs"):
        AlgorithmSpec(algo_id="acts", image_uri="i", cpu=1024, memory=2048, command=("c",), outputs=outputs)


def test_the_first_output_has_the_key_of_a_lone_one() -> None:
    where = ("acts", "1.2", "1.2.3", "a.dcm", "job")
    assert naming.output_key(*where) == "acts/1.2/1.2.3/a_job.dcm"
    assert naming.output_key(*where, kind="SEG") == "acts/1.2/1.2.3/a_job~seg.dcm"
    assert naming.output_key("acts", "1.2", None, None, "job", kind="SR") == "acts/1.2/job~sr.dcm"


def test_no_job_id_makes_the_key_of_another_jobs_output() -> None:
    where = ("acts", "1.2", "1.2.3", None)
    assert naming.output_key(*where, "job", kind="SEG") != naming.output_key(*where, "job_seg")
    marked = naming.output_key(*where, "job", kind="SEG").removeprefix("acts/1.2/1.2.3/").removesuffix(".dcm")
    assert re.fullmatch(naming.NAME_PATTERN, marked) is None, "a job could be called so"
