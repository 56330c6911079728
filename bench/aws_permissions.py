"""Makes the tables of docs/permissions.md: what each role of the synthesized template may do, on what, and why.

``python infra/run.py synth``, then ``bench/aws_permissions.py infra/cdk.out/ImgPipeline.template.json --write``.
A statement's id in the template is its reason, so that no permission is without one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from page_tables import PAGES, markdown_table, replace_part

_HASH = re.compile(r"[0-9A-F]{8}$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*")

Template = Mapping[str, Any]


def tables(template: Template) -> str:
    """A heading and a table for each role, and for the boundary of the roles that the provisioner makes."""
    resources: Mapping[str, Any] = template["Resources"]
    parts = []
    for name, role in sorted(resources.items()):
        if role["Type"] != "AWS::IAM::Role":
            continue
        statements = list(_of_role(name, resources))
        if statements:
            heading = role["Properties"].get("Description") or short(name)
            parts.append(f"### {short(name)}\n{heading}.\n\n{_table(statements)}")
    for name, policy in sorted(resources.items()):
        if policy["Type"] == "AWS::IAM::ManagedPolicy":
            said = policy["Properties"]["Description"]
            parts.append(
                f"### {short(name)}\n{said}.\n\n{_table(policy['Properties']['PolicyDocument']['Statement'])}"
            )
    return "\n\n".join(parts)


def _of_role(name: str, resources: Mapping[str, Any]) -> Iterator[Template]:
    for inline in resources[name]["Properties"].get("Policies", ()):
        yield from inline["PolicyDocument"]["Statement"]
    for other in resources.values():
        if other["Type"] == "AWS::IAM::Policy" and {"Ref": name} in other["Properties"].get("Roles", ()):
            yield from other["Properties"]["PolicyDocument"]["Statement"]


def _table(statements: list[Template]) -> str:
    rows = []
    for each in statements:
        deny = "**never:** " if each["Effect"] == "Deny" else ""
        unless = f" where {_conditions(each['Condition'])}" if "Condition" in each else ""
        actions = ", ".join(_several(each["Action"]))
        on = ", ".join(f"`{arn(one)}`" for one in _several(each["Resource"]))
        rows.append([words(each.get("Sid", "")), deny + actions, on + unless])
    return markdown_table(["why", "may", "on"], rows)


def arn(value: Any) -> str:
    """A resource as one reads it: without partition, region and account, parts of the stack in braces."""
    text = _text(value)
    return re.sub(r"^arn:\{Partition\}:([a-z0-9-]+):(\{Region\}|\*)?:(\{AccountId\}|\*)?:", r"\1:", text)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if "Ref" in value:
        return f"{{{short(value['Ref'].removeprefix('AWS::'))}}}"
    if "Fn::GetAtt" in value:
        return f"{{{short(value['Fn::GetAtt'][0])}}}"
    if "Fn::Join" in value:
        glue, parts = value["Fn::Join"]
        return str(glue).join(_text(part) for part in parts)
    return json.dumps(value)


def _conditions(condition: Mapping[str, Mapping[str, Any]]) -> str:
    said = [
        f"`{key}` {words(test).lower()} {', '.join(f'`{arn(one)}`' for one in _several(wanted))}"
        for test, keys in condition.items()
        for key, wanted in keys.items()
    ]
    return " and ".join(said)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def words(sid: str) -> str:
    """``KnowKeys`` as ``know keys``."""
    return " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in _WORD.findall(sid))


def short(logical_id: str) -> str:
    """A logical id without the CDK's hash."""
    return _HASH.sub("", logical_id)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("template", type=Path)
    parser.add_argument("--write", action="store_true", help="into docs/permissions.md")
    given = parser.parse_args()
    text = tables(json.loads(given.template.read_text()))
    if given.write:
        replace_part(PAGES / "permissions.md", "roles", text)
    print(text)


if __name__ == "__main__":
    main()
