"""The admin API (CONTRACT.md, "Admin API"), and the operators' calls beside it."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from medical_image_processing.api import schemas
from medical_image_processing.api.access import Access, AdminKey
from medical_image_processing.control.admin import Admin
from medical_image_processing.control.statistics import MOST_HOURS, Statistician
from medical_image_processing.errors import InvalidRequest
from medical_image_processing.model.algorithm import Algorithm, AlgorithmPatch, AlgorithmSpec, AlgorithmStatus
from medical_image_processing.model.job import Name
from medical_image_processing.naming import ALGO_ID_PATTERN, NAME_PATTERN
from medical_image_processing.ports.accesses import Accesses
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.keys import KeyHolder, KeyRole, Keys, digest
from medical_image_processing.ports.push import Connections
from medical_image_processing.ports.resources import Logs

AlgoIdPath = Annotated[str, Path(pattern=ALGO_ID_PATTERN)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=128, pattern=NAME_PATTERN)]


LOG_CURSOR_PATTERN = r"^[A-Za-z0-9_.=-]{1,4096}$"
"""A place in a file, or a token for each stream of CloudWatch."""
_BODY = schemas.errors(400, 413)
_E404 = schemas.errors(404)
_E409 = schemas.errors(409)
_E412 = schemas.errors(412)


class NewKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    role: KeyRole = KeyRole.CLIENT
    client_ids: list[Name] = Field(default=[], max_length=1000)


def create_router(
    admin: Admin,
    statistician: Statistician,
    jobs: Jobs,
    keys: Keys,
    logs: Logs,
    access: Access,
    connections: Connections,
    accesses: Accesses | None = None,
) -> APIRouter:
    """Routes under ``/admin``; all need ``x-admin-key``. Without ``accesses`` there is no route to them."""

    async def actor(key: AdminKey = None) -> str:
        return await access.admin(key)

    Actor = Annotated[str, Depends(actor)]
    router = APIRouter(prefix="/admin", tags=["admin"], responses=schemas.errors(401, 422, 503))

    @router.post(
        "/algorithms",
        status_code=201,
        response_model=Algorithm,
        responses={200: {"model": Algorithm, "description": "Registered before, the same"}, **_BODY, **_E409},
    )
    async def register(spec: AlgorithmSpec, actor: Actor, response: Response) -> Algorithm:
        """Register an algorithm. It takes jobs once its status is ACTIVE."""
        record, created = await admin.register(spec, actor=actor)
        response.status_code = 201 if created else 200
        return _tagged(record, response)

    @router.get("/algorithms", response_model=schemas.AlgorithmPage)
    async def list_algorithms(
        actor: Actor, limit: Limit = 100, cursor: Cursor = None, status: AlgorithmStatus | None = None
    ) -> schemas.AlgorithmPage:
        """The registry, by id."""
        page = await admin.page(status=status, limit=limit, cursor=cursor)
        return schemas.AlgorithmPage(algorithms=list(page.items), next_cursor=page.next_cursor)

    @router.get("/algorithms/{algo_id}", response_model=Algorithm, responses=_E404)
    async def show(algo_id: AlgoIdPath, actor: Actor, response: Response) -> Algorithm:
        """One record; ``ETag`` is its revision."""
        return _tagged(await admin.get(algo_id), response)

    @router.patch(
        "/algorithms/{algo_id}", response_model=Algorithm, responses={**_BODY, **_E404, **_E409, **_E412}
    )
    async def update(
        algo_id: AlgoIdPath,
        patch: AlgorithmPatch,
        actor: Actor,
        response: Response,
        if_match: Annotated[str | None, Header()] = None,
    ) -> Algorithm:
        """Change an algorithm. Running jobs end as they began; the next start with the change."""
        revision = _revision(if_match)
        record = await admin.update(algo_id, patch, actor=actor, if_revision=revision)
        return _tagged(record, response)

    @router.delete(
        "/algorithms/{algo_id}",
        status_code=202,
        response_model=Algorithm,
        responses={**_E404, **_E409, **_E412},
    )
    async def remove(
        algo_id: AlgoIdPath,
        actor: Actor,
        response: Response,
        hard: bool = False,
        force: bool = False,
        if_match: Annotated[str | None, Header()] = None,
    ) -> Algorithm:
        """Scale down to nothing; with ``hard``, remove for good; with ``force``, fail what still waits."""
        revision = _revision(if_match)
        if not hard:
            return _tagged(await admin.scale_down(algo_id, actor=actor, if_revision=revision), response)
        return _tagged(await admin.remove(algo_id, actor=actor, force=force, if_revision=revision), response)

    @router.get("/algorithms/{algo_id}/statistics", response_model=schemas.StatisticsAnswer, responses=_E404)
    async def read_statistics(
        algo_id: AlgoIdPath, actor: Actor, hours: Annotated[int, Query(ge=1, le=MOST_HOURS)] = 24
    ) -> schemas.StatisticsAnswer:
        """What waits, what ended in the last hours, and how long jobs took."""
        await admin.get(algo_id)
        return schemas.StatisticsAnswer.of(algo_id, await statistician.look_at(algo_id, hours=hours))

    @router.get("/algorithms/{algo_id}/logs", response_model=schemas.LogAnswer, responses=_E404)
    async def read_logs(
        algo_id: AlgoIdPath,
        actor: Actor,
        lines: Annotated[int, Query(ge=1, le=2000)] = 100,
        cursor: Annotated[str | None, Query(pattern=LOG_CURSOR_PATTERN)] = None,
    ) -> schemas.LogAnswer:
        """The newest lines of its workers' log group; with the last answer's cursor, what has come since."""
        await admin.get(algo_id)
        found = await logs.read(algo_id, lines=lines, cursor=cursor)
        return schemas.LogAnswer(lines=list(found.lines), cursor=found.cursor, gap=found.gap)

    @router.post(
        "/jobs/{job_id}/replay",
        status_code=202,
        response_model=schemas.ReplayAnswer,
        responses={**_E404, **_E409},
    )
    async def replay(job_id: Annotated[str, Path(pattern=NAME_PATTERN)], actor: Actor) -> schemas.ReplayAnswer:
        """Send a dead-lettered job again."""
        message_id = await jobs.replay(job_id, actor=actor)
        return schemas.ReplayAnswer(job_id=job_id, sqs_message_id=message_id)

    @router.post("/keys", status_code=201, response_model=schemas.NewKeyAnswer, responses={**_BODY, **_E409})
    async def add_key(new: NewKey, actor: Actor) -> schemas.NewKeyAnswer:
        """Make a key. The answer is the only place it is ever shown."""
        key = f"mip-{new.role.value}-{secrets.token_urlsafe(32)}"
        holder = await keys.add(digest(key), name=new.name, role=new.role, client_ids=new.client_ids, actor=actor)
        return schemas.NewKeyAnswer(**_holder(holder).model_dump(), key=key)

    @router.get("/keys", response_model=schemas.KeyList)
    async def list_keys(actor: Actor) -> schemas.KeyList:
        """Who holds keys."""
        return schemas.KeyList(keys=[_holder(holder) for holder in await keys.holders()])

    @router.delete("/keys/{name}", status_code=204, responses=_E404)
    async def remove_key(name: Annotated[str, Path(pattern=NAME_PATTERN)], actor: Actor) -> None:
        """The key opens nothing from now on, and what it had opened is closed."""
        await keys.remove(name, actor=actor)
        await connections.close(name)

    if accesses is not None:
        _add_accesses(router, accesses, actor)
    return router


def _add_accesses(router: APIRouter, accesses: Accesses, actor: Callable[..., Awaitable[str]]) -> None:
    @router.get("/accesses", response_model=schemas.AccessPage, dependencies=[Depends(actor)])
    async def list_accesses(
        study: Annotated[str | None, Query(max_length=64, pattern=r"^[0-9A-Za-z._-]+$")] = None,
        algo: Annotated[str | None, Query(pattern=ALGO_ID_PATTERN)] = None,
        job: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> schemas.AccessPage:
        """Which algorithm read which image, for which job, newest first."""
        page = await accesses.page(study_uid=study, algo_id=algo, job_id=job, limit=limit, cursor=cursor)
        answers = [schemas.AccessAnswer(**asdict(access)) for access in page.items]
        return schemas.AccessPage(accesses=answers, next_cursor=page.next_cursor)


def _tagged(record: Algorithm, response: Response) -> Algorithm:
    response.headers["ETag"] = f'"{record.revision}"'
    return record


def _revision(if_match: str | None) -> int | None:
    """RFC 9110 section 13.1.1: ``*`` matches whatever is there."""
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().removeprefix("W/").strip('"')
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidRequest("INVALID_REQUEST", "If-Match: must be a revision number, as ETag gives it")
    return int(text)


def _holder(holder: KeyHolder) -> schemas.KeyAnswer:
    return schemas.KeyAnswer(
        name=holder.name,
        role=holder.role,
        client_ids=list(holder.client_ids),
        created_at=holder.created_at,
    )
