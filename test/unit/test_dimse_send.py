"""What becomes of a result that is sent to a node, by what the node answers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt

from medical_image_processing.dimse.nodes import Node
from medical_image_processing.dimse.storage_scu import NodeWriter
from medical_image_processing.errors import MipError, PermanentError, Unavailable

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
FILE = Path(str(get_testdata_file("CT_small.dcm")))


class Peer:
    """pynetdicom's SCP at the other end; ``came`` is the data sets it got, as bytes."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.came: list[bytes] = []
        self.calling: list[str] = []

    def store(self, event: Any) -> int:
        # In this process our own settings hold for it, too: what came is in a file.
        self.came.append(Path(event.dataset_path).read_bytes())
        self.calling.append(event.assoc.requestor.ae_title)
        return self.status


@contextmanager
def running_peer(
    status: int = 0x0000, *, takes: str = CT, knows: str | None = None
) -> Iterator[tuple[Peer, Node]]:
    peer, entity = Peer(status), AE("NODE")
    entity.add_supported_context(takes, "1.2.840.10008.1.2.1")
    entity.require_called_aet = True
    if knows is not None:
        entity.require_calling_aet = [knows]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, peer.store)])
    assert server is not None
    try:
        yield peer, Node("NODE", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()


def send(node: Node, file: Path = FILE) -> MipError | None:
    """What sending raised."""
    try:
        asyncio.run(NodeWriter(node, "LIVER").store(file, ""))
    except MipError as error:
        return error
    return None


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB007, 0x0111])
def test_what_a_node_takes_or_has_already_is_sent(status: int) -> None:
    with running_peer(status) as (peer, node):
        assert send(node) is None
        assert peer.calling == ["LIVER"]
        assert peer.came[0][-30_000:] == FILE.read_bytes()[-30_000:], "it goes out as it is"


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0110])
def test_what_a_node_can_t_take_now_is_tried_again(status: int) -> None:
    with running_peer(status) as (_, node):
        error = send(node)
    assert isinstance(error, Unavailable) and f"{status:#06x}" in error.message


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122, 0x0124])
def test_what_a_node_refuses_is_not(status: int) -> None:
    with running_peer(status) as (_, node):
        error = send(node)
    assert isinstance(error, PermanentError) and error.code == "SEND_REFUSED" and f"{status:#06x}" in error.message


def test_a_result_of_another_study_than_its_job_s_is_not_sent() -> None:
    study = str(pydicom.dcmread(FILE).StudyInstanceUID)
    with running_peer() as (peer, node):
        asyncio.run(NodeWriter(node, "LIVER").store(FILE, study))
        with pytest.raises(PermanentError) as refused:
            asyncio.run(NodeWriter(node, "LIVER").store(FILE, "1.2.3"))
    assert refused.value.code == "SEND_REFUSED" and len(peer.came) == 1


def test_a_class_that_a_node_does_not_take_is_refused() -> None:
    with running_peer(takes=MR) as (_, node):
        error = send(node)
    assert isinstance(error, PermanentError) and error.code == "SEND_REFUSED" and CT in error.message


def test_a_node_that_does_not_know_us_says_so() -> None:
    with running_peer(knows="SOMEBODY") as (_, node):
        error = send(node)
    assert isinstance(error, Unavailable) and "(1, 1, 3)" in error.message and "LIVER" in error.message


def test_a_node_that_is_not_there_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for node in (Node("NODE", "127.0.0.1", port), Node("NODE", "no-such-host.invalid", 104)):
        error = send(node)
        assert isinstance(error, Unavailable) and error.code == "NODE_UNAVAILABLE"


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x02\x00\xff\xff\xff\xff", bytes(2000)]
)
def test_what_is_no_dicom_node_is_tried_again(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        error = send(Node("NODE", "127.0.0.1", server.getsockname()[1]))
        thread.join(10)
    assert isinstance(error, Unavailable) and error.code == "NODE_UNAVAILABLE"


def test_what_is_no_dicom_file_is_not_sent(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(FILE.read_bytes()[:200])
    for file in (Path(__file__), broken):
        error = send(Node("NODE", "127.0.0.1", 9), file)
        assert isinstance(error, PermanentError) and error.code == "NOT_DICOM"
