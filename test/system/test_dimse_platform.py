"""C-STORE in and out of a real platform, with dcmtk's programs at the other end."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse_messages import C_FIND_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_FIND, C_STORE
from pynetdicom.dsutils import encode

from api_calls import Api, until
from dimse_peers import (
    CT,
    EXPLICIT,
    NODE,
    StoreScp,
    associate,
    dcmtk,
    dimse_options,
    files,
    port_of,
    running_storescp,
    series,
)
from free_ports import free_port
from platform_process import CLI, Platform, clean_environment

pytestmark = pytest.mark.needs("storescu", "storescp", "echoscu", "setpriv")
SUCCESS, WRONG_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA900, 0xC000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreScp]:
    with running_storescp(tmp_path_factory.mktemp("node") / "came", free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def platform(node: StoreScp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    (folder / "pacs").mkdir()
    options = dimse_options(free_port(), (NODE, node.port), ("OTHER", free_port()))
    options += ["--dimse-title", "Liver=processing_1"]
    with Platform(folder / "home", pacs=folder / "pacs", options=options) as running:
        Api(running).register("processing_1")
        yield running


@pytest.fixture
def api(platform: Platform) -> Api:
    return Api(platform)


def jobs_of(api: Api, images: list[Any]) -> list[dict[str, Any]]:
    """The jobs that ran on these images' series."""
    found = api.get("/jobs", limit=1000).json()["jobs"]
    uid = str(images[0].SeriesInstanceUID)
    return [job for job in found if job["result"] and uid in job["result"]["dicom"]["key"]]


def returned(api: Api, images: list[Any], count: int = 1) -> list[dict[str, Any]]:
    """The jobs of the series, once so many have had their results sent."""
    until(
        lambda: sum(job["sent"]["status"] == "done" for job in jobs_of(api, images)) == count,
        f"{count} jobs of the series have their results sent",
    )
    return jobs_of(api, images)


def inputs(job: dict[str, Any]) -> list[str]:
    return sorted(job["result"]["provenance"]["input"]["sop_instance_uids"])


def uids(images: list[Any]) -> list[str]:
    return sorted(str(image.SOPInstanceUID) for image in images)


def until_logged(platform: Platform, words: str) -> None:
    """A peer may have its answer a moment before the log has its line."""
    until(lambda: words in platform.log.read_text(), f"the log says {words!r}")


def assert_serves(platform: Platform) -> None:
    assert dcmtk("echoscu", port_of(platform)).returncode == 0
    assert httpx.get(f"{platform.base}/health").json()["status"] == "ok"


def test_a_series_in_and_its_result_out(api: Api, platform: Platform, node: StoreScp, tmp_path: Path) -> None:
    images = series(5, name="in and out")
    sent = dcmtk("storescu", port_of(platform), *files(tmp_path / "images", images))
    assert sent.returncode == 0, sent.stderr
    [job] = returned(api, images)
    assert (job["status"], job["client_id"], job["send_to"]) == ("SUCCEEDED", f"dimse.{NODE}", NODE)
    assert job["sent"] == {"status": "done", "attempts": 1, "error": None}
    assert inputs(job) == uids(images)
    [result] = [one for one in node.instances() if one.StudyInstanceUID == images[0].StudyInstanceUID]
    assert result == pydicom.dcmread(BytesIO(api.download(job["result"]["dicom"]["url"])))
    assert result.PatientID == images[0].PatientID
    stored = pydicom.dcmread(next((tmp_path / "images").iterdir())).PixelData
    kept = [pydicom.dcmread(file) for file in platform.home.parent.glob("pacs/mip-received/**/*.dcm")]
    assert any(one.PixelData == stored for one in kept if one.SeriesInstanceUID == images[0].SeriesInstanceUID)


def test_the_command_line_shows_whether_a_result_is_back(api: Api, platform: Platform, tmp_path: Path) -> None:
    images = series(1, name="shown")
    assert dcmtk("storescu", port_of(platform), *files(tmp_path, images)).returncode == 0
    [job] = returned(api, images)
    environment = clean_environment(**platform.env)
    for command, said in (("list", "returned"), ("show", "returned")):
        words = [*CLI, "jobs", command, *([job["job_id"]] if command == "show" else [])]
        shown = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
        assert shown.returncode == 0 and said in shown.stdout and "done" in shown.stdout, shown.stdout


def test_all_outputs_of_a_job_come_back(api: Api, platform: Platform, node: StoreScp, tmp_path: Path) -> None:
    api.register("processing_6", outputs=["SC", "SEG", "SR"], env={})
    images = series(3, name="all outputs")
    sent = dcmtk("storescu", port_of(platform), *files(tmp_path, images), called="PROCESSING_6")
    assert sent.returncode == 0, sent.stderr
    returned(api, images)
    came = [one.Modality for one in node.instances() if one.StudyInstanceUID == images[0].StudyInstanceUID]
    assert sorted(came) == ["OT", "SEG", "SR"]


