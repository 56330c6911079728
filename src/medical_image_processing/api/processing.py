"""The processing API (CONTRACT.md, "Processing API")."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from medical_image_processing.api import schemas
from medical_image_processing.api.access import Access, Caller, ClientKey, ClientToken
from medical_image_processing.api.results import base_url_of, job_answer, one_job_answer
from medical_image_processing.control.cancelling import cancel_job
from medical_image_processing.control.catalogue import Catalogue
from medical_image_processing.control.outlook import NO_OUTLOOK, look_ahead
from medical_image_processing.control.router import Router, new_client_id
from medical_image_processing.errors import NotFound
from medical_image_processing.model.algorithm import AlgorithmStatus
from medical_image_processing.model.job import Job, JobStatus, Name, ProcessRequest
from medical_image_processing.naming import ALGO_ID_PATTERN, NAME_PATTERN
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.keys import Keys
from medical_image_processing.ports.outputs import Outputs
from medical_image_processing.ports.push import Push
from medical_image_processing.ports.workload import Workload

AlgoIdPath = Annotated[str, Path(pattern=ALGO_ID_PATTERN)]
JobIdPath = Annotated[str, Path(pattern=NAME_PATTERN)]
JOBS_CURSOR_PATTERN = r"^([0-9]{1,18}|[0-9a-f]{16}#[A-Za-z0-9._:-]{1,120})$"
"""Where a listing goes on: a row's number in SQLite, or a moment and a job in DynamoDB."""


def create_router(
    router: Router,
    catalogue: Catalogue,
    jobs: Jobs,
    workload: Workload,
    keys: Keys,
    outputs: Outputs,
    access: Access,
    push: Push,
) -> APIRouter:
    """The clients' routes."""

    async def client(key: ClientKey = None, token: ClientToken = None) -> Caller:
        return await access.client(key, token)

    Client = Annotated[Caller, Depends(client)]
    routes = APIRouter(tags=["processing"], responses=schemas.errors(401, 422, 503))

    @routes.post("/provision", response_model=schemas.ProvisionAnswer, responses=schemas.errors(400, 413))
    async def provision(caller: Client, body: dict[str, Any] | None = None) -> schemas.ProvisionAnswer:
        """A client_id of one's own, which can't be guessed."""
        return schemas.ProvisionAnswer(client_id=await _new_client_id(caller))

    @routes.post(
        "/process/{algo_id}",
        status_code=202,
        response_model=schemas.ProcessAnswer,
        responses=schemas.errors(400, 403, 404, 409, 413, 429),
    )
    async def process(
        algo_id: Annotated[str, Path(max_length=512)], body: ProcessRequest, caller: Client
    ) -> Response:
        """Accept a job. Once this answers 202, it will be run, whatever happens to the platform."""
        sender, own = None, None
        if body.client_id is not None:
            caller.check(body.client_id)
        elif caller.holder is not None:
            sender = caller.holder.name
            own = caller.holder.client_ids[0] if caller.holder.client_ids else await _new_client_id(caller)
        accepted = await router.submit(algo_id, body, sender=sender, client_id=own)
        answer = {
            "message": "Enqueued",
            "job_id": accepted.job_id,
            "client_id": accepted.client_id,
            "status": accepted.status.value,
            "sqs_message_id": accepted.message_id,
        }
        return Response(json.dumps(answer), 202, media_type="application/json")

    @routes.get("/algorithms", response_model=schemas.OfferPage)
    async def list_algorithms(
        caller: Client,
        status: AlgorithmStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        cursor: Annotated[str | None, Query(max_length=128, pattern=ALGO_ID_PATTERN)] = None,
    ) -> schemas.OfferPage:
        """What there is to send jobs to, by id; those that take jobs now say so."""
        page = await catalogue.page(status=status, limit=limit, cursor=cursor)
        return schemas.OfferPage(
            algorithms=[schemas.OfferAnswer.of(offer) for offer in page.items], next_cursor=page.next_cursor
        )

    @routes.get("/jobs/{job_id}", response_model=schemas.OneJobAnswer, responses=schemas.errors(404))
    async def show(job_id: JobIdPath, caller: Client, request: Request) -> Response:
        """One job, with where its result lies once it has one."""
        job = await _own_job(job_id, caller)
        outlook = (await look_ahead(workload, [job])).get(job_id, NO_OUTLOOK)
        return JSONResponse(one_job_answer(job, outputs, base_url_of(request), outlook))

    @routes.post("/jobs/{job_id}/cancel", response_model=schemas.OneJobAnswer, responses=schemas.errors(404, 409))
    async def cancel(job_id: JobIdPath, caller: Client, request: Request) -> Response:
        """Cancel a job that waits; twice is no error. Once it runs it is too late: 409."""
        await _own_job(job_id, caller)
        job = await cancel_job(jobs, push, job_id, actor=caller.name)
        return JSONResponse(one_job_answer(job, outputs, base_url_of(request)))

    @routes.get("/jobs", response_model=schemas.JobPage, responses=schemas.errors(403))
    async def list_jobs(
        caller: Client,
        request: Request,
        client_id: Annotated[Name | None, Query()] = None,
        status: JobStatus | None = None,
        algo_id: Annotated[str | None, Query(pattern=ALGO_ID_PATTERN)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str | None, Query(pattern=JOBS_CURSOR_PATTERN)] = None,
    ) -> Response:
        """Jobs, newest first."""
        if client_id is not None:
            caller.check(client_id)
        ids = caller.client_ids if client_id is None else (client_id,)
        page = await jobs.page(client_ids=ids, status=status, algo_id=algo_id, limit=limit, cursor=cursor)
        base_url = base_url_of(request)
        outlooks = await look_ahead(workload, page.items)
        answers = [job_answer(job, outputs, base_url, outlooks.get(job.job_id, NO_OUTLOOK)) for job in page.items]
        return JSONResponse({"jobs": answers, "next_cursor": page.next_cursor})

    async def _own_job(job_id: str, caller: Caller) -> Job:
        job = await jobs.get(job_id)
        # A job of somebody else is as good as none: whether it exists is not the caller's to know.
        if job is None or not caller.may_use(job.client_id):
            raise NotFound("UNKNOWN_JOB", f"no job '{job_id}'")
        return job

    async def _new_client_id(caller: Caller) -> str:
        if caller.holder is not None and not caller.may_grow:
            return caller.holder.client_ids[0]
        client_id = new_client_id()
        if caller.holder is not None:
            await keys.grant_client_id(caller.holder.name, client_id)
        return client_id

    return routes
