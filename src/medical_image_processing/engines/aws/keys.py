"""The callers' keys in DynamoDB: ports.keys.

Two kinds of items: ``key#DIGEST`` is a holder, and ``name#NAME`` says which digest a name has, so that no name
has two. What else the table holds is in ``pacs_keys.py`` and ``senders.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medical_image_processing.engines.aws.audit import DynamoAudit
from medical_image_processing.engines.aws.clients import Refused
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import Conflict, NotFound, Unavailable
from medical_image_processing.ports.keys import KeyHolder, KeyRole

_TRIES = 5
_FREE = "attribute_not_exists(#pk)"


class DynamoKeys:
    """Implements :class:`ports.keys.Keys`."""

    def __init__(self, table: Table, audit: DynamoAudit, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._audit = audit
        self._clock = clock

    async def find(self, digest: str) -> KeyHolder | None:
        """Whose key this is. A look-up by digest gives nothing away through its timing."""
        item = await self._table.get(_key(digest))
        return _holder(item) if item else None

    async def add(
        self,
        digest: str,
        *,
        name: str,
        role: KeyRole,
        client_ids: Sequence[str],
        actor: str,
        granted: Sequence[str] = (),
    ) -> KeyHolder:
        """Conflict ``KEY_NAME_TAKEN`` when the name has a key. ``granted`` are an earlier key's, to be kept."""
        item: Item = {
            **_key(digest),
            "name": name,
            "role": role.value,
            "client_ids": list(client_ids),
            "granted": list(granted),
            "created_at": self._clock(),
        }
        details = {"role": role.value, "client_ids": list(client_ids)}
        try:
            await self._table.transact(
                [
                    self._table.put_action(item, condition=_FREE),
                    self._table.put_action({**_name(name), "digest": digest}, condition=_FREE),
                    self._audit.action(actor, "add key", name, details),
                ]
            )
        except ConditionFailed as error:
            raise Conflict("KEY_NAME_TAKEN", f"there is a key named '{name}'; remove it first") from error
        return _holder(item)

    async def grant_client_id(self, name: str, client_id: str) -> None:
        """Let the holder use one more client_id."""
        try:
            await self._table.update(
                _key(await self._digest(name)),
                "SET #granted = list_append(#granted, :more)",
                condition="attribute_exists(#pk) AND NOT contains(#granted, :one)",
                values={"more": [client_id], "one": client_id},
            )
        except ConditionFailed as error:
            if error.item is None:
                raise _unknown(name) from error
        except Refused as error:
            if error.aws_code != "ValidationException":
                raise
            raise Conflict(
                "TOO_MANY_CLIENT_IDS", f"the key '{name}' can hold no more client_ids; make another key"
            ) from error

    async def holders(self) -> list[KeyHolder]:
        """All holders, by name."""
        items = await self._table.scan(where="begins_with(#pk, :kind)", values={"kind": "key#"})
        return sorted(map(_holder, items), key=lambda holder: holder.name)

    async def remove(self, name: str, *, actor: str) -> None:
        """NotFound ``UNKNOWN_KEY``."""
        for _ in range(_TRIES):
            digest = await self._digest(name)
            same: Item = {"condition": "#digest = :digest", "values": {"digest": digest}}
            try:
                await self._table.transact(
                    [
                        self._table.delete_action(_name(name), **same),
                        self._table.delete_action(_key(digest)),
                        self._audit.action(actor, "remove key", name, {}),
                    ]
                )
            except ConditionFailed:
                continue  # it was removed, and maybe made again, meanwhile
            return
        raise Unavailable("KEY_BUSY", f"the key '{name}' is being changed by others all the time; try again")

    async def _digest(self, name: str) -> str:
        item = await self._table.get(_name(name))
        if item is None:
            raise _unknown(name)
        return str(item["digest"])


def _key(digest: str) -> Item:
    return {"pk": f"key#{digest}"}


def _name(name: str) -> Item:
    return {"pk": f"name#{name}"}


def _unknown(name: str) -> NotFound:
    return NotFound("UNKNOWN_KEY", f"there is no key named '{name}'")


def _holder(item: Item) -> KeyHolder:
    together = tuple(dict.fromkeys([*item["client_ids"], *item["granted"]]))
    granted = tuple(item["granted"])
    return KeyHolder(item["name"], KeyRole(item["role"]), together, item["created_at"], granted)
