"""C-STORE while the PACS, a node or the platform itself goes away; and Orthanc as the peer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_calls import Api, until
from dicomweb_proxy import running_proxy
from dimse_peers import (
    NODE,
    associate,
    dcmtk,
    dimse_options,
    files,
    port_of,
    running_storescp,
    series,
)
from free_ports import free_port
from orthanc import running_orthanc
from platform_process import Platform

pytestmark = pytest.mark.needs("storescu", "storescp", "Orthanc", "setpriv")
SUCCESS = 0x0000


@contextmanager
def started(tmp_path: Path, *options: str, pacs: Path | str | None = None) -> Iterator[Platform]:
    """A platform with processing_1, which may be killed and started again on the way."""
    folder = tmp_path / "pacs"
    folder.mkdir()
    platform = Platform(tmp_path / "home", pacs=pacs or folder, options=options)
    platform.start()
    try:
        Api(platform).register("processing_1")
        yield platform
    finally:
        platform.kill()


def jobs(platform: Platform) -> list[dict[str, Any]]:
    return list(Api(platform).get("/jobs", limit=1000).json()["jobs"])


def until_sent(platform: Platform, status: str = "done") -> dict[str, Any]:
    """The only job, once its result's way ended so."""
    until(lambda: [job["sent"] and job["sent"]["status"] for job in jobs(platform)] == [status], status)
    return jobs(platform)[0]


def health(platform: Platform) -> str:
    return str(httpx.get(f"{platform.base}/health").json()["dimse"])


def uids(images: list[Any]) -> list[str]:
    return sorted(str(image.SOPInstanceUID) for image in images)


def inputs(job: dict[str, Any]) -> list[str]:
    return sorted(job["result"]["provenance"]["input"]["sop_instance_uids"])


def test_j1_what_was_answered_becomes_a_job_though_the_platform_is_killed_meanwhile(tmp_path: Path) -> None:
    images, at = series(3), free_port()
    with (
        running_storescp(tmp_path / "came", at) as node,
        started(tmp_path, *dimse_options(free_port(), (NODE, at))) as platform,
    ):
        association = associate(port_of(platform))
        for image in images:
            assert association.send_c_store(image).Status == SUCCESS
        platform.kill()
        association.abort()
        platform.start()
        assert inputs(until_sent(platform)) == uids(images)
        assert len(node.instances()) == 1
        assert dcmtk("storescu", port_of(platform), *files(tmp_path / "images", images)).returncode == 0
        until(lambda: "sent the same images again" in platform.log.read_text(), "the repeat was noticed")
        assert len(jobs(platform)) == 1
    assert not list((tmp_path / "home" / "dimse-unfinished").iterdir())


def test_j1_a_result_reaches_a_node_that_was_down_though_the_platform_is_killed(tmp_path: Path) -> None:
    images, at = series(3), free_port()
    with started(tmp_path, *dimse_options(free_port(), (NODE, at))) as platform:
        assert dcmtk("storescu", port_of(platform), *files(tmp_path / "images", images)).returncode == 0
        until(
            lambda: [(j["sent"] or {}).get("error") is not None for j in jobs(platform)] == [True], "a try failed"
        )
        job = jobs(platform)[0]
        assert (job["status"], job["sent"]["status"]) == ("SUCCEEDED", "pending")
        assert job["sent"]["error"]["code"] == "NODE_UNAVAILABLE"
        until(lambda: "NODE_UNAVAILABLE" in health(platform), "the health says so")
        platform.kill()
        with running_storescp(tmp_path / "came", at) as node:
            platform.start()
            assert until_sent(platform)["sent"]["attempts"] >= 2
            assert len(node.instances()) == 1
            until(lambda: health(platform) == "ok", "the health says so")


def test_a_node_that_rejects_us_is_named_with_what_it_says(tmp_path: Path) -> None:
    """storescp that takes no association at all, as a PACS does that does not know the calling title."""
    at = free_port()
    with (
        running_storescp(tmp_path / "came", at, "--refuse"),
        started(tmp_path, *dimse_options(free_port(), (NODE, at))) as platform,
    ):
        assert dcmtk("storescu", port_of(platform), *files(tmp_path / "images", series(1))).returncode == 0
        until(
            lambda: [(j["sent"] or {}).get("error") is not None for j in jobs(platform)] == [True], "a try failed"
        )
        assert "takes no association" in jobs(platform)[0]["sent"]["error"]["message"]


def test_a_failed_job_ends_visibly_and_sends_nothing(tmp_path: Path) -> None:
    [image] = series(1)
    del image.PixelData
    at = free_port()
    with (
        running_storescp(tmp_path / "came", at) as node,
        started(tmp_path, *dimse_options(free_port(), (NODE, at))) as platform,
    ):
        assert dcmtk("storescu", port_of(platform), *files(tmp_path / "images", [image])).returncode == 0
        job = until_sent(platform, "failed")
        assert (job["status"], job["error"]["code"], job["sent"]["error"]["code"]) == (
            "FAILED",
            "NO_PIXELS",
            "NO_RESULT",
        )
        until(lambda: job["job_id"] in platform.tail() and "NO_PIXELS" in platform.tail(), "the log says so")
        assert not node.instances()


