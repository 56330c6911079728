"""The Storage SCP (PS3.4, annex B; PS3.7, section 9.1.1): associations from known nodes, instances into an intake.

pynetdicom runs each association in threads of its own; what they ask of the platform runs on its event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from socketserver import BaseServer
from typing import Any, Protocol, TypeVar

from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer

from medical_image_processing.dicom.identity import Identity, read_identity
from medical_image_processing.dimse import limits
from medical_image_processing.dimse.application_entity import create_entity, quiet_threads
from medical_image_processing.dimse.capabilities import capabilities, is_image, storage_classes
from medical_image_processing.dimse.nodes import Node
from medical_image_processing.dimse.peer_socket import PeerSocket
from medical_image_processing.errors import (
    Conflict,
    InvalidRequest,
    MipError,
    PermanentError,
    TransientError,
    Unavailable,
)
from medical_image_processing.ports.arrivals import ArrivedSeries

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_TITLE = "MIP"
_LOOK_EVERY_S = 0.5
_ASK_TIMEOUT_S = 10.0
_CLOSE_S = 2.0
_UNFINISHED_S = 2 * limits.STORE_TIMEOUT_S
_SUCCESS = 0x0000
_NOT_AUTHORIZED = 0x0124
_OUT_OF_RESOURCES = 0xA700
_WRONG_CLASS = 0xA900
_CANNOT_UNDERSTAND = 0xC000
"""PS3.4, table B.2-1, and PS3.7, annex C."""
_COMMENT_CHARS = 64


class Intake(Protocol):
    """What the SCP needs of the platform."""

    async def find_algorithm(self, title: str) -> str:
        """The algorithm that an AE title names. NotFound; Conflict when it takes no jobs now; InvalidRequest when
        it takes none that come so."""

    async def take(self, association: object, series: ArrivedSeries, sop_uid: str, file: Path) -> None:
        """Make an image durable. MipError."""

    async def keep(self, file: Path) -> None:
        """Make an instance durable that is no image. MipError."""

    def end(self, association: object) -> None:
        """The association brings nothing more."""


class Rejection(Exception):
    """An association is not taken: result, source and reason of its A-ASSOCIATE-RJ (PS3.8, section 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int, why: str) -> None:
        super().__init__(why)
        self.codes = (result, source, reason)


_NEVER = (1, 1, 1)
_CALLING_NOT_RECOGNIZED = (1, 1, 3)
_CALLED_NOT_RECOGNIZED = (1, 1, 7)
_NOT_NOW = (2, 1, 1)
_CONGESTION = (2, 3, 1)
_TOO_MANY = (2, 3, 2)


@dataclass(frozen=True)
class _Caller:
    node: Node
    algo_id: str | None
    """None where it may do no more than C-ECHO."""


