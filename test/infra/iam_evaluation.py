"""IAM's decision on the statements of a template: a deny wins, then an allow, else no (IAM user guide, "Policy
evaluation logic"). For what no emulator decides: conditions, IAM's own calls, ECS's."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

from infra_template import Statement, text_of

ACCOUNT, REGION = "111122223333", "eu-central-1"
_PSEUDO = {"Partition": "aws", "Region": REGION, "AccountId": ACCOUNT}
_PATTERNS = {"StringEquals": False, "StringLike": True, "ArnEquals": True, "ArnLike": True}
"""Operator → whether ``*`` stands for anything in it."""


def is_allowed(
    statements: Iterable[Statement], action: str, resource: str, context: Mapping[str, str] | None = None
) -> bool:
    """Whether one identity's statements allow the call."""
    fitting = [s for s in statements if _fits(s, action, resource, context or {})]
    return bool(fitting) and all(s.allows for s in fitting)


def resolved(value: object) -> str:
    """Text of a template, in a certain account and region. What else it refers to stays as ``${…}``."""
    text = text_of(value)
    for name, meaning in _PSEUDO.items():
        text = text.replace(f"${{AWS::{name}}}", meaning)
    return text


def _fits(statement: Statement, action: str, resource: str, context: Mapping[str, str]) -> bool:
    return (
        any(_like(action.lower(), pattern.lower()) for pattern in statement.actions)
        and any(_like(resource, resolved(pattern)) for pattern in statement.resources)
        and all(
            _holds(operator, key, wanted, context)
            for operator, keys in statement.condition.items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, key: str, wanted: object, context: Mapping[str, str]) -> bool:
    patterns = [resolved(one) for one in (wanted if isinstance(wanted, list) else [wanted])]
    given = context.get(key)
    if given is None:
        return False
    return any(_like(given, one) if _PATTERNS[operator] else given == one for one in patterns)


def _like(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))
