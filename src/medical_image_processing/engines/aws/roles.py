"""The roles of algorithms in IAM, under one path and with the platform's permissions boundary.

The boundary is the ceiling of what any of them may do, whatever its policies say; the platform itself may make
roles only there and only so, and so can't be used to gain rights.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws import policies
from medical_image_processing.engines.aws.clients import AwsClients, Refused
from medical_image_processing.engines.aws.place import Place
from medical_image_processing.engines.aws.senders import TaskRoles
from medical_image_processing.errors import Conflict, Unavailable

POLICY_NAME = "worker"
LEGACY_TAG = "mip:legacy"
_GONE = "NoSuchEntity"
_UNSETTLED = frozenset({_GONE, "ConcurrentModification", "EntityTemporarilyUnmodifiable"})


@dataclass(frozen=True)
class RoleFound:
    """``drifted`` when the role is not exactly what it should be; ``is_legacy`` is then what it was made for."""

    is_legacy: bool
    drifted: bool


class Roles:
    """Makes, looks at and deletes roles. ``task_roles``: where it is kept whose role an id is."""

    def __init__(
        self, clients: AwsClients, place: Place, task_roles: TaskRoles, *, bucket: str, boundary: str
    ) -> None:
        self._iam = clients.client("iam")
        self._task_roles = task_roles
        self._place = place
        self._bucket = bucket
        self._boundary = boundary

    async def observe(self, algo_id: str) -> RoleFound | None:
        """What is there now; None when there is no role."""
        name = naming.role(algo_id)
        try:
            role, inline, attached = await asyncio.gather(
                self._role(name), self._inline(name), self._attached(name)
            )
            document = await self._document(name) if POLICY_NAME in inline else None
        except Refused as error:
            if error.aws_code == _GONE:
                return None
            raise
        if document == self._permissions(algo_id, legacy=True):
            is_legacy, as_made = True, True
        elif document == self._permissions(algo_id, legacy=False):
            is_legacy, as_made = False, True
        else:
            is_legacy, as_made = _tags(role).get(LEGACY_TAG) == "true", False
        is_known = await self._task_roles.algo_of(role["RoleId"]) == algo_id
        as_made = as_made and inline == [POLICY_NAME] and not attached
        return RoleFound(is_legacy, drifted=not (as_made and self._is_framed(role) and is_known))

    async def put(self, algo_id: str, *, legacy_output_keys: bool) -> None:
        """The role as it should be and nothing besides. Its policy comes last: then it is whole.

        Unavailable while IAM, which tells its parts of a change one after the other, does not agree with itself.
        """
        try:
            await self._put(algo_id, legacy_output_keys=legacy_output_keys)
        except Refused as error:
            if error.aws_code not in _UNSETTLED:
                raise
            raise Unavailable(
                "ROLE_NOT_SETTLED",
                f"the role of {algo_id} was just made or changed, and not all of IAM knows yet; it takes seconds",
                retry_after_s=10.0,
            ) from error

    async def _put(self, algo_id: str, *, legacy_output_keys: bool) -> None:
        name = naming.role(algo_id)
        tags = [
            {"Key": naming.ALGORITHM_TAG, "Value": algo_id},
            {"Key": LEGACY_TAG, "Value": str(legacy_output_keys).lower()},
        ]
        role = await self._create(name, algo_id, tags) or await self._mend(name, algo_id, tags)
        await self._task_roles.keep(role["RoleId"], algo_id)
        document = self._permissions(algo_id, legacy=legacy_output_keys)
        await self._iam.call(
            "put_role_policy", RoleName=name, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(document)
        )

    async def delete(self, algo_id: str) -> None:
        """The role; IAM wants its policies gone first, and lets us touch those of roles with our boundary only."""
        name = naming.role(algo_id)
        try:
            role = await self._role(name)
            if role.get("Path") != naming.ROLE_PATH:
                return  # it isn't ours
            await self._bound(role)
            await self._strip(name, keep=())
            await self._iam.call("delete_role", RoleName=name)
        except Refused as error:
            if error.aws_code != _GONE:
                raise

    async def _create(self, name: str, algo_id: str, tags: list[dict[str, str]]) -> dict[str, Any] | None:
        """The new role; None when there is one."""
        try:
            answer = await self._iam.call(
                "create_role",
                RoleName=name,
                Path=naming.ROLE_PATH,
                AssumeRolePolicyDocument=json.dumps(policies.trust(self._place)),
                PermissionsBoundary=self._boundary,
                Description=f"What workers of {algo_id} may do; made by the platform",
                Tags=tags,
            )
        except Refused as error:
            if error.aws_code != "EntityAlreadyExists":
                raise
            return None
        return dict(answer["Role"])

    async def _mend(self, name: str, algo_id: str, tags: list[dict[str, str]]) -> dict[str, Any]:
        """The role that there is, or one in its place."""
        role = await self._role(name)
        if role.get("Path") != naming.ROLE_PATH:
            raise Conflict(
                "ROLE_TAKEN",
                f"there is a role {name} under the path {role.get('Path')}, which is not the platform's; rename "
                "or delete that one",
            )
        if _document(role["AssumeRolePolicyDocument"]) != policies.trust(self._place):
            # The platform may not change whom a role trusts, or it could be used to let others in.
            await self.delete(algo_id)
            return await self._create(name, algo_id, tags) or await self._role(name)
        await self._bound(role)
        if {tag["Key"]: tag["Value"] for tag in tags}.items() - _tags(role).items():
            await self._iam.call("tag_role", RoleName=name, Tags=tags)
        await self._strip(name, keep=(POLICY_NAME,))
        return role

    async def _bound(self, role: dict[str, Any]) -> None:
        if _boundary_of(role) != self._boundary:
            await self._iam.call(
                "put_role_permissions_boundary",
                RoleName=role["RoleName"],
                PermissionsBoundary=self._boundary,
            )

    async def _strip(self, name: str, *, keep: tuple[str, ...]) -> None:
        for arn in await self._attached(name):
            await self._iam.call("detach_role_policy", RoleName=name, PolicyArn=arn)
        for policy in await self._inline(name):
            if policy not in keep:
                await self._iam.call("delete_role_policy", RoleName=name, PolicyName=policy)

    def _is_framed(self, role: dict[str, Any]) -> bool:
        """Whether path, boundary and trust are the platform's."""
        trusts = _document(role["AssumeRolePolicyDocument"]) == policies.trust(self._place)
        return role.get("Path") == naming.ROLE_PATH and _boundary_of(role) == self._boundary and trusts

    def _permissions(self, algo_id: str, *, legacy: bool) -> policies.Policy:
        return policies.permissions(self._place, algo_id, bucket=self._bucket, legacy_output_keys=legacy)

    async def _role(self, name: str) -> dict[str, Any]:
        return dict((await self._iam.call("get_role", RoleName=name))["Role"])

    async def _document(self, name: str) -> Any:
        answer = await self._iam.call("get_role_policy", RoleName=name, PolicyName=POLICY_NAME)
        return _document(answer["PolicyDocument"])

    async def _inline(self, name: str) -> list[str]:
        return list((await self._iam.call("list_role_policies", RoleName=name))["PolicyNames"])

    async def _attached(self, name: str) -> list[str]:
        answer = await self._iam.call("list_attached_role_policies", RoleName=name)
        return [policy["PolicyArn"] for policy in answer["AttachedPolicies"]]


def _boundary_of(role: dict[str, Any]) -> str | None:
    return (role.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn")


def _tags(role: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in role.get("Tags", ())}


def _document(document: Any) -> Any:
    """A policy as IAM returns it: boto3 has parsed it, unless it was no JSON."""
    if not isinstance(document, str):
        return document
    try:
        return json.loads(document)
    except ValueError:
        return document
