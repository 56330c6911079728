"""A CloudFormation template, to be asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Statement:
    """One statement of a policy. ``of`` is the logical id of what it belongs to."""

    of: str
    raw: Json

    @property
    def allows(self) -> bool:
        """Whether it opens something."""
        return bool(self.raw["Effect"] == "Allow")

    @property
    def actions(self) -> list[str]:
        """Its actions."""
        return _list(self.raw.get("Action", []))

    @property
    def resources(self) -> list[str]:
        """Its resources, as text in which ``${X}`` stands for what only a deployment knows."""
        return [text_of(resource) for resource in _list(self.raw.get("Resource", []))]

    @property
    def condition(self) -> Json:
        """Its condition."""
        return dict(self.raw.get("Condition", {}))


class Template:
    """Resources by type, and policies by whose they are."""

    def __init__(self, raw: Json) -> None:
        self.raw = raw

    @property
    def outputs(self) -> Json:
        """The outputs."""
        return dict(self.raw["Outputs"])

    def of_type(self, kind: str) -> dict[str, Json]:
        """Properties of all resources of a type, by logical id."""
        return {
            name: found.get("Properties", {})
            for name, found in self.raw["Resources"].items()
            if found["Type"] == f"AWS::{kind}"
        }

    def types(self) -> set[str]:
        """Types of all resources, without ``AWS::``."""
        return {found["Type"].removeprefix("AWS::") for found in self.raw["Resources"].values()}

    def resource(self, logical_id: str) -> Json:
        """A resource with all that stands beside its properties."""
        return dict(self.raw["Resources"][logical_id])

    def function(self, name: str) -> Json:
        """The Lambda of that name in the stack's table."""
        wanted = f"ImgPipeline-{name}Fn"
        return next(
            found for found in self.of_type("Lambda::Function").values() if found["FunctionName"] == wanted
        )

    def role_statements(self, role: str) -> list[Statement]:
        """What the role with that logical id is allowed and denied, by policies that name it."""
        found = []
        for name, policy in self.of_type("IAM::Policy").items():
            if {"Ref": role} in policy["Roles"]:
                found += [Statement(name, raw) for raw in policy["PolicyDocument"]["Statement"]]
        return found

    def lambda_statements(self, name: str) -> list[Statement]:
        """What the Lambda of that name may do."""
        return self.role_statements(self.function(name)["Role"]["Fn::GetAtt"][0])

    def identity_statements(self) -> Iterator[Statement]:
        """All statements of roles' policies and of managed policies."""
        for kind in ("IAM::Policy", "IAM::ManagedPolicy"):
            for name, policy in self.of_type(kind).items():
                yield from (Statement(name, raw) for raw in policy["PolicyDocument"]["Statement"])

    def policies_of(self, kind: str, of: str) -> dict[str, list[Statement]]:
        """Resource policies of a type, by the logical id that the property ``of`` refers to."""
        found: dict[str, list[Statement]] = {}
        for name, policy in self.of_type(kind).items():
            statements = [Statement(name, raw) for raw in policy["PolicyDocument"]["Statement"]]
            for target in _list(policy[of]):
                found.setdefault(str(target.get("Ref", target)), []).extend(statements)
        return found


def text_of(value: Any) -> str:
    """A template's value as one text, in which ``${X}`` stands for what only a deployment knows."""
    if isinstance(value, str):
        return value
    if "Ref" in value:
        return f"${{{value['Ref']}}}"
    if "Fn::GetAtt" in value:
        return f"${{{'.'.join(value['Fn::GetAtt'])}}}"
    if "Fn::Join" in value:
        separator, parts = value["Fn::Join"]
        return str(separator).join(text_of(part) for part in parts)
    return json.dumps(value, sort_keys=True)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
