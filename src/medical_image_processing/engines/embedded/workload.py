"""How much waits, and how jobs have gone, in SQLite: ports.workload."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from medical_image_processing import naming
from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.model.job import Job, JobStatus
from medical_image_processing.ports.workload import MOST_PLACES, RECENT, Backlog, End, Ends

# One statement for a page, in the order that it is written: CROSS JOIN keeps it so. Between a job and the one
# before it that was asked for, the index's entries are counted once.
_POSITIONS = """
WITH asked AS (
    SELECT json_extract(value, '$[0]') AS job_id, json_extract(value, '$[1]') AS queue FROM json_each(?1)
), lines AS MATERIALIZED (
    SELECT q.name, q.queue_id, (
        SELECT w.seq FROM messages w INDEXED BY messages_ready
        WHERE w.queue_id = q.queue_id AND w.is_head = 1 AND w.in_flight = 0 ORDER BY w.seq LIMIT 1 OFFSET ?2
    ) AS beyond
    FROM queues q WHERE q.name IN (SELECT queue FROM asked)
), mine AS (
    SELECT m.group_id AS job_id, m.queue_id, m.seq,
        lag(m.seq, 1, 0) OVER (PARTITION BY m.queue_id ORDER BY m.seq) AS behind
    FROM asked
    CROSS JOIN lines ON lines.name = asked.queue
    CROSS JOIN messages m INDEXED BY messages_by_group ON m.queue_id = lines.queue_id AND m.group_id = asked.job_id
    WHERE m.is_head = 1 AND m.in_flight = 0 AND (lines.beyond IS NULL OR m.seq < lines.beyond)
), counted AS (
    SELECT job_id, queue_id, seq, (
        SELECT count(*) FROM messages w INDEXED BY messages_ready WHERE w.queue_id = mine.queue_id
            AND w.is_head = 1 AND w.in_flight = 0 AND w.seq > mine.behind AND w.seq <= mine.seq
    ) AS gap FROM mine
)
SELECT job_id, sum(gap) OVER (PARTITION BY queue_id ORDER BY seq) AS position FROM counted
"""
_RUN_TIMES = """
SELECT asked.value AS algo_id, j.finished_at - j.started_at AS seconds
FROM json_each(?) AS asked
JOIN jobs j ON j.seq IN (
    SELECT seq FROM jobs INDEXED BY jobs_by_algorithm
    WHERE algo_id = asked.value AND status = 'SUCCEEDED' ORDER BY seq DESC LIMIT ?
)
WHERE j.started_at IS NOT NULL
"""
_ENDS = (
    "SELECT status, started_at, finished_at FROM jobs INDEXED BY jobs_ended"
    " WHERE algo_id = ? AND finished_at >= ? AND finish_seq IS NOT NULL ORDER BY finished_at DESC LIMIT ?"
)
_OLDEST = (
    "SELECT m.sent_at FROM messages m INDEXED BY messages_ready JOIN queues q ON q.queue_id = m.queue_id"
    " WHERE q.name = ? AND m.is_head = 1 AND m.in_flight = 0 ORDER BY m.seq LIMIT 1"
)
_COUNTS = (
    "SELECT q.depth, (SELECT count(*) FROM messages m INDEXED BY messages_in_flight"
    " WHERE m.queue_id = q.queue_id AND m.in_flight = 1 AND m.visible_at > ?) AS held"
    " FROM queues q WHERE q.name = ?"
)


class SqliteWorkload:
    """Implements :class:`ports.workload.Workload`. The first ``most_places`` of a queue are numbered."""

    def __init__(self, database: Database, *, clock: Callable[[], float], most_places: int = MOST_PLACES) -> None:
        self._database = database
        self._clock = clock
        self._most_places = most_places

    async def positions(self, jobs: Sequence[Job]) -> dict[str, int]:
        """Job id → its place among the messages that are ready."""
        queued = [job for job in jobs if job.status is JobStatus.QUEUED]
        if not queued:
            return {}
        asked = json.dumps([(job.job_id, naming.queue(job.algo_id)) for job in queued])
        return {
            row["job_id"]: row["position"] for row in self._database.read(_POSITIONS, asked, self._most_places)
        }

    async def run_times(self, algo_ids: Sequence[str]) -> dict[str, list[float]]:
        """Algorithm → seconds that its newest jobs took."""
        times: dict[str, list[float]] = {}
        for row in self._database.read(_RUN_TIMES, json.dumps(sorted(set(algo_ids))), RECENT):
            times.setdefault(row["algo_id"], []).append(row["seconds"])
        return times

    async def ends(self, algo_id: str, *, since: float, limit: int) -> Ends:
        """At most ``limit`` ends, newest first."""
        rows = self._database.read(_ENDS, algo_id, since, limit)
        ends = tuple(End(JobStatus(row["status"]), row["started_at"], row["finished_at"]) for row in rows)
        return Ends(ends, ends[-1].finished_at if len(ends) == limit else since)

    async def backlog(self, algo_id: str) -> Backlog:
        """As it is now."""
        queue = naming.queue(algo_id)
        rows = self._database.read(_COUNTS, self._clock(), queue)
        if not rows:
            return Backlog(0, 0, None)
        oldest = self._database.read(_OLDEST, queue)
        held = rows[0]["held"]
        return Backlog(rows[0]["depth"] - held, held, oldest[0]["sent_at"] if oldest else None)
