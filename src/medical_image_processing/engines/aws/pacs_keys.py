"""Each algorithm's key to the PACS API: SSM hands it to the workers, the table of keys has its digest.

The value lies in SSM alone, encrypted. A key is known to the table before any worker can have it. One that was
lost is replaced, and the earlier ones stay good for the workers that still run with them, until the algorithm
goes.
"""

from __future__ import annotations

import contextlib
import secrets

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.errors import Conflict
from medical_image_processing.ports.keys import digest

_GONE = "ParameterNotFound"
_FREE_OR_ITS = "attribute_not_exists(#pk) OR #algo_id = :algo_id"


class PacsKeyTable:
    """The digests. Items: ``pacs-key#DIGEST`` names the algorithm, ``pacs-keys-of#ALGORITHM`` its digests."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def find_pacs_key(self, digest: str) -> str | None:
        """The algorithm whose workers have this key, or None."""
        item = await self._table.get(_key(digest))
        return str(item["algo_id"]) if item else None

    async def let_in(self, digest: str, algo_id: str) -> None:
        """The workers of ``algo_id`` may use this key. Saying so again changes nothing; Conflict for another's."""
        # First who has the key, then the key: what opens something can always be found again.
        more = {"digests": frozenset({digest})}
        await self._table.update(_keys_of(algo_id), "ADD #digests :digests", values=more)
        item = {**_key(digest), "algo_id": algo_id}
        try:
            await self._table.put(item, condition=_FREE_OR_ITS, values={"algo_id": algo_id})
        except ConditionFailed as error:
            raise Conflict(
                "PACS_KEY_TAKEN", "this key for the PACS is another algorithm's; make a new one"
            ) from error

    async def shut_out(self, algo_id: str) -> None:
        """None of its keys opens anything from then on."""
        if (found := await self._table.get(_keys_of(algo_id))) is None:
            return
        for each in found["digests"]:
            with contextlib.suppress(ConditionFailed):  # another's, which this one was refused
                await self._table.delete(_key(each), condition=_FREE_OR_ITS, values={"algo_id": algo_id})
        await self._table.delete(_keys_of(algo_id))


class AlgorithmPacsKeys:
    """Makes and deletes keys."""

    def __init__(self, clients: AwsClients, table: PacsKeyTable) -> None:
        self._ssm = clients.client("ssm")
        self._table = table

    async def exists(self, algo_id: str) -> bool:
        """Whether workers would find a key."""
        try:
            await self._ssm.call("get_parameter", Name=naming.pacs_key_parameter(algo_id))
        except Refused as error:
            if error.aws_code == _GONE:
                return False
            raise
        return True

    async def put(self, algo_id: str) -> None:
        """A key that opens the PACS API, unless there is one."""
        name = naming.pacs_key_parameter(algo_id)
        try:
            answer = await self._ssm.call("get_parameter", Name=name, WithDecryption=True)
        except Refused as error:
            if error.aws_code != _GONE:
                raise
            key = f"mip-pacs-{secrets.token_urlsafe(32)}"
            await self._table.let_in(digest(key), algo_id)
            try:
                await self._ssm.call(
                    "put_parameter",
                    Name=name,
                    Value=key,
                    Type="SecureString",
                    Description=f"The key of {algo_id} to the PACS API; made by the platform",
                    Tags=[{"Key": naming.ALGORITHM_TAG, "Value": algo_id}],
                )
            except Refused as refusal:
                if refusal.aws_code != "ParameterAlreadyExists":
                    raise  # else another made one at the same time, and that one holds
        else:
            await self._table.let_in(digest(answer["Parameter"]["Value"]), algo_id)

    async def delete(self, algo_id: str) -> None:
        """Shut all of its keys out, then forget them."""
        await self._table.shut_out(algo_id)
        try:
            await self._ssm.call("delete_parameter", Name=naming.pacs_key_parameter(algo_id))
        except Refused as error:
            if error.aws_code != _GONE:
                raise


def _key(digest: str) -> Item:
    return {"pk": f"pacs-key#{digest}"}


def _keys_of(algo_id: str) -> Item:
    return {"pk": f"pacs-keys-of#{algo_id}"}
