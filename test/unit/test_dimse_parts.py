"""The parts of C-STORE that need no peer: options, nodes, what a connection may carry, what is offered."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from medical_image_processing.dicom.identity import FileMeta, read_file_meta, read_identity
from medical_image_processing.dicom.pixels import readable_syntaxes
from medical_image_processing.dimse import limits
from medical_image_processing.dimse.capabilities import VERIFICATION, capabilities, entity_limits, is_image
from medical_image_processing.dimse.nodes import Node
from medical_image_processing.dimse.peer_socket import PeerSocket
from medical_image_processing.entrypoints.dimse_options import DimseOptions, DimseSettings
from medical_image_processing.entrypoints.settings import Settings
from medical_image_processing.errors import InvalidRequest

CT, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.34"
GIVEN = DimseOptions(port=11112, nodes=("SCANNER=10.0.0.5:104",))


def test_without_a_port_there_is_no_dimse() -> None:
    assert DimseOptions().settings() is None


def test_options_become_settings() -> None:
    given = replace(
        GIVEN,
        host="0.0.0.0",
        nodes=("SCANNER=10.0.0.5:104", "pacs-2=[::1]:4242", "VIEWER=viewer.example:11113"),
        titles=("Liver=processing_1", "LIVER2=processing_1"),
        send_to="VIEWER",
        any_address=True,
    )
    assert given.settings() == DimseSettings(
        "0.0.0.0",
        11112,
        {
            "SCANNER": Node("SCANNER", "10.0.0.5", 104),
            "pacs-2": Node("pacs-2", "::1", 4242),
            "VIEWER": Node("VIEWER", "viewer.example", 11113),
        },
        {"Liver": "processing_1", "LIVER2": "processing_1"},
        "VIEWER",
        True,
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (DimseOptions(host="0.0.0.0"), "--dimse-host"),
        (DimseOptions(nodes=("A=b:1",)), "--dimse-node"),
        (DimseOptions(titles=("A=b",)), "--dimse-title"),
        (DimseOptions(send_to="A"), "--dimse-send-to"),
        (DimseOptions(any_address=True), "--dimse-any-address"),
        (replace(GIVEN, nodes=()), "--dimse-node TITLE=HOST:PORT"),
        (replace(GIVEN, send_to="VIEWER"), "--dimse-send-to"),
        *(
            (replace(GIVEN, nodes=(text,)), "--dimse-node")
            for text in (
                "",
                "SCANNER",
                "SCANNER=",
                "SCANNER=10.0.0.5",
                "SCANNER=:104",
                "SCANNER=h:0",
                "SCANNER=h:65536",
                "SCANNER=h:-1",
                "SCANNER=h:²",
                "=h:104",
                "SEVENTEEN_LETTERS=h:104",
                "A B=h:104",
                "A\\B=h:104",
                "Ä=h:104",
            )
        ),
        (replace(GIVEN, nodes=("A=h:1", "A=h:2")), "given twice"),
        *(
            (replace(GIVEN, titles=(text,)), "--dimse-title")
            for text in ("", "LIVER", "LIVER=", "=a", "LIVER=No", "LIVER=results", "A B=a")
        ),
        (replace(GIVEN, titles=("L=a", "L=b")), "given twice"),
    ],
)
def test_a_wrong_option_is_named(options: DimseOptions, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        options.settings()


def test_without_a_pacs_nothing_can_be_taken(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, pacs=tmp_path, may_store=False, dimse=GIVEN.settings())
    with pytest.raises(InvalidRequest, match="--pacs"):
        settings.check()
    replace(settings, may_store=True).check()


def test_a_node_is_at_its_hosts_addresses() -> None:
    assert Node("A", "127.0.0.1", 1).is_at("127.0.0.1") and Node("A", "127.0.0.1", 1).is_at("::ffff:127.0.0.1")
    assert Node("A", "localhost", 1).is_at("127.0.0.1")
    assert not Node("A", "127.0.0.1", 1).is_at("127.0.0.2") and not Node("A", "127.0.0.1", 1).is_at("::1")
    with pytest.raises(OSError):
        Node("A", "no-such-host.invalid", 1).is_at("127.0.0.1")


@pytest.fixture
def ends() -> Iterator[tuple[PeerSocket, socket.socket]]:
    """Our end, with a limit of 2,000 bytes a message; the peer's."""
    ours, theirs = socket.socketpair()
    with PeerSocket(ours, pdu_timeout_s=60, most_message_bytes=2000) as guarded, theirs:
        theirs.settimeout(30)
        yield guarded, theirs


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def test_pdus_pass_in_whatever_pieces_they_come(ends: tuple[PeerSocket, socket.socket]) -> None:
    ours, theirs = ends
    sent = pdu(1, b"a" * 300) + pdu(4, b"b" * 7) + pdu(4, b"") + pdu(5, b"c" * 4)
    theirs.sendall(sent)
    received = b""
    while len(received) < len(sent):
        received += ours.recv(1 + len(received) % 11)
    assert received == sent


