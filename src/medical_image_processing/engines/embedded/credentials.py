"""AWS credentials that open the embedded engine's SQS and S3 endpoints, and what they allow (law A1).

They live in memory only: each worker gets its own, and those of an earlier life of the platform open nothing.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, replace

from medical_image_processing import naming

_ALPHABET = string.ascii_uppercase + "234567"

_OWN_QUEUE = frozenset(
    {
        "sqs:GetQueueUrl",
        "sqs:GetQueueAttributes",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility",
    }
)
_RESULTS_QUEUE = frozenset({"sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"})
_OWN_OUTPUT = frozenset({"s3:PutObject", "s3:AbortMultipartUpload"})


@dataclass(frozen=True)
class Algorithm:
    """A worker of an algorithm."""

    algo_id: str
    legacy_output_keys: bool = False


@dataclass(frozen=True)
class Operator:
    """Whoever runs the platform, and the platform itself."""


Principal = Algorithm | Operator


@dataclass(frozen=True)
class Credential:
    """A pair of keys and whose they are."""

    access_key_id: str
    secret_access_key: str
    principal: Principal

    def __repr__(self) -> str:
        return f"Credential({self.access_key_id}, {self.principal})"


class Credentials:
    """Credentials by access key id. ``is_algorithm`` tells whether an id is registered."""

    def __init__(self, *, is_algorithm: Callable[[str], bool] = lambda _: False) -> None:
        self._known: dict[str, Credential] = {}
        self.is_algorithm = is_algorithm

    def issue(self, algo_id: str, *, legacy_output_keys: bool = False) -> Credential:
        """New keys for one worker of an algorithm."""
        return self._new(Algorithm(algo_id, legacy_output_keys))

    def add(self, credential: Credential) -> None:
        """Let keys that were made elsewhere in, such as an operator's that outlive a restart."""
        self._known[credential.access_key_id] = credential

    def permit(self, access_key_id: str, *, legacy_output_keys: bool) -> None:
        """Change what a worker's keys allow, as a role's new policy does: at once."""
        known = self._known.get(access_key_id)
        if known is not None and isinstance(known.principal, Algorithm):
            principal = replace(known.principal, legacy_output_keys=legacy_output_keys)
            self.add(replace(known, principal=principal))

    def revoke(self, access_key_id: str) -> None:
        """The keys open nothing from now on."""
        self._known.pop(access_key_id, None)

    def find(self, access_key_id: str) -> Credential | None:
        """The credential with that id, or None."""
        return self._known.get(access_key_id)

    def _new(self, principal: Principal) -> Credential:
        key_id = "MIPA" + "".join(secrets.choice(_ALPHABET) for _ in range(16))
        credential = Credential(key_id, secrets.token_urlsafe(30), principal)
        self.add(credential)
        return credential


def allows(principal: Principal, action: str, resource: str, *, is_algorithm: Callable[[str], bool]) -> bool:
    """Whether ``principal`` may do ``action``, named as IAM names it, to a queue's name or an object's key.

    Batch actions are allowed by the single action, listing and bucket actions have the resource ``""``.
    """
    if isinstance(principal, Operator):
        return True
    if action.startswith("sqs:"):
        if resource == naming.RESULTS_QUEUE:
            return action in _RESULTS_QUEUE
        return resource == naming.queue(principal.algo_id) and action in _OWN_QUEUE
    return action in _OWN_OUTPUT and naming.is_output_key(
        principal.algo_id, resource, legacy=principal.legacy_output_keys, is_algorithm=is_algorithm
    )
