"""The AWS engine's stores and queues in an account of their own on the emulator, for one test."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aws_emulator import AwsEmulator
from aws_tables import ALGORITHMS, AUDIT, JOBS, KEYS, create_tables, table
from medical_image_processing import naming
from medical_image_processing.engines.aws.access_record import AccessRecord
from medical_image_processing.engines.aws.audit import DynamoAudit
from medical_image_processing.engines.aws.clients import AwsClients
from medical_image_processing.engines.aws.jobs import DynamoJobs
from medical_image_processing.engines.aws.keys import DynamoKeys
from medical_image_processing.engines.aws.open_jobs import OpenJobs
from medical_image_processing.engines.aws.pacs_keys import PacsKeyTable
from medical_image_processing.engines.aws.queues import SqsQueues
from medical_image_processing.engines.aws.registry import DynamoRegistry
from medical_image_processing.engines.aws.storing import DynamoResultsToStore
from medical_image_processing.testing.registry_contract import a_spec

LIMIT_S = 60.0


async def of_nobody(role_id: str) -> str | None:
    """No role is an algorithm's."""
    return None


class AwsStores:
    """Everything that keeps something, as a Lambda puts it together. ``endpoint`` stands before the emulator.

    Depths are asked for anew each time: the queues' clock runs ahead. ``ahead_s`` moves the stores' own clock.
    """

    def __init__(self, account: AwsEmulator, *, endpoint: str | None = None) -> None:
        self.account = account
        self.ahead_s = 0.0
        self.clients: AwsClients = account.clients(endpoint_url=endpoint)
        results_url = f"{endpoint or account.endpoint}/{account.account}/{naming.RESULTS_QUEUE}"
        of = partial(table, self.clients)
        self.audit = DynamoAudit(of(AUDIT), clock=self.clock)
        self.access_record = AccessRecord(of(AUDIT), clock=self.clock)
        self.registry = DynamoRegistry(of(ALGORITHMS), self.audit, clock=self.clock)
        self.keys = DynamoKeys(of(KEYS), self.audit, clock=self.clock)
        self.pacs_keys = PacsKeyTable(of(KEYS))
        self.open_jobs = OpenJobs(of(JOBS), self.registry)
        minutes = itertools.count(step=60)
        self.queues = SqsQueues(
            self.clients.client("sqs"),
            results_url,
            open_jobs=self.open_jobs,
            algorithm_of_role=of_nobody,
            clock=lambda: float(next(minutes)),
        )
        self.to_store = DynamoResultsToStore(of(JOBS), clock=self.clock)
        self.jobs = DynamoJobs(of(JOBS), self.queues, self.registry, self.audit, self.open_jobs, clock=self.clock)

    def clock(self) -> float:
        """Epoch seconds."""
        return time.time() + self.ahead_s

    def run(self, work: Callable[[AwsStores], Awaitable[None]]) -> None:
        """Await ``work``, with a limit, and let go of all connections."""

        async def limited() -> None:
            await asyncio.wait_for(work(self), LIMIT_S)

        try:
            asyncio.run(limited())
        finally:
            self.clients.close()

    async def register(self, algo_id: str) -> None:
        """An algorithm of that id, and its queues."""
        await self.registry.create(a_spec(algo_id), actor="anna")
        await asyncio.to_thread(create_queues, self.clients, algo_id)

    def audited(self, subject: str) -> list[str]:
        """What is on record for ``subject``; may be asked from within a loop."""

        def read() -> list[str]:
            entries = asyncio.run(self.audit.entries(subject))
            return [f"{entry.actor} {entry.action} {entry.details}" for entry in entries]

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(read).result(LIMIT_S)


def fresh_stores(emulator: AwsEmulator) -> AwsStores:
    """In a fresh account, with all tables and the results queue."""
    stores = AwsStores(emulator.fresh_account())
    create_tables(stores.account, stores.clients)
    create_queues(stores.clients)
    return stores


def create_queues(clients: AwsClients, *algo_ids: str, visibility_s: int = 30) -> None:
    """The results queue, and the algorithms' queues with their dead-letter queues, as the stack has them."""
    sqs = clients.client("sqs").boto
    common = {
        "FifoQueue": "true",
        "FifoThroughputLimit": "perMessageGroupId",
        "DeduplicationScope": "messageGroup",
        "VisibilityTimeout": str(visibility_s),
    }
    sqs.create_queue(QueueName=naming.RESULTS_QUEUE, Attributes=common)
    for algo_id in algo_ids:
        dead = sqs.create_queue(QueueName=naming.dead_letter_queue(algo_id), Attributes=common)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = {"deadLetterTargetArn": arn, "maxReceiveCount": naming.MAX_RECEIVES}
        attributes = {**common, "RedrivePolicy": json.dumps(redrive)}
        sqs.create_queue(QueueName=naming.queue(algo_id), Attributes=attributes)