def test_echo_answers_a_known_caller_whatever_it_calls(platform: Platform) -> None:
    for called in ("PROCESSING_1", "NOBODY_AT_ALL"):
        assert dcmtk("echoscu", port_of(platform), called=called).returncode == 0
    refused = dcmtk("echoscu", port_of(platform), calling="STRANGER")
    assert refused.returncode != 0 and "Calling AE Title Not Recognized" in refused.stderr


@pytest.mark.parametrize("called", ["NO_SUCH", "processing_1", "Processing_1", "LIVER"])
def test_an_unknown_called_title_is_rejected(platform: Platform, tmp_path: Path, called: str) -> None:
    names = files(tmp_path, series(1, name="unknown title"))
    refused = dcmtk("storescu", port_of(platform), *names, called=called)
    assert refused.returncode != 0 and "Called AE Title Not Recognized" in refused.stderr
    until_logged(platform, f"to '{called}' rejected (1, 1, 7): UNKNOWN_TITLE")


def test_a_title_of_its_own_names_the_algorithm(api: Api, platform: Platform, tmp_path: Path) -> None:
    images = series(2, name="own title")
    sent = dcmtk("storescu", port_of(platform), *files(tmp_path, images), called="Liver")
    assert sent.returncode == 0, sent.stderr
    returned(api, images)


def test_an_unknown_caller_is_rejected(platform: Platform, tmp_path: Path) -> None:
    refused = dcmtk("storescu", port_of(platform), *files(tmp_path, series(1)), calling="STRANGER")
    assert refused.returncode != 0 and "Calling AE Title Not Recognized" in refused.stderr


def test_an_algorithm_that_is_not_active_is_rejected_for_now(api: Api, platform: Platform, tmp_path: Path) -> None:
    api.register("asleep", wait_for="INACTIVE", desired_count=0)
    refused = dcmtk("storescu", port_of(platform), *files(tmp_path, series(1)), called="ASLEEP")
    assert refused.returncode != 0 and "Rejected Transient" in refused.stderr
    until_logged(platform, "to 'ASLEEP' rejected (2, 1, 1): ALGORITHM_NOT_ACTIVE")


def test_an_algorithm_that_requires_parameters_is_rejected_for_good(
    api: Api, platform: Platform, tmp_path: Path
) -> None:
    schema = {"type": "object", "properties": {"above": {"type": "number"}}, "required": ["above"]}
    api.register("picky", parameters=schema)
    refused = dcmtk("storescu", port_of(platform), *files(tmp_path, series(1)), called="PICKY")
    assert refused.returncode != 0 and "Rejected Permanent" in refused.stderr
    until_logged(platform, "to 'PICKY' rejected (1, 1, 1): PARAMETERS_NEEDED")
    until_logged(platform, "parameters above")


def test_a_caller_from_another_address_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "pacs").mkdir()
    options = ["--dimse-port", "0", "--dimse-node", f"{NODE}=127.0.0.2:104"]
    with Platform(tmp_path / "home", pacs=tmp_path / "pacs", options=options) as platform:
        refused = dcmtk("echoscu", port_of(platform))
        assert refused.returncode != 0 and "Calling AE Title Not Recognized" in refused.stderr
        until_logged(platform, "expected from 127.0.0.2")
    with Platform(
        tmp_path / "home", pacs=tmp_path / "pacs", options=[*options, "--dimse-any-address"]
    ) as platform:
        assert dcmtk("echoscu", port_of(platform)).returncode == 0


def test_j3_the_same_series_again_is_the_same_job_and_one_with_more_images_another(
    api: Api, platform: Platform, node: StoreScp, tmp_path: Path
) -> None:
    images = series(4, name="twice")
    names = files(tmp_path, images)
    for _ in range(2):
        assert dcmtk("storescu", port_of(platform), *names[:3]).returncode == 0
        [first] = returned(api, images)
    until(lambda: "sent the same images again" in platform.log.read_text(), "the repeat was noticed")
    assert inputs(first) == uids(images[:3])
    before = len(node.instances())
    assert dcmtk("storescu", port_of(platform), *names).returncode == 0
    more = [job for job in returned(api, images, 2) if job["job_id"] != first["job_id"]]
    assert inputs(more[0]) == uids(images) and len(node.instances()) == before + 1