def test_a_pacs_that_is_down_is_answered_as_out_of_resources(tmp_path: Path) -> None:
    images, at = series(3), free_port()
    names = files(tmp_path / "images", images)
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc") as orthanc, running_proxy(orthanc.base) as proxy:
        (tmp_path / "password").write_text(orthanc.password)
        options = ["--pacs-user", orthanc.user, "--pacs-password-file", str(tmp_path / "password")]
        with (
            running_storescp(tmp_path / "came", at) as node,
            started(tmp_path, *options, *dimse_options(free_port(), (NODE, at)), pacs=proxy.base) as platform,
        ):
            proxy.refuse = lambda method, path: 503 if method == "POST" else None
            refused = dcmtk("storescu", port_of(platform), *names)
            assert refused.returncode != 0 and "OutOfResources" in refused.stderr.replace(" ", "")
            until(lambda: "PACS_UNAVAILABLE" in platform.log.read_text(), "the log says why")
            assert not jobs(platform)
            proxy.refuse = lambda *_: None
            assert dcmtk("storescu", port_of(platform), *names).returncode == 0
            assert inputs(until_sent(platform)) == uids(images)
            assert len(orthanc.client.get("/instances").json()) == 3 and len(node.instances()) == 1


def test_a_series_for_an_algorithm_that_went_to_sleep_waits_visibly(tmp_path: Path) -> None:
    images, at = series(2), free_port()
    with (
        running_storescp(tmp_path / "came", at),
        started(tmp_path, *dimse_options(free_port(), (NODE, at))) as platform,
    ):
        association = associate(port_of(platform))
        for image in images:
            assert association.send_c_store(image).Status == SUCCESS
        api = Api(platform)
        assert api.http.patch("/admin/algorithms/processing_1", json={"desired_count": 0}).is_success
        api.until_status("processing_1", "INACTIVE")
        association.release()
        until(lambda: "ALGORITHM_NOT_ACTIVE" in health(platform), "the health says so")
        assert not jobs(platform)
        assert api.http.patch("/admin/algorithms/processing_1", json={"desired_count": 1}).is_success
        assert inputs(until_sent(platform)) == uids(images)


def test_results_can_go_to_another_node(tmp_path: Path) -> None:
    at, viewer_at = free_port(), free_port()
    options = [*dimse_options(free_port(), (NODE, at), ("VIEWER", viewer_at)), "--dimse-send-to", "VIEWER"]
    with (
        running_storescp(tmp_path / "came", at) as node,
        running_storescp(tmp_path / "viewed", viewer_at) as viewer,
        started(tmp_path, *options) as platform,
    ):
        assert dcmtk("storescu", port_of(platform), *files(tmp_path / "images", series(2))).returncode == 0
        assert until_sent(platform)["send_to"] == "VIEWER"
        assert len(viewer.instances()) == 1 and not node.instances()


def test_orthanc_sends_a_study_and_gets_the_result(tmp_path: Path) -> None:
    images, at, dimse_at = series(4, name="from orthanc"), free_port(), free_port()
    dicom = {
        "DicomAet": "ORTHANC",
        "DicomPort": at,
        "DicomModalities": {"mip": ["PROCESSING_1", "127.0.0.1", dimse_at]},
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": False,
    }
    (tmp_path / "orthanc").mkdir()
    with (
        running_orthanc(tmp_path / "orthanc", dicom=dicom) as orthanc,
        started(tmp_path, *dimse_options(dimse_at, ("ORTHANC", at))) as platform,
    ):
        orthanc.store(images)
        assert orthanc.client.post("/modalities/mip/echo", json={}).is_success
        [study] = orthanc.client.get("/studies").json()
        sent = orthanc.client.post("/modalities/mip/store", json={"Resources": [study], "Synchronous": True})
        assert sent.is_success and sent.json()["FailedInstancesCount"] == 0, sent.text
        job = until_sent(platform)
        assert inputs(job) == uids(images) and job["client_id"] == "dimse.ORTHANC"
        assert len(orthanc.client.get("/series").json()) == 2 and len(orthanc.client.get("/studies").json()) == 1
        assert len(orthanc.client.get("/instances").json()) == len(images) + 1


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    (tmp_path / "pacs").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = dimse_options(taken.getsockname()[1], (NODE, 104))
        with pytest.raises(AssertionError, match=r"choose another --dimse-port"):
            Platform(tmp_path / "home", pacs=tmp_path / "pacs", options=options).start()
