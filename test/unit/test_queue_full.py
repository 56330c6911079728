"""A full queue, as an HTTP client sees it."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from fastapi import FastAPI

from medical_image_processing import naming
from medical_image_processing.api import failures, processing
from medical_image_processing.api.access import Access, fixed_digests
from medical_image_processing.api.websocket import Hub
from medical_image_processing.control.catalogue import Catalogue
from medical_image_processing.control.router import Router
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.jobs import SqliteJobs
from medical_image_processing.engines.embedded.keys import SqliteKeys
from medical_image_processing.engines.embedded.queues import FifoQueues
from medical_image_processing.engines.embedded.registry import SqliteRegistry
from medical_image_processing.engines.embedded.workload import SqliteWorkload
from medical_image_processing.model.algorithm import AlgorithmStatus, ResourceStatus
from medical_image_processing.testing.registry_contract import a_spec

BODY = {"job_id": "first", "client_id": "c", "pacs": {"study_id": "s", "scope": "study"}}


class Unsigned:
    """Gives objects no address (ports.outputs)."""

    def sign(self, bucket: str, key: str, *, base_url: str) -> str:
        return ""


class NoWorkers:
    """Nothing runs (ports.resources.WorkerCounts)."""

    async def worker_counts(self, algo_ids: Sequence[str]) -> dict[str, int]:
        return {}


def test_a_full_queue_is_429_queue_full_with_retry_after_and_still_knows_its_jobs(tmp_path: Path) -> None:
    async def work() -> None:
        database = Database(tmp_path / "mip.db")
        queues, registry = FifoQueues(database), SqliteRegistry(database, clock=time.time)
        jobs, keys = SqliteJobs(database, queues, clock=time.time), SqliteKeys(database, clock=time.time)
        await queues.create(naming.queue("liver"), redrive_to=None)
        await registry.create(a_spec("liver"), actor="anna")
        active = AlgorithmStatus.ACTIVE
        await registry.set_status("liver", revision=1, status=active, reason=None, resources=ResourceStatus())
        router = Router(registry, jobs, queues, queue_limit=1)
        app = FastAPI()
        failures.install(app)
        access = Access(keys, root_admin_digests=fixed_digests(""), open_clients=True)
        app.include_router(
            processing.create_router(
                router,
                Catalogue(registry, queues, NoWorkers()),
                jobs,
                SqliteWorkload(database, clock=time.time),
                keys,
                Unsigned(),
                access,
                Hub(jobs, Unsigned()),
            )
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://platform") as http:
            first = await http.post("/process/liver", json=BODY)
            full = await http.post("/process/liver", json={**BODY, "job_id": "second"})
            again = await http.post("/process/liver", json=BODY)
        assert (first.status_code, full.status_code, again.status_code) == (202, 429, 202)
        assert full.json()["error"]["code"] == "QUEUE_FULL" and int(full.headers["retry-after"]) >= 1
        assert again.json()["sqs_message_id"] == first.json()["sqs_message_id"]
        queues.close()
        await database.close()

    asyncio.run(work())
