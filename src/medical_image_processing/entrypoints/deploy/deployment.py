"""The steps of ``mip deploy run`` and ``mip deploy destroy``. Each may be repeated, and then changes nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medical_image_processing import naming
from medical_image_processing.entrypoints.client import Client, results_address
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.entrypoints.deploy.cdk import Cdk
from medical_image_processing.entrypoints.deploy.needs import Ready
from medical_image_processing.entrypoints.deploy.push import Pushed, build_and_push
from medical_image_processing.entrypoints.deploy.sample_job import Done, await_image, find_image, run_sample_job
from medical_image_processing.entrypoints.deploy.stack import (
    Stack,
    addresses,
    choices_of,
    find_stack,
    keys,
    read_stack,
)
from medical_image_processing.entrypoints.waiting import wait_until_settled
from medical_image_processing.errors import Conflict, NotFound

JOB_ALGORITHM = "processing_1"
_ACTIVE_S = 600.0
_GONE_S = 900.0
_POLL_S = 2.0

# The seed's registrations; the image is that of the folder.
SAMPLES: dict[str, dict[str, Any]] = {
    "processing_1": {"folder": "processing_1", "cpu": 1024, "memory": 2048, "command": ["/app/worker.sh"]},
    "processing_6": {"folder": "processing_6", "cpu": 1024, "memory": 2048, "command": ["/app/worker.sh"]},
    "grayscale_cpp": {
        "folder": "grayscale",
        "cpu": 2048,
        "memory": 4096,
        "command": ["/app/adapter.py"],
        "env": {"OMP_NUM_THREADS": "4"},
    },
}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """What was done, and whether it changed anything."""

    name: str
    what: str
    changed: bool


class Deployment:
    """The stacks of one account and region."""

    def __init__(self, ready: Ready, cdk: Cdk, *, tell: Tell) -> None:
        self._ready = ready
        self._account = ready.account
        self._cdk = cdk
        self._tell = tell

    def run(self, *, base: str | None) -> list[Step]:
        """Bootstrap, images, stack, sample algorithms. MipError of whichever step fails; those before it stay."""
        steps = [self._bootstrap(), self._deploy(naming.IMAGES_STACK)]
        pushed = build_and_push(self._account, self._ready.root, base=base, tell=self._tell)
        steps += [_pushed(image) for image in pushed]
        tags = {image.source.folder: image.tag for image in pushed}
        # The PACS API's task follows a tag that moves with each build of it.
        steps.append(self._deploy(naming.STACK, {"pacs_image_tag": tags["pacs"]} if "pacs" in tags else None))
        images = {image.source.folder: image.uri for image in pushed}
        with connect(self.env()) as client:
            steps += register_samples(client, images, self._tell)
        return steps

    def env(self) -> dict[str, str]:
        """The deployed stack's addresses, with the operator's keys."""
        return env_with_keys(self._account, read_stack(self._account, naming.STACK))

    def _bootstrap(self) -> Step:
        self._tell("looking whether the region is bootstrapped")
        if self._cdk.is_bootstrapped():
            return Step("bootstrap", "the region is", changed=False)
        self._tell("bootstrapping the region for the CDK")
        self._cdk.bootstrap(self._tell)
        return Step("bootstrap", "done", changed=True)

    def _deploy(self, name: str, context: Mapping[str, str] | None = None) -> Step:
        before = find_stack(self._account, name)
        if before is not None and name != naming.IMAGES_STACK:
            check_ours(before)
        self._tell(f"deploying {name}")
        self._cdk.deploy(name, new=before is None, context=context, tell=self._tell)
        after = read_stack(self._account, name)
        changed = before is None or before.changed_at != after.changed_at
        return Step(f"stack {name}", after.status if changed else "no change", changed)


def keep_choices(account: Account, picked: Mapping[str, str]) -> dict[str, str]:
    """``picked``, and beside it what was chosen before; an empty text is the default again.

    Nothing that isn't said may change who may call. Conflict ``FOREIGN_STACK``, ``CHOICES_UNKNOWN``.
    """
    stack = find_stack(account, naming.STACK)
    if stack is None:
        return dict(picked)
    check_ours(stack)
    before = choices_of(account, stack)
    if before is None and stack.outputs and "clients" not in picked:
        raise Conflict(
            "CHOICES_UNKNOWN",
            f"the stack {stack.name} doesn't say what was chosen for it; say it all once more, with --set "
            "clients=keys (or oidc, open) among it",
        )
    return {**(before or {}), **picked}


def show_choices(choices: Mapping[str, str]) -> Step:
    """For a person to see; what workers are told may be a secret."""
    shown = [f"{name}={'…' if name == 'task_env' else value}" for name, value in sorted(choices.items()) if value]
    return Step("choices", ", ".join(shown) or "the defaults", changed=False)


def check_ours(stack: Stack) -> None:
    """Conflict ``FOREIGN_STACK`` for one that something else made: deploying would take its parts away."""
    if stack.outputs and "AdminKeySecretArn" not in stack.outputs:
        raise Conflict(
            "FOREIGN_STACK",
            f"the stack {stack.name} in {stack.region} is not this platform's, but perhaps the earlier one; "
            "deploy into another region or account (docs/migration.md)",
        )


def env_with_keys(account: Account, stack: Stack) -> dict[str, str]:
    """All that a shell would need."""
    return {**addresses(stack), **keys(account, stack)}


def connect(env: Mapping[str, str]) -> Client:
    """An admin's client of the stack."""
    return Client(env["API_BASE"], admin_key=env["MIP_ADMIN_KEY"], ws_endpoint=results_address(env))


