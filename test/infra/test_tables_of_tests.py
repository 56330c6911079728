"""The engine's contract runs on tables made by hand; they are those of the template."""

from __future__ import annotations

from typing import Any

from infra_template import Template

import aws_tables


def shape(table: dict[str, Any]) -> tuple[object, ...]:
    """Keys and indexes, in no order."""
    indexes = {
        index["IndexName"]: (index["KeySchema"], index["Projection"])
        for index in table.get("GlobalSecondaryIndexes", [])
    }
    attributes = {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}
    return table["KeySchema"], sorted(indexes.items()), sorted(attributes.items()), table["BillingMode"]


def test_the_tables_of_the_contract_tests_are_those_that_are_deployed(real: Template) -> None:
    deployed = [shape(table) for table in real.of_type("DynamoDB::Table").values()]
    assert sorted(deployed, key=repr) == sorted(map(shape, aws_tables.definitions()), key=repr)
