"""Whose credentials sent a message: SQS tells a task role by its id, which only IAM knows by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.aws.clients import AwsClients

_AGAIN_S = 5.0
"""A task takes longer than this to start, so its role is on the list by the time it sends."""


class TaskRoles:
    """The algorithms' roles by id. ``clock`` gives monotonic seconds."""

    def __init__(self, clients: AwsClients, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._iam = clients.client("iam")
        self._clock = clock
        self._algos: dict[str, str] = {}
        self._read_at = float("-inf")

    async def algo_of(self, role_id: str) -> str | None:
        """The algorithm that has the role with this unique id (``AROA…``); None for the platform's own and others.

        A role that is deleted and made again has another id, so what is known stays true.
        """
        if role_id not in self._algos and self._clock() - self._read_at >= _AGAIN_S:
            read_at = self._clock()
            self._algos = await self._iam.run("list_roles", self._list)
            self._read_at = read_at
        return self._algos.get(role_id)

    def _list(self) -> dict[str, str]:
        pages = self._iam.boto.get_paginator("list_roles").paginate(PathPrefix=naming.ROLE_PATH)
        roles = (role for page in pages for role in page["Roles"])
        return {role["RoleId"]: algo_id for role in roles if (algo_id := _algo_of(role)) is not None}


def _algo_of(role: dict[str, Any]) -> str | None:
    before, after = naming.role("\n").split("\n")
    name = str(role["RoleName"])
    algo_id = name.removeprefix(before).removesuffix(after)
    return algo_id if naming.role(algo_id) == name else None
