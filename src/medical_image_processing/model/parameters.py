"""What an algorithm's record says of the parameters that its jobs may have: a part of JSON Schema (draft 2020-12).

An object of named values, each a string, number, integer or boolean, with a title, a default, bounds or the values
it may have. What a schema doesn't name is free, unless it says ``"additionalProperties": false``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

MAX_PARAMETERS = 64
MAX_SCHEMA_BYTES = 16_384

_Text = Annotated[str, StringConstraints(max_length=500)]
_Value = Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True)] | float | _Text
_ParameterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
_Bound = Annotated[float, Field(allow_inf_nan=False)]


class _Parameter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["string", "number", "integer", "boolean"]
    title: _Text | None = None
    description: _Text | None = None
    default: _Value | None = None
    enum: Annotated[list[_Value], Field(min_length=1, max_length=100)] | None = None
    minimum: _Bound | None = None
    maximum: _Bound | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        bounds = {name: getattr(self, name) for name in ("minimum", "maximum") if getattr(self, name) is not None}
        if bounds and self.type not in ("number", "integer"):
            raise ValueError(f"a {self.type} has no minimum and no maximum")
        if len(bounds) == 2 and bounds["minimum"] > bounds["maximum"]:
            raise ValueError("minimum is over maximum")
        said = self.model_dump(exclude_none=True)
        for value in self.enum or ():
            if problem := _problem({**said, "enum": None}, value):
                raise ValueError(f"a value of enum {problem}")
        if self.default is not None and (problem := _problem(said, self.default)):
            raise ValueError(f"default {problem}")
        return self


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["object"]
    properties: Annotated[dict[_ParameterName, _Parameter], Field(max_length=MAX_PARAMETERS)] = {}
    required: Annotated[list[_ParameterName], Field(max_length=MAX_PARAMETERS)] | None = None
    additionalProperties: bool | None = None

    @model_validator(mode="after")
    def _names_what_it_needs(self) -> Self:
        if unknown := set(self.required or ()) - set(self.properties):
            raise ValueError(f"required names {len(unknown)} that properties don't have")
        return self


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as it is kept: what stands in it, and nothing else."""
    kept = _Schema.model_validate(schema).model_dump(exclude_none=True)
    if len(json.dumps(kept)) > MAX_SCHEMA_BYTES:
        raise ValueError(f"parameters are at most {MAX_SCHEMA_BYTES} bytes of JSON")
    return kept


_DESCRIBED = {
    "title": "ParametersSchema",
    "description": "A part of JSON Schema: what a job's parameters may be.",
    "type": "object",
    "required": ["type", "properties"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "object", "type": "string"},
        "properties": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["type"],
                "additionalProperties": False,
                "properties": {
                    "type": {"enum": ["string", "number", "integer", "boolean"], "type": "string"},
                    "title": {"type": "string"},
                    "description": {"type": "string"},
                    "default": {"type": ["string", "number", "boolean"]},
                    "enum": {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
                    "minimum": {"type": "number"},
                    "maximum": {"type": "number"},
                },
            },
        },
        "required": {"type": "array", "items": {"type": "string"}},
        "additionalProperties": {"type": "boolean"},
    },
}
ParametersSchema = Annotated[dict[str, Any], AfterValidator(_checked), WithJsonSchema(_DESCRIBED)]
"""A record's ``parameters``."""


def find_problems(schema: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameter → what is wrong with it. No value is repeated: it may be anything (law A3)."""
    known: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    problems = {name: "is missing" for name in schema.get("required", ()) if name not in parameters}
    for name, value in parameters.items():
        if name in known:
            if problem := _problem(known[name], value):
                problems[name] = problem
        elif schema.get("additionalProperties") is False:
            problems[name] = "is none of this algorithm's parameters"
    return problems


def _problem(parameter: Mapping[str, Any], value: Any) -> str | None:
    """What is wrong with a value, None if nothing is."""
    kind = parameter["type"]
    if not _is_of(kind, value):
        return f"must be {'an' if kind == 'integer' else 'a'} {kind}"
    allowed = parameter.get("enum")
    # True is 1 in Python, and not in JSON.
    if allowed is not None and not any(
        one == value and isinstance(one, bool) == isinstance(value, bool) for one in allowed
    ):
        return f"must be one of {json.dumps(allowed)}"
    least, most = parameter.get("minimum"), parameter.get("maximum")
    if least is not None and value < least:
        return f"must be at least {least:g}"
    if most is not None and value > most:
        return f"must be at most {most:g}"
    return None


def _is_of(kind: str, value: Any) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return not isinstance(value, bool) and (
                isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            )
        case _:
            return not isinstance(value, bool) and (
                isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
            )