def test_two_patients_in_two_associations_at_once_are_never_mixed(
    api: Api, platform: Platform, node: StoreScp
) -> None:
    patients = {name: series(4, name=name, patient=name) for name in ("Alice", "Bob")}
    open_ones = {name: associate(port_of(platform)) for name in patients}
    for number in range(4):
        for name, association in open_ones.items():
            assert association.send_c_store(patients[name][number]).Status == SUCCESS
    for association in open_ones.values():
        association.release()
    for name, images in patients.items():
        [job] = returned(api, images)
        assert inputs(job) == uids(images)
        came = [one for one in node.instances() if one.StudyInstanceUID == images[0].StudyInstanceUID]
        assert [str(one.PatientID) for one in came] == [name]


def test_a_series_over_two_associations_is_one_job(api: Api, platform: Platform) -> None:
    images = series(4, name="two associations")
    first, second = associate(port_of(platform)), associate(port_of(platform))
    assert first.send_c_store(images[0]).Status == SUCCESS
    assert second.send_c_store(images[1]).Status == SUCCESS
    first.release()
    for image in images[2:]:
        assert second.send_c_store(image).Status == SUCCESS
    second.release()
    [job] = returned(api, images)
    assert inputs(job) == uids(images)


@pytest.mark.parametrize("how", ["abort", "disconnect", "half a message", "a context that was not accepted"])
def test_an_association_that_breaks_off_makes_a_job_of_what_was_answered(
    api: Api, platform: Platform, how: str
) -> None:
    images = series(3, name=f"broken off by {how}")
    association = associate(port_of(platform))
    for image in images[:2]:
        assert association.send_c_store(image).Status == SUCCESS
    if how == "half a message":
        send_half(association, images[2])
    if how == "a context that was not accepted":
        send_half(association, images[2], context_id=99)
    if how == "abort":
        association.abort()
    else:
        with contextlib.suppress(OSError, AttributeError):  # the platform may have closed it
            association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    [job] = returned(api, images)
    assert inputs(job) == uids(images[:2])


def store_request(image: Any) -> C_STORE:
    """A C-STORE request as pynetdicom would make it, to be sent in another way."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    request.DataSet = BytesIO(encode(image, False, True) or b"")
    return request


def send_half(association: Any, image: Any, context_id: int = 1) -> None:
    """A C-STORE request whose data set stops in the middle; pynetdicom's only context is 1."""
    message = C_STORE_RQ()
    message.primitive_to_message(store_request(image))
    parts = list(message.encode_msg(context_id, 8192))
    for part in parts[: len(parts) // 2]:
        association.dul.send_pdu(part)
    until(association.dul.to_provider_queue.empty, "half of it is sent")


@pytest.mark.parametrize(
    ("change", "status"),
    [("SOPClassUID", WRONG_CLASS), ("StudyInstanceUID", CANNOT_UNDERSTAND), ("SOPInstanceUID", CANNOT_UNDERSTAND)],
)
def test_a_data_set_that_is_not_what_was_announced_is_refused(
    platform: Platform, change: str, status: int
) -> None:
    [image] = series(1, name="not as announced")
    request = store_request(image)
    setattr(image, change, "" if change == "StudyInstanceUID" else generate_uid(entropy_srcs=[change]))
    request.DataSet = store_request(image).DataSet
    association = associate(port_of(platform))
    answers: list[Any] = []
    association.bind(evt.EVT_DIMSE_RECV, lambda event: answers.append(event.message.command_set))
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    until(lambda: bool(answers), "it is answered")
    association.release()
    assert answers[0].Status == status and answers[0].ErrorComment
    assert_serves(platform)


def test_what_is_no_image_is_stored_and_makes_no_job(api: Api, platform: Platform, tmp_path: Path) -> None:
    report = pydicom.dcmread(get_testdata_file("reportsi.dcm"))
    before = len(api.get("/jobs", limit=1000).json()["jobs"])
    sent = dcmtk("storescu", port_of(platform), *files(tmp_path, [report]))
    assert sent.returncode == 0, sent.stderr
    assert list(platform.home.parent.glob(f"pacs/mip-received/*/*/{report.SOPInstanceUID}.dcm"))
    images = series(1, name="after a report")
    assert dcmtk("storescu", port_of(platform), *files(tmp_path / "ct", images)).returncode == 0
    returned(api, images)
    assert len(api.get("/jobs", limit=1000).json()["jobs"]) == before + 1


def test_images_are_kept_in_the_transfer_syntax_in_which_they_came(platform: Platform, tmp_path: Path) -> None:
    image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    source = pydicom.dcmread(get_testdata_file("MR_small_RLE.dcm"))
    source.SOPInstanceUID = source.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["rle"])
    sent = dcmtk("storescu", port_of(platform), "-xr", *files(tmp_path, [source]))
    assert sent.returncode == 0, sent.stderr
    [kept] = platform.home.parent.glob(f"pacs/mip-received/*/*/{source.SOPInstanceUID}.dcm")
    stored = pydicom.dcmread(kept)
    assert stored.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    assert stored.PixelData == source.PixelData and image.PixelData != source.PixelData


