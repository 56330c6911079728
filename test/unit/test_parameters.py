"""Parameters of jobs, as records say what they may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medical_image_processing.model.algorithm import AlgorithmPatch
from medical_image_processing.model.parameters import MAX_PARAMETERS, ParametersSchema, find_problems
from medical_image_processing.testing.registry_contract import a_spec

CHECK: TypeAdapter[dict[str, Any]] = TypeAdapter(ParametersSchema)
SCHEMA = {
    "type": "object",
    "properties": {
        "above": {"type": "number", "title": "Threshold", "default": 300, "minimum": -1000, "maximum": 3000},
        "rounds": {"type": "integer", "minimum": 1},
        "mode": {"type": "string", "enum": ["fast", "good"], "default": "fast"},
        "fill": {"type": "boolean", "default": False},
        "level": {"type": "integer", "enum": [0, 1]},
    },
    "required": ["rounds"],
    "additionalProperties": False,
}
GOOD = {"above": 1.5, "rounds": 2, "mode": "good", "fill": True, "level": 1}


def test_a_schema_is_kept_as_it_was_given() -> None:
    assert CHECK.validate_python(SCHEMA) == SCHEMA
    assert a_spec(parameters=SCHEMA, description="Marks bone").parameters == SCHEMA
    plain = {"type": "object", "properties": {}}
    assert AlgorithmPatch(parameters=plain).apply_to(a_spec(parameters=SCHEMA)).parameters == plain


@pytest.mark.parametrize(
    "change",
    [
        {"type": "array"},
        {"properties": {"x": {"type": "object"}}},
        {"properties": {"x": {"type": "number", "pattern": "a"}}},
        {"properties": {"x": {"type": "string", "minimum": 1}}},
        {"properties": {"x": {"type": "number", "minimum": 2, "maximum": 1}}},
        {"properties": {"x": {"type": "number", "minimum": float("nan")}}},
        {"properties": {"x": {"type": "integer", "default": 1.5}}},
        {"properties": {"x": {"type": "number", "default": 5, "maximum": 1}}},
        {"properties": {"x": {"type": "string", "enum": ["a", 1]}}},
        {"properties": {"x": {"type": "string", "enum": []}}},
        {"properties": {"a b": {"type": "string"}}},
        {"properties": {"x": {"type": "string", "title": "t" * 501}}},
        {"properties": {f"x{number}": {"type": "string"} for number in range(MAX_PARAMETERS + 1)}},
        {"properties": {f"x{number}": {"type": "string", "title": "t" * 500} for number in range(MAX_PARAMETERS)}},
        {"required": ["nobody"]},
        {"$ref": "https://elsewhere.example"},
    ],
    ids=lambda change: str(change)[:60],
)
def test_a_schema_that_no_form_could_be_made_of_is_refused(change: dict[str, Any]) -> None:
    plain = {"type": "object", "properties": {"x": {"type": "string"}}}
    with pytest.raises(ValidationError):
        CHECK.validate_python({**plain, **change})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"above": "high"}, "above"),
        ({"above": True}, "above"),
        ({"above": 3001}, "above"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 1.5}, "rounds"),
        ({"mode": "best"}, "mode"),
        ({"fill": 1}, "fill"),
        ({"level": True}, "level"),
        ({"abvoe": 1}, "abvoe"),
    ],
)
def test_what_is_wrong_is_named_and_never_repeated(change: dict[str, Any], field: str) -> None:
    assert find_problems(SCHEMA, GOOD) == {}
    problems = find_problems(SCHEMA, {**GOOD, **change})
    assert list(problems) == [field]
    assert "high" not in problems[field] and "best" not in problems[field]


def test_what_is_required_is_missed_and_what_is_not_named_is_free_unless_said() -> None:
    assert find_problems(SCHEMA, {}) == {"rounds": "is missing"}
    free = {"type": "object", "properties": {}}
    assert find_problems(free, {"anything": [1, {"at": "all"}]}) == {}
    assert find_problems(SCHEMA, {"rounds": 2.0}) == {}, "to JSON Schema 2.0 is an integer"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), JSON, max_size=6))
def test_whatever_comes_is_answered(parameters: dict[str, Any]) -> None:
    assert set(find_problems(SCHEMA, parameters)) <= {*parameters, "rounds"}
