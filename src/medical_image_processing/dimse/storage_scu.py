"""The Storage SCU: results to a node, one association an instance (PS3.4, annex B)."""

from __future__ import annotations

import asyncio
import queue
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from medical_image_processing.dicom.identity import FileMeta, read_file_meta, read_identity
from medical_image_processing.dimse import limits
from medical_image_processing.dimse.application_entity import create_entity
from medical_image_processing.dimse.nodes import Node
from medical_image_processing.dimse.peer_socket import PeerSocket
from medical_image_processing.errors import PermanentError, Unavailable

_SIDE_BY_SIDE = 4
_THREADS = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="dimse-send")
_OPEN: set[Association] = set()
_MOST_QUEUED = 16
"""PDUs between the file and the socket."""
_LOOK_S = 0.5
_TRANSIENT_REJECTION = 2
_DUPLICATE = 0x0111
_PROCESSING_FAILURE = 0x0110


def hang_up() -> None:
    """End what is under way: Python waits for these threads before it exits, a silent node for a minute."""
    for association in list(_OPEN):
        provider: Any = association.dul
        if provider.socket is not None and provider.socket.socket is not None:
            with suppress(OSError):
                provider.socket.socket.shutdown(socket.SHUT_RDWR)


class NodeWriter:
    """Implements :class:`ports.storing.PacsWriter` over a node; ``title`` is our own AE title there."""

    def __init__(self, node: Node, title: str) -> None:
        self._node = node
        self._title = title

    async def store(self, file: Path, study_id: str) -> None:
        """Send the instance as it is; one that the node has already it may refuse or replace by its like.

        PermanentError ``NOT_DICOM``, ``SEND_REFUSED``; Unavailable ``NODE_UNAVAILABLE``.
        """
        await asyncio.get_running_loop().run_in_executor(_THREADS, self._send, file, study_id)

    def _send(self, file: Path, study_id: str) -> None:
        with file.open("rb") as stream:
            meta = read_file_meta(stream)
            stream.seek(0)
            found = read_identity(stream)
        if not all((meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid)):
            raise PermanentError("NOT_DICOM", "the result is no DICOM file with its meta information")
        if study_id and (found is None or found.study_uid != study_id):
            raise PermanentError(
                "SEND_REFUSED", "the result is not of the study that its job was given; nothing was sent"
            )
        association = self._associate(meta)
        try:
            status = association.send_c_store(str(file))
        except (ValueError, AttributeError) as error:  # pynetdicom found no way to send it
            raise PermanentError("NOT_DICOM", "the result can't be read as a DICOM file") from error
        except RuntimeError as error:
            raise self._unavailable("the association ended early") from error
        finally:
            association.release()
            _OPEN.discard(association)
        self._check(status)

    def _associate(self, meta: FileMeta) -> Association:
        entity = create_entity(self._title)
        entity.add_requested_context(meta.sop_class_uid, meta.transfer_syntax_uid)
        try:
            association = entity.associate(
                self._node.host,
                self._node.port,
                ae_title=self._node.title,
                evt_handlers=[(evt.EVT_CONN_OPEN, _bound)],
            )
        except OSError as error:  # connecting raises none, but looking up the host does
            raise self._unavailable(f"its host {self._node.host} can't be looked up") from error
        if association.is_established:
            return association
        _OPEN.discard(association)
        if association.is_rejected:
            answer: Any = association.acceptor.primitive
            codes = f"({answer.result}, {answer.result_source}, {answer.diagnostic})"
            when = (
                "now"
                if answer.result == _TRANSIENT_REJECTION
                else f"from {self._title}: is that title known there?"
            )
            raise self._unavailable(f"it takes no association {when} {codes}")
        if association.rejected_contexts:
            raise PermanentError(
                "SEND_REFUSED",
                f"{self._node.title} takes no {association.rejected_contexts[0].abstract_syntax} in "
                f"{meta.transfer_syntax_uid}",
            )
        raise self._unavailable("it does not answer")

    def _check(self, answer: Any) -> None:
        """The status of a C-STORE response (PS3.4, table B.2-1)."""
        if "Status" not in answer:
            raise self._unavailable("no answer came")
        status = int(answer.Status)
        if status in (0x0000, _DUPLICATE) or 0xB000 <= status <= 0xBFFF:
            return
        if status == _PROCESSING_FAILURE or 0xA700 <= status <= 0xA7FF:
            raise self._unavailable(f"it could not store the result now: status {status:#06x}")
        raise PermanentError("SEND_REFUSED", f"{self._node.title} does not take the result: status {status:#06x}")

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable("NODE_UNAVAILABLE", f"the node {self._node.title} can't be sent to: {why}")


def _bound(event: Event) -> None:
    """pynetdicom leaves a connection without any time limit, and queues a whole file before it sends it."""
    _OPEN.add(event.assoc)
    provider: Any = event.assoc.dul
    connection = provider.socket
    if connection is not None and connection.socket is not None:
        connection.socket = PeerSocket(connection.socket)
    waiting = provider.to_provider_queue
    waiting.maxsize = _MOST_QUEUED
    usual = waiting.put

    def put(item: Any) -> None:
        until = time.monotonic() + limits.PDU_TIMEOUT_S
        while True:
            try:
                usual(item, timeout=_LOOK_S)
                return
            except queue.Full:
                if not provider.is_alive() or time.monotonic() > until:
                    waiting.maxsize = 0  # the association's own end must find room
                    raise RuntimeError("the node takes nothing more") from None

    waiting.put = put
