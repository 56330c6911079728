"""Who changed what (law A4), in a table that only grows. Who read what is there, too: ``access_record.py``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medical_image_processing.engines.aws.tables import Item, Table
from medical_image_processing.model.timestamps import to_iso


@dataclass(frozen=True)
class AuditEntry:
    """One line of the audit. ``at`` is ISO 8601, UTC."""

    at: str
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]


class DynamoAudit:
    """Entries by subject, oldest first."""

    def __init__(self, table: Table, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock

    def action(self, actor: str, action: str, subject: str, details: Mapping[str, Any]) -> Item:
        """One entry as a part of a transaction that it tells about."""
        return self._table.put_action(self._entry(actor, action, subject, details))

    async def entries(self, subject: str) -> list[AuditEntry]:
        """What is on record for an algorithm, a key's name, a job or a study."""
        items = await self._table.query("#subject = :subject", {"subject": subject})
        return [
            AuditEntry(
                at=item["at"].partition("#")[0],
                actor=item["actor"],
                action=item["action"],
                subject=item["subject"],
                details=json.loads(item["details"]),
            )
            for item in items
        ]

    def _entry(self, actor: str, action: str, subject: str, details: Mapping[str, Any]) -> Item:
        return {
            "subject": subject,
            "at": f"{to_iso(self._clock())}#{secrets.token_hex(8)}",
            "actor": actor,
            "action": action,
            "details": json.dumps(details),
        }
