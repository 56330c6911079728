"""What nodes sent and no job is for yet: ports.arrivals."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from medical_image_processing.engines.embedded.database import Database
from medical_image_processing.engines.embedded.registry import write_audit
from medical_image_processing.ports.arrivals import Arrived, ArrivedSeries

_OF_SERIES = "node = ? AND algo_id = ? AND study_uid = ? AND series_uid = ?"


class SqliteArrivals:
    """Implements :class:`ports.arrivals.Arrivals`."""

    def __init__(self, database: Database, *, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def note(self, series: ArrivedSeries, sop_uid: str) -> None:
        """One row an instance."""
        sql = "INSERT INTO arrivals (node, algo_id, study_uid, series_uid, sop_uid) VALUES (?, ?, ?, ?, ?)"

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(sql, (*series, sop_uid))

        await self._database.write(insert)

    async def waiting(self) -> Sequence[ArrivedSeries]:
        """Series with rows."""
        rows = self._database.read(
            "SELECT node, algo_id, study_uid, series_uid FROM arrivals GROUP BY 1, 2, 3, 4 ORDER BY min(seq)"
        )
        return [ArrivedSeries(*row) for row in rows]

    async def look(self, series: ArrivedSeries) -> Arrived:
        """Its rows."""
        sql = f"SELECT seq, sop_uid FROM arrivals WHERE {_OF_SERIES}"  # noqa: S608 - fixed text
        rows = self._database.read(sql, *series)
        receipt = max((row["seq"] for row in rows), default=0)
        return Arrived(series, tuple(sorted({row["sop_uid"] for row in rows})), receipt)

    async def done(self, arrived: Arrived, job_id: str) -> None:
        """The rows go; who sent what for which job is on record (law A4)."""
        series = arrived.series
        details = {"series": series.series_uid, "images": len(arrived.sop_uids), "job_id": job_id}

        def delete(connection: sqlite3.Connection) -> None:
            sql = f"DELETE FROM arrivals WHERE {_OF_SERIES} AND seq <= ?"  # noqa: S608 - fixed text
            if connection.execute(sql, (*series, arrived.receipt)).rowcount:
                write_audit(
                    connection, self._clock(), f"dimse.{series.node}", "receive", series.study_uid, details
                )

        await self._database.write(delete)
