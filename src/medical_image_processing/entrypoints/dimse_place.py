"""C-STORE in and out, put together: the SCP, the jobs that what it takes becomes, and the way of their results."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from medical_image_processing.control.receiving import Receiving
from medical_image_processing.control.router import Router
from medical_image_processing.control.storing import Sending
from medical_image_processing.dimse.storage_scp import StorageScp
from medical_image_processing.dimse.storage_scu import NodeWriter, hang_up
from medical_image_processing.engines.embedded.engine import EmbeddedEngine
from medical_image_processing.entrypoints.dimse_options import DimseSettings
from medical_image_processing.entrypoints.pacs_place import PacsPlace
from medical_image_processing.errors import Conflict, Unavailable
from medical_image_processing.model.job import Job

_LOG = logging.getLogger(__name__)
_TITLE_CHARS = 16


class DimsePlace:
    """``start`` on the event loop, then ``run``; ``close`` after. ``folder`` is for what is not received yet."""

    def __init__(
        self,
        settings: DimseSettings,
        engine: EmbeddedEngine,
        router: Router,
        pacs: PacsPlace,
        folder: Path,
        *,
        is_inside: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._title_of = {algo_id: title for title, algo_id in reversed(list(settings.titles.items()))}
        self._receiving = Receiving(
            engine.arrivals,
            engine.registry,
            router,
            pacs.intake,
            pacs.index,
            titles=settings.titles,
            send_to=settings.send_to,
        )
        self._sending = Sending(engine.results_to_send, engine.output_files, self._node_of)
        self._scp = StorageScp(
            self._receiving, settings.nodes, folder, any_address=settings.any_address, is_refused=is_inside
        )
        self._is_listening = False
        self.port = 0

    def start(self) -> None:
        """Listen. Conflict ``PORT_UNUSABLE``."""
        settings = self._settings
        try:
            self.port = self._scp.start(settings.host, settings.port)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise Conflict(
                "PORT_UNUSABLE",
                f"can't listen on {settings.host} port {settings.port}: {reason}; choose another --dimse-port",
            ) from error
        self._is_listening = True
        _LOG.info("C-STORE is taken on %s port %d from %s", settings.host, self.port, ", ".join(settings.nodes))

    def state(self) -> str | None:
        """``ok``, or what has trouble now. Not in its words: they may name hosts, and anybody may ask."""
        if (late := self._receiving.trouble) is not None:
            return f"{late.code}: a series that came has no job yet; the log says why"
        if (unsent := self._sending.trouble) is not None:
            return f"{unsent.code}: a result is not at its node yet; its job and the log say why"
        return "ok"

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._scp.watch())
            tasks.create_task(self._receiving.run())
            tasks.create_task(self._sending.run())

    async def close(self) -> None:
        """Take nothing more."""
        if self._is_listening:
            await self._scp.close()
        hang_up()

    def _node_of(self, job: Job) -> NodeWriter:
        node = self._settings.nodes.get(job.send_to or "")
        if node is None:
            raise Unavailable(
                "NODE_UNKNOWN", f"{job.send_to} is no node of this platform any more; give it with --dimse-node"
            )
        return NodeWriter(node, self._title_of.get(job.algo_id, job.algo_id.upper()[:_TITLE_CHARS]))
