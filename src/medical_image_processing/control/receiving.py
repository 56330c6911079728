"""Takes in what nodes send by C-STORE: instances into the PACS, then one job a series.

An instance counts as received once it is in the PACS and on record; whatever is killed after that, its series gets
its job. A series' job is sent when no open association has brought images of it, so that one that comes over
several associations is one job. Its job_id follows from what came: the same images again are the same job (law
J3), and more images another.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from medical_image_processing.control.router import Router
from medical_image_processing.errors import Conflict, InvalidRequest, MipError, NotFound
from medical_image_processing.model.job import PacsRef, ProcessRequest, Scope
from medical_image_processing.model.parameters import find_problems
from medical_image_processing.ports.arrivals import Arrivals, Arrived, ArrivedSeries
from medical_image_processing.ports.registry import Registry
from medical_image_processing.ports.storing import PacsWriter

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_S = 5.0
FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 300.0


class Receiving:
    """Instances in, jobs out. Every step may be repeated after a crash.

    ``titles`` are AE titles of algorithms; any other title names the algorithm whose id it is in upper case.
    ``index`` returns once the PACS finds everything stored before. ``send_to`` is the node that gets the results,
    None for the one that sent the images.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        registry: Registry,
        router: Router,
        pacs: PacsWriter,
        index: Callable[[], Awaitable[None]],
        *,
        titles: Mapping[str, str],
        send_to: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arrivals = arrivals
        self._registry = registry
        self._router = router
        self._pacs = pacs
        self._index = index
        self._titles = dict(titles)
        self._send_to = send_to
        self._clock = clock
        self._open: dict[object, set[ArrivedSeries]] = {}
        self._put_off: dict[ArrivedSeries, tuple[int, float, MipError]] = {}
        self._woken = asyncio.Event()

    @property
    def trouble(self) -> MipError | None:
        """Why a series that came has no job yet, if one has not."""
        return next((error for _, _, error in self._put_off.values()), None)

    async def find_algorithm(self, title: str) -> str:
        """The algorithm that an AE title names.

        NotFound ``UNKNOWN_TITLE``; Conflict ``ALGORITHM_NOT_ACTIVE``; InvalidRequest ``PARAMETERS_NEEDED``.
        """
        named = self._titles.get(title)
        algo_id = named or title.lower()
        algorithm = await self._registry.get(algo_id) if named or title == title.upper() else None
        if algorithm is None:
            raise NotFound("UNKNOWN_TITLE", "the called AE title names no registered algorithm")
        if not algorithm.takes_jobs:
            raise Conflict(
                "ALGORITHM_NOT_ACTIVE",
                f"'{algo_id}' is {algorithm.status} with desired_count {algorithm.desired_count}",
            )
        if algorithm.parameters is not None and (needed := find_problems(algorithm.parameters, {})):
            raise InvalidRequest(
                "PARAMETERS_NEEDED",
                f"the record of '{algo_id}' requires the parameters {', '.join(needed)}, and C-STORE brings none",
            )
        return algo_id

    async def take(self, association: object, series: ArrivedSeries, sop_uid: str, file: Path) -> None:
        """Put an image into the PACS and on record; what PacsWriter and Arrivals raise."""
        self._open.setdefault(association, set()).add(series)
        await self._pacs.store(file, series.study_uid)
        await self._arrivals.note(series, sop_uid)

    async def keep(self, file: Path) -> None:
        """Put an instance that is no image into the PACS: there is nothing in it to process."""
        await self._pacs.store(file, "")

    def end(self, association: object) -> None:
        """It brings nothing more."""
        if self._open.pop(association, None):
            self._woken.set()

    async def run(self) -> None:
        """Send jobs until cancelled."""
        while True:
            try:
                await self.send_jobs()
            except MipError as error:
                _LOG.error("what nodes sent can't be looked at now and will be again: %s", error)
            except Exception as error:  # nobody foresaw it; its text may quote anything (A3)
                _LOG.error("what nodes sent can't be looked at: %s", type(error).__name__)
                await asyncio.sleep(_LOOK_EVERY_S)
            try:
                async with asyncio.timeout(self._wait_s()):
                    await self._woken.wait()
            except TimeoutError:
                continue
            self._woken.clear()

    async def send_jobs(self) -> int:
        """A job for each series that is complete; how many they were."""
        due = [one for one in await self._arrivals.waiting() if not self._is_arriving(one) and self._is_due(one)]
        if not due:
            return 0
        arrived = [await self._arrivals.look(series) for series in due]
        try:
            await self._index()  # once for all of them: a large folder takes its time
        except MipError as error:
            for series in due:
                self._put_off_job(series, error)
            return 0
        return sum([await self._send_job(one) for one in arrived])

    async def _send_job(self, arrived: Arrived) -> bool:
        series = arrived.series
        if self._is_arriving(series):
            return False
        try:
            accepted = await self._router.submit(
                series.algo_id,
                ProcessRequest(
                    job_id=job_id(series, arrived.sop_uids),
                    client_id=client_id(series.node),
                    pacs=PacsRef(study_id=series.study_uid, series_id=series.series_uid, scope=Scope.SERIES),
                ),
                send_to=self._send_to or series.node,
            )
            await self._arrivals.done(arrived, accepted.job_id)
        except MipError as error:
            self._put_off_job(series, error)
            return False
        self._put_off.pop(series, None)
        if accepted.created:
            _LOG.info("%s sent %d images: job %s", series.node, len(arrived.sop_uids), accepted.job_id)
        else:
            _LOG.info("%s sent the same images again: job %s as before", series.node, accepted.job_id)
        return True

    def _put_off_job(self, series: ArrivedSeries, error: MipError) -> None:
        attempts = self._put_off[series][0] if series in self._put_off else 0
        pause_s = min(FIRST_PAUSE_S * 2 ** min(attempts, 20), LAST_PAUSE_S)
        self._put_off[series] = (attempts + 1, self._clock() + pause_s, error)
        _LOG.warning("a series from %s has no job yet, and will be tried again: %s", series.node, error)

    def _is_arriving(self, series: ArrivedSeries) -> bool:
        return any(series in bringing for bringing in self._open.values())

    def _is_due(self, series: ArrivedSeries) -> bool:
        return series not in self._put_off or self._put_off[series][1] <= self._clock()

    def _wait_s(self) -> float:
        waiting = [at for series, (_, at, _) in self._put_off.items() if not self._is_arriving(series)]
        next_at = min(waiting, default=self._clock() + _LOOK_EVERY_S)
        return max(0.05, min(_LOOK_EVERY_S, next_at - self._clock()))


def job_id(series: ArrivedSeries, sop_uids: tuple[str, ...]) -> str:
    """The job of exactly these images, from this node, for this algorithm."""
    said = "\n".join((*series, *sop_uids))
    return f"dimse-{hashlib.sha256(said.encode()).hexdigest()[:40]}"


def client_id(node: str) -> str:
    """Whose the jobs are that a node causes."""
    return f"dimse.{node}"