@pytest.mark.parametrize(
    "sent",
    [
        pdu(4, b"", limits.PDU_BYTES + 1),
        pdu(1, b"", limits.OTHER_PDU_BYTES + 1),
        pdu(7, b"", 0xFFFFFFFF),
        pdu(1, b"a") + pdu(0, b""),
        pdu(8, b"abc"),
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_a_peer_that_goes_too_far_gets_an_abort(ends: tuple[PeerSocket, socket.socket], sent: bytes) -> None:
    ours, theirs = ends
    theirs.sendall(sent)
    with pytest.raises(ConnectionAbortedError):
        for _ in range(100):
            ours.recv(3)
    assert theirs.recv(100) == bytes.fromhex("07 00 00000004 00 00 02 06")
    with pytest.raises(ConnectionAbortedError):
        theirs.sendall(b"more")
        ours.recv(3)


def test_a_message_has_a_largest_size(ends: tuple[PeerSocket, socket.socket]) -> None:
    ours, theirs = ends
    part = pdu(4, bytes(900))
    for _ in range(3):
        theirs.sendall(part * 2)
        ours.recv(5000)
        ours.begin_message()
    theirs.sendall(part * 3)
    with pytest.raises(ConnectionAbortedError, match="2000"):
        ours.recv(5000)


def test_a_pdu_that_trickles_is_cut_off() -> None:
    ours, theirs = socket.socketpair()
    with PeerSocket(ours, pdu_timeout_s=1e-6) as guarded, theirs:
        theirs.sendall(pdu(4, b"a" * 1000, 100_000))
        with pytest.raises(ConnectionAbortedError, match="not complete"):
            for _ in range(1000):
                guarded.recv(1)


def test_a_pdu_that_stops_is_cut_off() -> None:
    ours, theirs = socket.socketpair()
    with PeerSocket(ours, pdu_timeout_s=0.2) as guarded, theirs:
        theirs.sendall(pdu(4, b"a", 100))
        with pytest.raises((TimeoutError, ConnectionAbortedError)):  # the latter where that much took too long
            guarded.recv(7)
            guarded.recv(93)


def test_what_is_offered_is_what_is_read() -> None:
    offered = {one.sop_class_uid: one for one in capabilities() if one.role == "SCP"}
    assert offered[CT].transfer_syntax_uids == readable_syntaxes() and offered[CT].makes_jobs
    assert not offered[SR].makes_jobs and VERIFICATION in offered
    page = Path(__file__).parents[2].joinpath("docs/objects.md").read_text()
    assert "HTJ2K" in page and "1.2.840.10008.1.2.4.202" in readable_syntaxes()
    video, jpeg_xl = "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.110"
    assert video not in readable_syntaxes() and jpeg_xl not in readable_syntaxes()
    assert len(readable_syntaxes()) == 16
    assert {one.sop_class_uid for one in capabilities() if one.role == "SCU"} >= {SR}
    assert entity_limits()["maximum_pdu_bytes"] == limits.PDU_BYTES


def test_images_are_told_from_what_has_none() -> None:
    images = {"2", "2.1", "4", "7.4", "6.2", "481.2", "128", "77.1.6"}
    others = {"88.34", "88.59", "11.1", "104.1", "481.3", "9.1.1", "66"}
    base = "1.2.840.10008.5.1.4.1.1."
    assert all(is_image(base + one) for one in images), [one for one in images if not is_image(base + one)]
    assert not any(is_image(base + one) for one in others), [one for one in others if is_image(base + one)]


def test_a_files_meta_information_and_class_are_read() -> None:
    with Path(str(get_testdata_file("CT_small.dcm"))).open("rb") as file:
        meta = read_file_meta(file)
        file.seek(0)
        identity = read_identity(file)
    assert identity is not None
    assert meta == FileMeta(CT, identity.sop_uid, "1.2.840.10008.1.2.1") and identity.sop_class_uid == CT
    with Path(__file__).open("rb") as file:
        assert read_file_meta(file) == FileMeta("", "", "")
