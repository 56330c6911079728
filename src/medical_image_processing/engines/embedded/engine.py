"""The embedded engine: every port, over one SQLite file, one folder, and a runtime for the workers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from medical_image_processing import naming
from medical_image_processing.engines.embedded.access_record import AccessRecord
from medical_image_processing.engines.embedded.arrivals import SqliteArrivals
from medical_image_processing.engines.embedded.credentials import Credential, Credentials, Operator
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.keys import SqliteKeys
from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.engines.embedded.objects import ObjectStore
from medical_image_processing.engines.embedded.outputs import ResultLinks, SignedOutputs
from medical_image_processing.engines.embedded.pseudonyms import SqlitePseudonyms
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.registry import SqliteRegistry
from medical_image_processing.engines.embedded.resources import VISIBILITY_S, EmbeddedResources
from medical_image_processing.engines.embedded.runtime import Runtime
from medical_image_processing.engines.embedded.storing import TO_NODE, OutputFiles, SqliteResultsToStore
from medical_image_processing.engines.embedded.supervisor import Supervisor
from medical_image_processing.engines.embedded.task import Task
from medical_image_processing.engines.embedded.wire import create_aws_app
from medical_image_processing.engines.embedded.workload import SqliteWorkload
from medical_image_processing.errors import MipError
from medical_image_processing.model.job import JobStatus
from medical_image_processing.ports.keys import digest

_LOG = logging.getLogger(__name__)
ACCOUNT = "000000000000"
REGION = "mip-local-1"
"""No region of AWS: for us-east-1 the aws command and boto3 would leave out our endpoint, or sign as of old."""
_TRIM_EVERY_S = 30.0


@dataclass(frozen=True)
class EngineSettings:
    """What the engine must know. ``worker_base`` is the workers' own address of SQS, S3 and the PACS API.

    ``create_runtime`` makes what runs the workers, given where their logs go. ``add_pacs_key(digest, algo_id)``
    lets an algorithm read from the PACS API, ``remove_pacs_key(digest)`` shuts it out. Pseudonyms are
    made with ``pseudonym_secret``.
    Pages of ``allow_origins`` may read results.
    """

    home: Path
    worker_base: str
    operator: tuple[str, str]
    create_runtime: Callable[[LogGroups], Runtime]
    allow_origins: tuple[str, ...]
    add_pacs_key: Callable[[str, str], None]
    remove_pacs_key: Callable[[str], None]
    pseudonym_secret: bytes


class EmbeddedEngine:
    """The parts, put together. ``open`` before use, ``close`` after; both on the same event loop."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._pacs_keys: dict[str, str] = {}
        self._trimmed = 0.0
        self._sweeping: asyncio.Task[None] | None = None
        self.region = REGION
        self.output_bucket = naming.output_bucket(ACCOUNT, REGION)
        self.database = Database(settings.home / "mip.db")
        self.queues = FifoQueues(self.database)
        self.logs = LogGroups(settings.home / "logs")
        self.registry = SqliteRegistry(self.database, clock=time.time)
        self.jobs = SqliteJobs(self.database, self.queues, clock=time.time)
        self.workload = SqliteWorkload(self.database, clock=time.time)
        self.results_to_store = SqliteResultsToStore(self.database, clock=time.time)
        self.results_to_send = SqliteResultsToStore(self.database, clock=time.time, way=TO_NODE)
        self.arrivals = SqliteArrivals(self.database, clock=time.time)
        self._objects = ObjectStore(settings.home / "output", bucket=self.output_bucket)
        self.output_files = OutputFiles(self._objects)
        self.pseudonyms = SqlitePseudonyms(self.database, secret=settings.pseudonym_secret)
        self.keys = SqliteKeys(self.database, clock=time.time)
        self.access_record = AccessRecord(self.database, clock=time.time)
        self.credentials = Credentials(is_algorithm=self.registry.knows)
        operator = Credential(*settings.operator, Operator())
        self.credentials.add(operator)
        self.outputs = SignedOutputs(operator, region=REGION)
        self.supervisor = Supervisor(
            runtime=settings.create_runtime(self.logs),
            queues=self.queues,
            credentials=self.credentials,
            logs=self.logs,
            environment=self._environment,
            report=self.jobs.apply,
        )
        self.resources = EmbeddedResources(
            self.database,
            self.queues,
            self.logs,
            self.supervisor,
            queue_url=self.queue_url,
            on_role_deleted=self._drop_pacs_key,
        )

    async def open(self) -> None:
        """End what an earlier life left running, free its leases, and make the shared queues."""
        await self.supervisor.runtime.end_leftovers()
        await self.queues.release_all()
        await self.resources.forget_other_runtimes()
        # Delivery is this process itself; a result is retried until it is applied, never given up.
        await self.queues.create(naming.RESULTS_QUEUE, redrive_to=None, visibility_s=VISIBILITY_S)

    def listen(
        self, *, on_change: Callable[[str], None], on_finish: Callable[[str, JobStatus, float], None]
    ) -> None:
        """Call ``on_change`` for algorithms whose record or workers changed, ``on_finish`` for ended jobs."""
        self.registry.on_change = on_change
        self.supervisor.on_change = on_change

        def finished(algo_id: str, status: JobStatus, seconds: float) -> None:
            on_finish(algo_id, status, seconds)
            self.results_to_store.wake()
            self.results_to_send.wake()

        self.jobs.on_finish = finished

    def create_aws_app(self) -> ASGIApp:
        """SQS and S3 for the workers."""
        return create_aws_app(
            self.queues,
            self._objects,
            self.credentials,
            region=REGION,
            account=ACCOUNT,
            bucket=self.output_bucket,
        )

    def create_result_links(self) -> ASGIApp:
        """What answers the URLs of ``outputs``, below ``/{output_bucket}/`` of the API."""
        return ResultLinks(
            self._objects, self.credentials, region=REGION, allow_origins=self._settings.allow_origins
        )

    async def sweep(self) -> None:
        """What must happen now and then: ended leases, old deduplication ids, long logs."""
        await self.queues.sweep()
        await self.database.checkpoint()
        if time.monotonic() - self._trimmed > _TRIM_EVERY_S:
            self._trimmed = time.monotonic()
            await asyncio.to_thread(self.logs.trim)
            if self._sweeping is None or self._sweeping.done():
                # Apart: a Docker engine that hangs must not hold up the rest.
                self._sweeping = asyncio.create_task(self._sweep_runtime())

    async def _sweep_runtime(self) -> None:
        try:
            await self.supervisor.runtime.sweep()
        except MipError as error:
            _LOG.warning("the workers' surroundings can't be looked after now: %s", error)

    async def close(self) -> None:
        """Write what is pending and close the file."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.queues.close()
        await self.database.close()

    def queue_url(self, name: str) -> str:
        """The queue's URL, as a worker gets it."""
        return f"{self._settings.worker_base}/{ACCOUNT}/{name}"

    def _environment(self, task: Task) -> dict[str, str]:
        """What every worker gets (CONTRACT.md, "Environment of every algorithm's container")."""
        return {
            "QUEUE_URL": self.queue_url(naming.queue(task.algo_id)),
            "RESULT_QUEUE": self.queue_url(naming.RESULTS_QUEUE),
            "OUTPUT_BUCKET": self.output_bucket,
            "PACS_API_BASE": f"{self._settings.worker_base}/pacs",
            "PACS_API_KEY": self._pacs_key(task.algo_id),
            "AWS_ENDPOINT_URL": self._settings.worker_base,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            # A worker that is asked to go finishes its job however long it takes (law P7); when the platform
            # itself stops, the supervisor asks again, and then jobs are given back.
            "MIP_STOP_TIMEOUT_S": str(24 * 3600),
        }

    def _pacs_key(self, algo_id: str) -> str:
        """One key an algorithm, for as long as the platform runs."""
        if algo_id not in self._pacs_keys:
            key = self._pacs_keys[algo_id] = f"mip-pacs-{secrets.token_urlsafe(32)}"
            self._settings.add_pacs_key(digest(key), algo_id)
        return self._pacs_keys[algo_id]

    def _drop_pacs_key(self, algo_id: str) -> None:
        if (key := self._pacs_keys.pop(algo_id, None)) is not None:
            self._settings.remove_pacs_key(digest(key))