class StorageScp:
    """Listens from ``start`` to ``close``. ``folder`` is for what is not received completely yet.

    ``is_refused(address)`` tells whether nobody there may even connect.
    """

    def __init__(
        self,
        intake: Intake,
        nodes: Mapping[str, Node],
        folder: Path,
        *,
        any_address: bool = False,
        is_refused: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._intake = intake
        self._nodes = dict(nodes)
        self._folder = folder
        self._any_address = any_address
        self._is_refused = is_refused
        self._callers: dict[Association, _Caller] = {}
        self._entity = create_entity(_TITLE)
        # pynetdicom's own limit counts connections that have not asked for an association, too; ours does not.
        self._entity.maximum_associations = limits.CONNECTIONS

    def start(self, host: str, port: int) -> int:
        """Listen; the port. OSError when it can't. To be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._sweep(time.time())
        # pynetdicom's chunked receiving has no other say in where its files are.
        tempfile.tempdir = str(self._folder)
        quiet_threads()
        server: Any = self._entity.make_server(
            (host, port),
            contexts=[build_context(one.sop_class_uid, list(one.transfer_syntax_uids)) for one in _received()],
            evt_handlers=[
                (evt.EVT_REQUESTED, self._on_request),
                (evt.EVT_RELEASED, self._on_end),
                (evt.EVT_ABORTED, self._on_end),
                (evt.EVT_CONN_CLOSE, _on_close),
                (evt.EVT_C_ECHO, lambda _: _SUCCESS),
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_DIMSE_RECV, _on_message),
                (evt.EVT_PDU_RECV, _on_pdu),
            ],
            server_class=_Server,
            is_refused=self._is_refused,
            is_known=self._is_known,
        )
        self._server = server
        threading.Thread(target=server.serve_forever, name="dimse", daemon=True).start()
        return int(server.server_address[1])

    async def watch(self) -> None:
        """Notice associations that ended in any other way, and what they left, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for association in list(self._callers):
                if not association.is_alive():
                    self._end(association)
            await asyncio.to_thread(self._sweep, time.time() - _UNFINISHED_S)

    async def close(self) -> None:
        """Listen no more; open associations are aborted."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._server.stop()
        still_open = self._server.active_associations
        for association in still_open:
            association.abort(block=False)
        # What is being stored needs the PACS and the database a little longer.
        until = time.monotonic() + _CLOSE_S
        for association in still_open:
            association.join(max(0.0, until - time.monotonic()))

    def _sweep(self, before: float) -> None:
        """Remove what associations left that broke off: what was last written to ``before`` that."""
        for file in self._folder.glob("*.dcm"):
            with contextlib.suppress(OSError):  # gone just now
                if file.stat().st_mtime < before:
                    file.unlink()

    def _on_request(self, event: Event) -> None:
        association = event.assoc
        request: Any = association.requestor.primitive
        calling, called = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
        address = association.requestor.address
        try:
            proposed = {str(one.abstract_syntax) for one in request.presentation_context_definition_list}
            self._callers[association] = self._admit(calling, called, address, proposed)
        except Exception as error:
            # Whatever it is: pynetdicom would go on and accept.
            rejection = error if isinstance(error, Rejection) else Rejection(*_NOT_NOW, type(error).__name__)
            said = (calling, address, called, *rejection.codes, rejection)
            _LOG.warning("association from %r at %s to %r rejected (%d, %d, %d): %s", *said)
            association.acse.send_reject(*rejection.codes)
            association.kill()

    def _admit(self, calling: str, called: str, address: str, proposed: set[str]) -> _Caller:
        node = self._nodes.get(calling)
        if node is None:
            raise Rejection(*_CALLING_NOT_RECOGNIZED, "the calling AE title is no configured node")
        if not self._any_address and not self._is_at(node, address):
            raise Rejection(*_CALLING_NOT_RECOGNIZED, f"this node is expected from {node.host}")
        if sum(association.is_alive() for association in list(self._callers)) >= limits.ASSOCIATIONS:
            raise Rejection(*_TOO_MANY, f"there are {limits.ASSOCIATIONS} associations")
        if proposed.isdisjoint(storage_classes()):
            return _Caller(node, None)
        if self._is_disk_full():
            raise Rejection(*_CONGESTION, "too little disk is free")
        try:
            algo_id = self._ask(self._intake.find_algorithm(called), _ASK_TIMEOUT_S)
        except Conflict as error:
            raise Rejection(*_NOT_NOW, str(error)) from error
        except InvalidRequest as error:
            raise Rejection(*_NEVER, str(error)) from error
        except PermanentError as error:
            raise Rejection(*_CALLED_NOT_RECOGNIZED, str(error)) from error
        return _Caller(node, algo_id)

    def _is_known(self, address: str) -> bool:
        try:
            return self._any_address or any(node.is_at(address) for node in self._nodes.values())
        except OSError:
            return True  # it is told why when it asks for an association

    def _is_at(self, node: Node, address: str) -> bool:
        try:
            return node.is_at(address)
        except OSError as error:
            raise Rejection(*_NOT_NOW, f"the host {node.host} can't be looked up") from error

    def _is_disk_full(self) -> bool:
        return shutil.disk_usage(self._folder).free < limits.FREE_DISK_BYTES

    def _on_end(self, event: Event) -> None:
        # An abort from our side may come while an instance is being stored; then ``watch`` sees the end.
        if threading.current_thread() is event.assoc:
            self._loop.call_soon_threadsafe(self._end, event.assoc)

    def _end(self, association: Association) -> None:
        if self._callers.pop(association, None) is not None:
            self._intake.end(association)

    def _on_store(self, event: Event) -> Dataset | int:
        caller = self._callers.get(event.assoc)
        if caller is None or caller.algo_id is None:
            return _NOT_AUTHORIZED
        try:
            self._store(event, caller.node.title, caller.algo_id)
        except Exception as error:
            stated = error if isinstance(error, MipError) else _unforeseen(error)
            _LOG.warning("an instance from %s was not taken: %s", caller.node.title, stated)
            return _answer(stated)
        return _SUCCESS

    def _store(self, event: Event, node: str, algo_id: str) -> None:
        if self._is_disk_full():
            raise Unavailable("DISK_FULL", "too little disk is free")
        request: Any = event.request
        file = Path(event.dataset_path)
        found = _identify(file, str(event.context.abstract_syntax), str(request.AffectedSOPInstanceUID))
        if is_image(found.sop_class_uid):
            series = ArrivedSeries(node, algo_id, found.study_uid, found.series_uid)
            stored = self._intake.take(event.assoc, series, found.sop_uid, file)
        else:
            stored = self._intake.keep(file)
        self._ask(stored, limits.STORE_TIMEOUT_S)

    def _ask(self, question: Awaitable[T], timeout_s: float) -> T:
        """Ask on the event loop. TimeoutError, after which nothing goes on."""

        async def answer() -> T:
            async with asyncio.timeout(timeout_s):
                return await question

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(2 * timeout_s)


class _Server(ThreadedAssociationServer):
    """Connections of peers that are not trusted, and not too many of them."""

    def __init__(
        self, *given: Any, is_refused: Callable[[str], bool], is_known: Callable[[str], bool], **options: Any
    ) -> None:
        self._is_refused = is_refused
        self._is_known = is_known
        super().__init__(*given, **options)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        return PeerSocket(connection), address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if self._is_refused(client_address[0]):
            return False
        active = len(self.active_associations)
        # When it gets crowded strangers aren't even told that they are; a lookup for each would cost too much.
        if active < limits.CONNECTIONS // 2 or (active < limits.CONNECTIONS and self._is_known(client_address[0])):
            return True
        _LOG.warning("a DICOM connection from %s was closed: there are too many", client_address[0])
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        _LOG.warning("a DICOM connection from %s can't be served", client_address[0])

    def stop(self) -> None:
        """End ``serve_forever`` and close the listening socket."""
        BaseServer.shutdown(self)
        self.server_close()


def _received() -> list[Any]:
    return [one for one in capabilities() if one.role == "SCP"]


def _connection(association: Association) -> PeerSocket | None:
    found = association.dul.socket.socket if association.dul.socket else None
    return found if isinstance(found, PeerSocket) else None


def _on_close(event: Event) -> None:
    """End the wait for a request that can't come any more: its thread would last until ACSE's time is over."""
    if event.assoc.requestor.primitive is None:
        awaited: Any = event.assoc.dul.to_user_queue
        awaited.put(None)


def _on_pdu(event: Event) -> None:
    """Only instances go to a file on the way; anything else is kept in memory until it is complete."""
    connection = _connection(event.assoc)
    is_instance = isinstance(event.assoc.dimse.message, C_STORE_RQ)
    if connection is not None and not is_instance and connection.message_bytes > limits.OTHER_MESSAGE_BYTES:
        connection.refuse(f"a message of more than {limits.OTHER_MESSAGE_BYTES} bytes that is no instance")


def _on_message(event: Event) -> None:
    """A message is complete. A peer must await its answer before the next one: no more than one operation was
    negotiated (PS3.7, annex D.3.3.3)."""
    connection = _connection(event.assoc)
    if connection is None:
        return
    connection.begin_message()
    if event.assoc.dimse.msg_queue.qsize() > 1:
        connection.refuse("it sends without awaiting answers")


def _identify(file: Path, sop_class_uid: str, sop_uid: str) -> Identity:
    with file.open("rb") as stream:
        found = read_identity(stream)
    uids = () if found is None else (found.study_uid, found.series_uid, found.sop_uid)
    if found is None or not all(uid and not uid.startswith(".") for uid in uids) or found.sop_uid != sop_uid:
        raise PermanentError("NOT_DICOM", "the data set lacks its UIDs, or is another instance than announced")
    if found.sop_class_uid != sop_class_uid:
        raise PermanentError("WRONG_SOP_CLASS", "the data set is of another SOP class than announced")
    return found


def _unforeseen(error: Exception) -> MipError:
    if isinstance(error, TimeoutError | concurrent.futures.TimeoutError | concurrent.futures.CancelledError):
        return Unavailable("PACS_UNAVAILABLE", "the PACS did not take it in time")
    return Unavailable("FAILED", type(error).__name__)  # its text may quote anything (A3)


def _answer(error: MipError) -> Dataset:
    """Status and Error Comment of a C-STORE response (PS3.7, section C.4.2)."""
    answer = Dataset()
    answer.Status = _CANNOT_UNDERSTAND
    if isinstance(error, TransientError):
        answer.Status = _OUT_OF_RESOURCES
    elif error.code == "WRONG_SOP_CLASS":
        answer.Status = _WRONG_CLASS
    answer.ErrorComment = error.code[:_COMMENT_CHARS]
    return answer
