"""The tables of the AWS engine as the stack makes them, made by hand in a test's own account."""

from __future__ import annotations

from typing import Any

from aws_emulator import AwsEmulator
from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.tables import Table

ALGORITHMS, AUDIT, JOBS, CONNECTIONS, KEYS = (
    "mip-algorithms",
    "mip-audit",
    "mip-jobs",
    "mip-connections",
    "mip-keys",
)


def definitions() -> list[dict[str, Any]]:
    """What CreateTable takes, one a table."""
    return [
        _table(ALGORITHMS, "algorithm_id"),
        _table(AUDIT, "subject", "at"),
        _table(
            JOBS,
            "job_id",
            by_client=("client_id", "seq"),
            by_algorithm=("algo_id", "seq"),
            by_day=("day", "seq"),
            open=("open_algo", "seq"),
            unseen=("unseen_client", "finish_seq"),
            unsent=("unsent", "unsent_since"),
            to_store=("to_store", "store_at"),
        ),
        _table(CONNECTIONS, "client_id", "connection_id"),
        _table(KEYS, "pk"),
    ]


def create_tables(account: AwsEmulator, clients: AwsClients | None = None) -> None:
    """All of them, empty. ``clients`` of the account, if there are any yet: to make one takes longer than this."""
    client = (clients or account.clients()).client("dynamodb")
    for definition in definitions():
        client.boto.create_table(**definition)


def table(clients: AwsClients, name: str) -> Table:
    """One of them as the engine sees it."""
    return Table(clients.client("dynamodb"), name)


def _table(name: str, *keys: str, **indexes: tuple[str, str]) -> dict[str, Any]:
    attributes = sorted({*keys, *(key for index in indexes.values() for key in index)})
    made: dict[str, Any] = {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": _schema(keys),
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"} for key in attributes],
    }
    if indexes:
        made["GlobalSecondaryIndexes"] = [
            {"IndexName": index, "KeySchema": _schema(of), "Projection": {"ProjectionType": "KEYS_ONLY"}}
            for index, of in indexes.items()
        ]
    return made


def _schema(keys: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)]