def request_pdu(platform: Platform) -> bytes:
    """The bytes of a good association request."""
    seen: list[bytes] = []
    entity = AE(NODE)
    entity.add_requested_context(CT, EXPLICIT)
    watch = [(evt.EVT_DATA_SENT, lambda event: seen.append(event.data))]
    association = entity.associate("127.0.0.1", port_of(platform), ae_title="PROCESSING_1", evt_handlers=watch)
    assert association.is_established
    association.release()
    return seen[0]


def closes(connection: socket.socket) -> bool:
    """Whether the platform ends the connection, in a bounded time."""
    connection.settimeout(10)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def memory_bytes(platform: Platform) -> int:
    status = Path(f"/proc/{platform.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("associated", [False, True])
def test_a_pdu_that_claims_to_be_huge_is_cut_off(platform: Platform, kind: int, associated: bool) -> None:
    request = request_pdu(platform) if associated else b""
    with socket.create_connection(("127.0.0.1", port_of(platform)), timeout=10) as connection:
        if associated:
            connection.sendall(request)
            assert connection.recv(1) == b"\x02"
        before = memory_bytes(platform)
        connection.sendall(struct.pack(">BxL", kind, 0xFFFFFFFF))
        try:
            for _ in range(200):
                connection.sendall(bytes(2**20))
        except OSError:
            pass
        else:
            raise AssertionError("it was read")
        assert memory_bytes(platform) - before < 100 * 2**20
    assert_serves(platform)


def test_garbage_is_cut_off(platform: Platform) -> None:
    chance = random.Random(7)
    request = request_pdu(platform)
    noises = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", bytes(100), b"\x01\x00"]
    for _ in range(30):
        broken = bytearray(request)
        for _ in range(chance.randrange(1, 8)):
            broken[chance.randrange(6, len(broken))] = chance.randrange(256)
        noises.append(bytes(broken))
        noises.append(bytes(chance.randrange(256) for _ in range(chance.randrange(1, 300))))
    for noise in noises:
        with socket.create_connection(("127.0.0.1", port_of(platform)), timeout=10) as connection:
            with contextlib.suppress(OSError):  # it may be closed already
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
            assert closes(connection)
    assert_serves(platform)


def test_a_peer_that_does_not_await_answers_is_cut_off(platform: Platform) -> None:
    association = associate(port_of(platform))
    [image] = series(1, name="flood")

    def flood() -> None:
        for _ in range(300):
            association.dimse.send_msg(store_request(image), association.accepted_contexts[0].context_id)

    sender = threading.Thread(target=flood)
    sender.start()
    sender.join(60)
    until(lambda: "without awaiting answers" in platform.log.read_text(), "it was cut off")
    association.abort()
    assert_serves(platform)


def test_a_large_message_that_is_no_instance_is_cut_off(platform: Platform) -> None:
    query = C_FIND()
    query.MessageID, query.Priority, query.AffectedSOPClassUID = 3, 2, CT
    query.Identifier = BytesIO(bytes(60 * 2**20))
    message = C_FIND_RQ()
    message.primitive_to_message(query)
    association, before = associate(port_of(platform)), memory_bytes(platform)
    for part in message.encode_msg(1, 100_000):
        association.dul.send_pdu(part)
    until(lambda: "that is no instance" in platform.log.read_text(), "it was cut off")
    assert memory_bytes(platform) - before < 30 * 2**20
    association.abort()
    assert_serves(platform)


def test_one_association_too_many_is_rejected(platform: Platform) -> None:
    held: list[Any] = []

    def all_are_held() -> bool:
        """The platform may still be ending those of the tests before."""
        with contextlib.suppress(AssertionError):
            held.append(associate(port_of(platform)))
        return len(held) == 10

    until(all_are_held, "ten associations are open")
    refused = dcmtk("echoscu", port_of(platform))
    assert refused.returncode != 0 and "Local Limit Exceeded" in refused.stderr
    for association in held:
        association.release()
    until(lambda: dcmtk("echoscu", port_of(platform)).returncode == 0, "it serves again")


def test_connections_that_ask_for_nothing_shut_nobody_out(platform: Platform) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(15):
            held.enter_context(socket.create_connection(("127.0.0.1", port_of(platform)), timeout=10))
        assert dcmtk("echoscu", port_of(platform)).returncode == 0
        for _ in range(10):
            last = held.enter_context(socket.create_connection(("127.0.0.1", port_of(platform)), timeout=10))
        assert closes(last), "there are too many"
    until(lambda: dcmtk("echoscu", port_of(platform)).returncode == 0, "it serves again")


def test_a3_the_log_names_no_patient(platform: Platform) -> None:
    log = platform.log.read_text()
    assert "Traceback" not in log and "Warning:" not in log
    assert "Doe" not in log and "Alice" not in log and "CompressedSamples" not in log
