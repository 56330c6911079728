"""The values that cross a boundary: what they accept, what they refuse, when two are the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medical_image_processing import naming
from medical_image_processing.model.algorithm import Algorithm, AlgorithmPatch, AlgorithmSpec, AlgorithmStatus
from medical_image_processing.model.job import PacsRef, ProcessRequest, ReportedStatus, ResultMessage

SEED_BODY = {
    "algo_id": "grayscale_cpp",
    "image_uri": "123456789.dkr.ecr.us-east-1.amazonaws.com/mip-algos:grayscale",
    "cpu": 2048,
    "memory": 4096,
    "command": ["/app/adapter.py"],
    "env": {"OMP_NUM_THREADS": "4"},
}
PACS = {"study_id": "study-1", "series_id": "series-1", "image_id": "image-1", "scope": "image"}


def spec(**changes: Any) -> AlgorithmSpec:
    return AlgorithmSpec.model_validate({**SEED_BODY, **changes})


@pytest.mark.parametrize(
    ("changes", "bounds", "is_scaled"),
    [
        ({}, (1, 1), False),
        ({"desired_count": 3}, (3, 3), False),
        ({"min_count": 0}, (0, 1), True),
        ({"max_count": 4}, (1, 4), True),
        ({"desired_count": 2, "min_count": 0, "max_count": 9}, (0, 9), True),
        ({"desired_count": 0, "min_count": 1, "max_count": 4}, (1, 4), False),
    ],
)
def test_the_bounds_of_the_number_of_workers(
    changes: dict[str, int], bounds: tuple[int, int], is_scaled: bool
) -> None:
    made = spec(**changes)
    assert ((made.least_workers, made.most_workers), made.is_scaled) == (bounds, is_scaled)


def test_the_seeds_body_is_accepted_under_both_names_of_the_id() -> None:
    body = {"algorithm_id" if name == "algo_id" else name: value for name, value in SEED_BODY.items()}
    assert AlgorithmSpec.model_validate(body) == spec()
    assert spec().desired_count == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"algo_id": "Liver"},
        {"algo_id": "1liver"},
        {"algo_id": "liver\n"},
        {"algo_id": "a" * 49},
        {"algo_id": "../liver"},
        {"cpu": 1000},
        {"cpu": 256, "memory": 4096},
        {"cpu": "2048"},
        {"cpu": True},
        {"command": []},
        {"command": ["/app/x\0"]},
        {"command": "/app/worker.sh"},
        {"image_uri": ""},
        {"image_uri": "has a space"},
        {"desired_count": -1},
        {"desired_count": 1.5},
        {"min_count": 2},
        {"min_count": 0, "max_count": 0},
        {"desired_count": 3, "max_count": 2},
        {"min_count": -1},
        {"max_count": 1001},
        {"env": {"QUEUE_URL": "http://elsewhere"}},
        {"env": {"AWS_SECRET_ACCESS_KEY": "x"}},
        {"env": {"1X": "x"}},
        {"env": {"X": "\0"}},
        {"env": {f"X{number}": "x" for number in range(33)}},
        {"env": {"X": 1}},
        {"surprise": 1},
        {"description": "x" * 501},
        {"description": "\x1b[31m"},
        {"parameters": {"type": "object", "properties": {"x": {"type": "file"}}}},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


def test_workers_are_replaced_for_what_they_are_started_from_and_for_nothing_else() -> None:
    same = spec().task_fingerprint()
    parameters = {"type": "object", "properties": {"above": {"type": "number"}}}
    for change in (
        {"desired_count": 5},
        {"legacy_output_keys": True},
        {"description": "Marks bone", "parameters": parameters},
    ):
        assert spec(**change).task_fingerprint() == same
    for change in (
        {"image_uri": "other:1"},
        {"memory": 8192},
        {"command": ["/app/worker.sh", "-v"]},
        {"env": {"OMP_NUM_THREADS": "8"}},
    ):
        assert spec(**change).task_fingerprint() != same
    record = Algorithm(
        **spec().model_dump(), status=AlgorithmStatus.FAILED, revision=7, created_at="t", updated_at="u"
    )
    assert record.task_fingerprint() == same
    assert record.spec() == spec()


def test_a_patch_is_checked_together_with_what_it_leaves() -> None:
    assert AlgorithmPatch(cpu=1024).apply_to(spec()).cpu == 1024
    assert AlgorithmPatch(env={}).apply_to(spec()).env == {}
    with pytest.raises(ValidationError):
        AlgorithmPatch(cpu=256).apply_to(spec())  # 4096 MiB don't go with it
    with pytest.raises(ValidationError):
        AlgorithmPatch.model_validate({"algorithm_id": "other"})


SEGMENT = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True).filter(lambda text: text not in (".", ".."))


@given(st.lists(SEGMENT, min_size=1, max_size=5))
def test_a_pacs_id_is_segments_between_slashes(segments: list[str]) -> None:
    study = "/".join(segments)
    assert PacsRef.model_validate({"study_id": study, "scope": "study"}).study_id == study


@given(st.lists(SEGMENT, max_size=3), st.sampled_from(["", ".", ".."]), st.lists(SEGMENT, max_size=3))
def test_a_pacs_id_never_has_a_segment_that_leads_elsewhere(before: list[str], bad: str, after: list[str]) -> None:
    with pytest.raises(ValidationError):
        PacsRef.model_validate({"study_id": "/".join([*before, bad, *after]), "scope": "study"})


@given(st.text(max_size=40))
def test_any_text_that_is_a_pacs_id_stays_inside_its_prefix(text: str) -> None:
    try:
        ref = PacsRef.model_validate({**PACS, "study_id": text})
    except ValidationError:
        return
    key = naming.output_key("liver", ref.study_id, ref.series_id, ref.image_id, "job-1")
    assert naming.is_output_key("liver", key, legacy=False)
    assert ".." not in key.split("/") and "" not in key.split("/")


@pytest.mark.parametrize("missing", ["series_id", "image_id"])
def test_scope_image_needs_series_and_image(missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        PacsRef.model_validate({name: value for name, value in PACS.items() if name != missing})


def test_the_same_job_is_one_with_the_same_body_for_the_same_algorithm() -> None:
    def fingerprint(algo_id: str = "liver", **changes: Any) -> str:
        body = {"job_id": "test-123", "client_id": "client-456", "pacs": PACS, **changes}
        return ProcessRequest.model_validate(body).fingerprint(algo_id)

    assert fingerprint() == fingerprint(job_id="another", parameters={})
    assert fingerprint(parameters={"a": 1, "b": 2}) == fingerprint(parameters={"b": 2, "a": 1})
    different = [
        fingerprint("kidney"),
        fingerprint(client_id="other"),
        fingerprint(parameters={"a": 1}),
        fingerprint(pacs={**PACS, "image_id": "image-2"}),
    ]
    assert len({fingerprint(), *different}) == 5


@pytest.mark.parametrize(
    "parameters",
    [{"x": float("nan")}, {"x": float("inf")}, {"x": "\ud800"}, {"x": "x" * 70_000}, {"\udfff": 1}],
    ids=["nan", "inf", "surrogate", "large", "surrogate name"],
)
def test_parameters_are_bounded_plain_json(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProcessRequest.model_validate({"pacs": PACS, "parameters": parameters})


def test_an_earlier_containers_result_means_succeeded() -> None:
    body = {
        "job_id": "test-123",
        "algo_id": "processing_1",
        "client_id": "client-456",
        "dicom": {"bucket": "mip-output", "key": "study-1/series-1/image-1_processing_1.dcm", "url": "https://x"},
    }
    message = ResultMessage.model_validate(body)
    assert message.status is ReportedStatus.SUCCEEDED
    with pytest.raises(ValidationError):
        ResultMessage.model_validate({name: value for name, value in body.items() if name != "dicom"})
    assert ResultMessage.model_validate({**body, "status": "FAILED", "dicom": None}).error is None


@pytest.mark.parametrize(
    ("image_id", "key"),
    [
        ("image-1.dcm", "liver/study-1/series-1/image-1_job-1.dcm"),
        (None, "liver/study-1/series-1/job-1.dcm"),
    ],
)
def test_an_output_key_is_below_the_algorithms_prefix(image_id: str | None, key: str) -> None:
    assert naming.output_key("liver", "study-1", "series-1", image_id, "job-1") == key


def test_earlier_containers_keys_are_allowed_only_by_the_record() -> None:
    key = "study-1/series-1/image-1_liver.dcm"
    assert naming.is_output_key("liver", key, legacy=True)
    assert not naming.is_output_key("liver", key, legacy=False)
    assert not naming.is_output_key("kidney", key, legacy=True)
    assert not naming.is_output_key("liver", "liver2/x.dcm", legacy=False)


@pytest.mark.parametrize("text", ["liver\n", "Liver", "", "li ver", "a" * 49, "results", "liver-dlq"])
def test_what_is_no_algorithm_id(text: str) -> None:
    assert not naming.is_algo_id(text)
