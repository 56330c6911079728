"""Finds the open jobs whose message is gone, which nobody would ever run (law J1).

A queue that was removed or purged by hand takes its messages along, and a worker may delete one without a word.
The message of any other open job stands somewhere: on its queue, waiting or in flight; among the dead letters that
nobody has answered for; or as its report on the results queue. That report's group may say nothing of the job, so
what counts is its age: reports younger than the job's loss can't be about it.

A look takes in so many jobs and no more, and the next goes on from there.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from medical_image_processing import naming
from medical_image_processing.engines.embedded import fifo
from medical_image_processing.engines.embedded.database import Database

_WINDOW = 500
_OF_STATUS = (
    "SELECT * FROM (SELECT seq, job_id, algo_id FROM jobs WHERE status = '{}' AND seq > ?1 ORDER BY seq LIMIT ?2)"
)
_OPEN_JOBS = f"{_OF_STATUS.format('QUEUED')} UNION ALL {_OF_STATUS.format('RUNNING')} ORDER BY seq LIMIT ?2"
# Not while the queue itself is missing: the provisioner makes it again, or ends the jobs with their algorithm.
_WITHOUT_MESSAGE = (
    "SELECT value AS job_id FROM json_each(?1) WHERE EXISTS (SELECT 1 FROM queues WHERE name = ?2)"
    " AND NOT EXISTS (SELECT 1 FROM messages m JOIN queues q ON q.queue_id = m.queue_id"
    " WHERE q.name = ?2 AND m.group_id = value)"
    " AND NOT EXISTS (SELECT 1 FROM messages m JOIN queues q ON q.queue_id = m.queue_id"
    " WHERE q.name = ?3 AND m.group_id = value AND m.settled = 0)"
)


class LostJobs:
    """Remembers since when jobs have had no message. ``clock``: the one that messages are dated by."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._place = 0
        self._since: dict[str, float] = {}

    def overdue(self, after_s: float) -> list[tuple[str, float]]:
        """Jobs that seem lost for ``after_s``, and since when. Each is named once, to be checked and mended."""
        now = self._clock()
        for job_id in self._look():
            self._since.setdefault(job_id, now)
        found = [(job_id, since) for job_id, since in self._since.items() if now - since >= after_s][:_WINDOW]
        for job_id, _ in found:
            del self._since[job_id]
        return found

    def _look(self) -> Iterable[str]:
        rows = self._database.read(_OPEN_JOBS, self._place, _WINDOW)
        self._place = rows[-1]["seq"] if len(rows) == _WINDOW else 0
        jobs: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            jobs[row["algo_id"]].append(row["job_id"])
        for algo_id, job_ids in jobs.items():
            for row in self._database.read(_WITHOUT_MESSAGE, *_asked(algo_id, job_ids)):
                yield row["job_id"]


def is_lost(connection: sqlite3.Connection, job: Any, since: float) -> bool:
    """Whether an open job's row has no message, and no report that still waits may be its own."""
    if connection.execute(_WITHOUT_MESSAGE, _asked(job["algo_id"], [job["job_id"]])).fetchone() is None:
        return False
    oldest = fifo.oldest_sent_at(connection, naming.RESULTS_QUEUE)
    return oldest is None or oldest > since


def _asked(algo_id: str, job_ids: Sequence[str]) -> tuple[str, str, str]:
    return json.dumps(job_ids), naming.queue(algo_id), naming.dead_letter_queue(algo_id)
