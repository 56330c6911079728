"""Each algorithm's key to the PACS API: SSM hands it to the workers, the table of keys has its digest.

The value lies in SSM alone, encrypted. A key is known to the table before any worker can have it. One that was
lost is replaced, and the earlier ones stay good for the workers that still run with them, until the algorithm
goes.
"""

from __future__ import annotations

import hashlib
import secrets

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients, Refused

_GONE = "ParameterNotFound"


class AlgorithmPacsKeys:
    """Makes and deletes keys. ``table``: the table of keys, by name."""

    def __init__(self, clients: AwsClients, *, table: str) -> None:
        self._ssm = clients.client("ssm")
        self._table = clients.client("dynamodb")
        self._table_name = table

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
            await self._let_in(algo_id, key)
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
            await self._let_in(algo_id, answer["Parameter"]["Value"])

    async def delete(self, algo_id: str) -> None:
        """Shut all of its keys out, then forget them."""
        key = {"pk": {"S": _of(algo_id)}}
        found = await self._table.call("get_item", TableName=self._table_name, Key=key, ConsistentRead=True)
        for digest in found.get("Item", {}).get("digests", {}).get("SS", ()):
            await self._table.call(
                "delete_item", TableName=self._table_name, Key={"pk": {"S": f"pacs-key#{digest}"}}
            )
        try:
            await self._ssm.call("delete_parameter", Name=naming.pacs_key_parameter(algo_id))
        except Refused as error:
            if error.aws_code != _GONE:
                raise
        await self._table.call("delete_item", TableName=self._table_name, Key=key)

    async def _let_in(self, algo_id: str, key: str) -> None:
        """First who has the key, then the key: what opens something can always be found again."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        await self._table.call(
            "update_item",
            TableName=self._table_name,
            Key={"pk": {"S": _of(algo_id)}},
            UpdateExpression="ADD digests :digest",
            ExpressionAttributeValues={":digest": {"SS": [digest]}},
        )
        item = {"pk": {"S": f"pacs-key#{digest}"}, "algo_id": {"S": algo_id}}
        await self._table.call("put_item", TableName=self._table_name, Item=item)


def _of(algo_id: str) -> str:
    return f"pacs-keys-of#{algo_id}"