def register_samples(client: Client, images: Mapping[str, str], tell: Tell) -> list[Step]:
    """Register those whose image was pushed, give those that are there the image, and wait for all of them."""
    steps = []
    for algo_id, sample in SAMPLES.items():
        if (uri := images.get(sample["folder"])) is None:
            continue
        tell(f"registering {algo_id}")
        body = {name: value for name, value in sample.items() if name != "folder"}
        what, changed = _register(client, {**body, "algo_id": algo_id, "image_uri": uri})
        wait_until_settled(client, algo_id, _ACTIVE_S, tell)
        steps.append(Step(f"algorithm {algo_id}", what, changed))
    return steps


def _register(client: Client, body: dict[str, Any]) -> tuple[str, bool]:
    algo_id = body["algo_id"]
    try:
        before = client.call("GET", "admin", "algorithms", algo_id)
    except NotFound:
        client.call("POST", "admin", "algorithms", body=body)
        return "registered", True
    # What an admin has changed since stays; only the image is this deployment's.
    if before["image_uri"] == body["image_uri"]:
        return "no change", False
    client.call("PATCH", "admin", "algorithms", algo_id, body={"image_uri": body["image_uri"]})
    return "has the new image", True


def run_job(account: Account, stack: Stack, sample: Path | None, tell: Tell) -> Done:
    """One job through the deployed platform.

    Where the PACS is a bucket of the stack's own, and empty, ``sample`` is put into it first. NotFound.
    """
    env = env_with_keys(account, stack)
    if "PACS_API_KEY" not in env:
        raise NotFound(
            "NO_PACS_KEY",
            "this stack uses a PACS API of your own, whose key it doesn't know; run with --no-job, and send a job "
            "with `mip process`",
        )
    ensure_image(account, stack, env, sample, tell)
    with connect(env) as client:
        return run_sample_job(client, env, JOB_ALGORITHM, tell)


def ensure_image(account: Account, stack: Stack, env: Mapping[str, str], sample: Path | None, tell: Tell) -> None:
    """Put ``sample`` where :func:`run_job` says, and wait until the PACS shows it."""
    try:
        find_image(env["PACS_API_BASE"], env["PACS_API_KEY"])
    except NotFound:
        bucket = stack.outputs.get("PacsBucketName")  # one that was given is not named there
        if bucket is None or sample is None:
            raise
        tell("putting a sample image into the empty PACS")
        key = "mip-sample/ct-small/ct-small.dcm"
        account.call("s3", "put_object", Bucket=bucket, Key=key, Body=sample.read_bytes())
        await_image(env["PACS_API_BASE"], env["PACS_API_KEY"])


def remove_algorithms(client: Client, tell: Tell) -> list[str]:
    """Delete every algorithm for good, the jobs that wait fail, and wait until all are gone; their ids."""
    ids = [record["algorithm_id"] for record in _algorithms(client)]
    for algo_id in ids:
        tell(f"removing {algo_id}")
        with contextlib.suppress(NotFound):  # it was being deleted, and is gone since it was listed
            client.call("DELETE", "admin", "algorithms", algo_id, params={"hard": "true", "force": "true"})
    deadline = time.monotonic() + _GONE_S
    while left := _algorithms(client):
        if time.monotonic() > deadline:
            reasons = [f"{one['algorithm_id']}: {one['status_reason'] or one['status']}" for one in left]
            raise Conflict(
                "ALGORITHMS_LEFT",
                "algorithms that aren't gone keep the stack from being removed; see above, then run it again",
                details={"log": reasons},
            )
        tell(f"waiting for {len(left)} algorithms to go")
        time.sleep(_POLL_S)
    return ids


def _algorithms(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = client.call("GET", "admin", "algorithms", params={"limit": 1000, "cursor": cursor})
        found += page["algorithms"]
        if (cursor := page["next_cursor"]) is None:
            return found


def _pushed(image: Pushed) -> Step:
    name = f"image {image.source.repository}:{image.source.tag}"
    return Step(name, "no change" if image.was_there else "pushed", not image.was_there)
