"""What becomes known of jobs, written on their records: forward only, and one end each (laws J1, J2).

Each report is one conditional write. botocore may repeat one whose answer was lost, so an end knows its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby

from medical_image_processing.engines.aws import job_items
from medical_image_processing.engines.aws.job_items import IS_OPEN, KEPT_S, OPEN_VALUES, bounded, is_open, to_job
from medical_image_processing.engines.aws.tables import ConditionFailed, Item, Table
from medical_image_processing.model.job import Job, JobError, JobResult, JobStatus
from medical_image_processing.ports.jobs import Report


class Reports:
    """Applies reports to the jobs table."""

    def __init__(self, table: Table, *, clock: Callable[[], float]) -> None:
        self._table = table
        self._clock = clock

    async def apply(self, reports: Sequence[Report]) -> list[Job]:
        """Apply reports in order, those of different jobs side by side; the jobs that this call finished."""
        now = self._clock()
        numbered = sorted(enumerate(reports), key=lambda one: one[1].job_id)
        of_jobs = [list(group) for _, group in groupby(numbered, key=lambda one: one[1].job_id)]
        done = await asyncio.gather(
            *(self._apply_in_order(reports_of_one, now) for reports_of_one in of_jobs), return_exceptions=True
        )
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome  # the reports come again, and those that were applied change nothing then
        ended = [item for items in done if not isinstance(items, BaseException) for item in items]
        return [to_job(item) for item in sorted(ended, key=lambda item: str(item["finish_seq"]))]

    def cancel_action(self, job_id: str) -> Item:
        """The end of a job that is QUEUED, as a part of a transaction."""
        now = self._clock()
        values: Item = {
            "status": JobStatus.CANCELLED.value,
            "finished": now,
            "finish_seq": job_items.new_finish_seq(now, 0),
            "expires_at": int(now + KEPT_S),
            "error": None,
        }
        return self._table.update_action(
            {"job_id": job_id},
            _change(values, ends=True),
            condition="#status = :queued",
            values={**values, "queued": JobStatus.QUEUED.value},
        )

    async def _apply_in_order(self, reports: Sequence[tuple[int, Report]], now: float) -> list[Item]:
        ended: list[Item] = []
        for number, report in reports:
            if report.status is JobStatus.RUNNING:
                await self._write(report, _running(report, now), keep_attempts=False)
            elif (item := await self._end(report, now, number)) is not None:
                ended.append(item)
        return ended

    async def _end(self, report: Report, now: float, number: int) -> Item | None:
        finish_seq = job_items.new_finish_seq(now, number)
        return await self._write(report, _ending(report, now, finish_seq), keep_attempts=False)

    async def _write(self, report: Report, values: Item, *, keep_attempts: bool) -> Item | None:
        """Move an open job of the report's algorithm; None if there is none. An attempt's number only grows."""
        attempt = report.attempt or 1
        changed = {**values, "attempts": None if keep_attempts else attempt}
        older = "" if keep_attempts else " AND #attempts <= :attempts"
        try:
            return await self._table.update(
                {"job_id": report.job_id},
                _change(changed, ends=report.status is not JobStatus.RUNNING),
                condition=f"#algo_id = :algo_id AND {IS_OPEN}{older}",
                values={**changed, **OPEN_VALUES, "algo_id": report.algo_id},
            )
        except ConditionFailed as error:
            item = error.item
        if item is None or item["algo_id"] != report.algo_id:
            return None
        if is_open(item) and item["attempts"] > attempt and not keep_attempts:
            return await self._write(report, values, keep_attempts=True)
        return item if item.get("finish_seq") == values.get("finish_seq", "") else None


def _running(report: Report, now: float) -> Item:
    return {
        "status": JobStatus.RUNNING.value,
        "started": now if report.started_at is None else report.started_at,
        "progress": report.progress,
        "error": report.error.model_dump_json() if report.error else None,
    }


def _ending(report: Report, now: float, finish_seq: str) -> Item:
    status, error = report.status, report.error
    result: JobResult | None = None
    if report.result is not None:
        kept = bounded(report.result)
        if isinstance(kept, JobError):
            status, error = JobStatus.FAILED, kept
        else:
            result = kept
    return {
        "status": status.value,
        "started": report.started_at,
        "finished": now,
        "finish_seq": finish_seq,
        # Where the job was to be stored, this puts it into the index of those (clause T1).
        "store_at": job_items.moment(now) if status is JobStatus.SUCCEEDED else None,
        "expires_at": int(now + KEPT_S),
        "progress": 1.0 if status is JobStatus.SUCCEEDED else None,
        "error": error.model_dump_json() if error else None,
        "result": result.model_dump_json() if result else None,
    }


def _change(values: Item, *, ends: bool) -> str:
    """The update that writes what is given; a start stays the first one's, and an end leaves no older error."""
    parts = [
        f"#{name} = " + (f"if_not_exists(#started, :{name})" if name == "started" else f":{name}")
        for name, value in values.items()
        if value is not None
    ]
    if not ends:
        return f"SET {', '.join(parts)}"
    parts.append("#unseen_client = #client_id")
    gone = ["#open_algo", "#unsent", "#unsent_since", *([] if values["error"] else ["#error"])]
    return f"SET {', '.join(parts)} REMOVE {', '.join(gone)}"
