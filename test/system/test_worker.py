"""Whole workers, as processes, on the real SQS, S3 and PACS endpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import RLELossless
from worker_stage import CT_SMALL, Stage

from medical_image_processing import samples
from medical_image_processing.dicom.secondary_capture import read_mask
from medical_image_processing.model.job import ReportedStatus

REPORT_AFTER_S = 0.5
"""What lasts longer is reported RUNNING."""


@pytest.fixture(scope="module")
def pacs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study: a series with one slice, one with three slices, and a file that is no DICOM."""
    folder = tmp_path_factory.mktemp("pacs")
    (folder / "CT" / "small").mkdir(parents=True)
    (folder / "CT" / "three").mkdir(parents=True)
    shutil.copy(samples.ct_small(), folder / "CT" / "small" / "CT_small.dcm")
    for index in range(3):
        slice_ = pydicom.dcmread(samples.ct_small())
        slice_.SeriesInstanceUID += ".3"
        slice_.SOPInstanceUID += f".{index}"
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.ImagePositionPatient = [0, 0, 5.0 * index]
        slice_.InstanceNumber = index + 1
        slice_.save_as(folder / "CT" / "three" / f"{index}.dcm")
    broken = pydicom.dcmread(samples.ct_small())
    broken.SOPInstanceUID += ".9"
    broken.file_meta.MediaStorageSOPInstanceUID = broken.SOPInstanceUID
    del broken.PixelData
    broken.save_as(folder / "CT" / "small" / "empty.dcm")
    return folder


@pytest.fixture
def stage(tmp_path: Path, pacs_folder: Path) -> Iterator[Stage]:
    with Stage(tmp_path, pacs_folder) as running:
        yield running


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, pacs_folder: Path) -> Iterator[Stage]:
    """A stage with one worker, for tests that leave it alive."""
    with Stage(tmp_path_factory.mktemp("calm"), pacs_folder) as running:
        running.start_worker()
        yield running


def test_an_image_becomes_a_secondary_capture(calm: Stage) -> None:
    calm.submit("image-1")
    result = calm.result("image-1")
    assert result.status is ReportedStatus.SUCCEEDED
    assert result.dicom is not None and result.dicom.key == "acts/CT/small/CT_small_image-1.dcm"
    assert [(output.kind, output.key) for output in result.outputs] == [("SC", result.dicom.key)]
    written = pydicom.dcmread(calm.output / result.dicom.key)
    source = pydicom.dcmread(samples.ct_small())
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert read_mask(written).all()
    said = result.provenance
    assert said is not None
    assert (said["revision"], said["task"], said["meta"]) == ("7", "mip-acts:7", {"size": 128 * 128})
    assert said["input"] == {"count": 1, "sop_instance_uids": [source.SOPInstanceUID]}
    assert set(said["durations_ms"]) == {"fetch", "decode", "run", "write", "upload"}
    assert (result.attempt, result.client_id) == (1, "client")
    calm.eventually(lambda: calm.held() + calm.waiting() == 0)


def test_a_series_becomes_a_volume(calm: Stage) -> None:
    calm.submit("series-1", scope="series", pacs={**CT_SMALL, "series_id": "three"})
    result = calm.result("series-1")
    assert result.dicom is not None and result.dicom.key == "acts/CT/three/series-1.dcm"
    assert pydicom.dcmread(calm.output / result.dicom.key).NumberOfFrames == 3


def test_a_record_may_ask_for_every_kind_of_object(stage: Stage) -> None:
    stage.start_worker(MIP_OUTPUTS="SC,SEG,SR", MIP_IMAGE_DIGEST="sha256:" + "5a" * 32)
    stage.submit("all-1", scope="series", pacs={**CT_SMALL, "series_id": "three"}, do="segment")
    result = stage.result("all-1", 60)
    keys = {output.kind: output.key for output in result.outputs}
    assert keys == {
        "SC": "acts/CT/three/all-1.dcm",
        "SEG": "acts/CT/three/all-1~seg.dcm",
        "SR": "acts/CT/three/all-1~sr.dcm",
    }
    assert result.dicom is not None and result.dicom.key == keys["SC"]
    made = {kind: pydicom.dcmread(stage.output / key) for kind, key in keys.items()}
    assert [made[kind].Modality for kind in keys] == ["OT", "SEG", "SR"]
    assert len({dataset.SeriesInstanceUID for dataset in made.values()}) == 3
    assert [item.SegmentLabel for item in made["SEG"].SegmentSequence] == ["corner", "middle"]
    assert made["SEG"].SOPInstanceUID.encode() in (stage.output / keys["SR"]).read_bytes()
    for dataset in made.values():
        (equipment,) = dataset.ContributingEquipmentSequence
        assert "revision 7" in equipment.ContributionDescription
        assert "sha256:5a5a" in equipment.ContributionDescription


def test_a_job_that_comes_again_makes_the_same_bytes(tmp_path: Path, pacs_folder: Path) -> None:
    """A worker that died after its upload has left files; the next one writes the same, dated as the message."""
    sent_at = 1_800_000_000.0
    with Stage(tmp_path, pacs_folder, clock=lambda: sent_at) as stage:
        made = []
        for group in ("first", "second"):
            worker = stage.start_worker(MIP_OUTPUTS="SEG,SC,SR")
            stage.submit_text(json.dumps(stage.job("again-1", do="segment")), group)
            keys = [output.key for output in stage.result("again-1", 60).outputs]
            made.append([(stage.output / key).read_bytes() for key in keys])
            stage.results.clear()
            worker.kill()
        assert keys[0] == "acts/CT/small/CT_small_again-1.dcm" and keys[1].endswith("_again-1~sc.dcm")
        assert made[0] == made[1]
        assert pydicom.dcmread(stage.output / keys[0]).ContentDate.startswith("2027011")


def test_a_record_may_ask_for_a_segmentation_alone(stage: Stage) -> None:
    stage.start_worker(MIP_OUTPUTS="SEG")
    stage.submit("seg-1")
    result = stage.result("seg-1", 60)
    assert result.dicom is not None and result.dicom.key == "acts/CT/small/CT_small_seg-1.dcm"
    assert [output.kind for output in result.outputs] == ["SEG"]
    assert pydicom.dcmread(stage.output / result.dicom.key).Modality == "SEG"
    stage.submit("seg-2", do="image")
    failed = stage.result("seg-2")
    assert failed.error is not None and failed.error.code == "INVALID_RESULT"
    assert "an image can only become SC" in failed.error.message


def test_of_a_study_the_largest_series_is_processed(calm: Stage) -> None:
    calm.submit("study-1", scope="study")
    result = calm.result("study-1")
    assert result.dicom is not None and result.dicom.key == "acts/CT/study-1.dcm"
    assert result.provenance is not None
    assert (result.provenance["scope"], result.provenance["input"]["count"]) == ("study", 3)


@pytest.mark.parametrize(
    ("acts", "code", "words"),
    [
        ("raise", "ALGORITHM_RAISED", "raised ValueError at acting:"),
        ("exit", "ALGORITHM_RAISED", "raised SystemExit at acting:"),
        ("recurse", "ALGORITHM_RAISED", "raised RecursionError at acting:"),
        ("exhaust", "ALGORITHM_RAISED", "raised MemoryError at acting:"),
        ("refuse", "NOT_CT", "this algorithm needs CT"),
        ("nonsense", "INVALID_RESULT", "shape"),
    ],
)
def test_a_failing_algorithm_fails_its_job_and_not_its_worker(
    calm: Stage, acts: str, code: str, words: str
) -> None:
    calm.submit(f"fails-{acts}", do=acts)
    result = calm.result(f"fails-{acts}")
    assert result.status is ReportedStatus.FAILED
    assert result.error is not None and result.error.code == code
    assert words in result.error.message and "SMITH" not in result.error.message
    calm.submit(f"after-{acts}")
    assert calm.result(f"after-{acts}").status is ReportedStatus.SUCCEEDED
    worker_log = calm.workers[0].log.read_text()
    assert "SMITH" not in worker_log
    if code == "ALGORITHM_RAISED":
        lines = [line for line in calm.workers[0].lines() if line.get("job_id") == f"fails-{acts}"]
        assert any("acting" in str(line.get("traceback")) for line in lines)


@pytest.mark.parametrize(
    ("pacs", "scope", "code"),
    [
        ({"image_id": "other"}, "image", "IMAGE_NOT_FOUND"),
        ({"series_id": "other"}, "series", "SERIES_NOT_FOUND"),
        ({"study_id": "other"}, "study", "STUDY_NOT_FOUND"),
        ({"image_id": "empty"}, "image", "NO_PIXELS"),
    ],
)
def test_input_that_cannot_be_used_fails_the_job_at_once(
    calm: Stage, pacs: dict[str, str], scope: str, code: str
) -> None:
    job_id = f"bad-{code}"
    calm.submit(job_id, scope=scope, pacs={**CT_SMALL, **pacs})
    result = calm.result(job_id)
    assert (result.status, result.attempt) == (ReportedStatus.FAILED, 1)
    assert result.error is not None and result.error.code == code


def test_a_pacs_that_recovers_within_a_second_costs_no_attempt(calm: Stage) -> None:
    calm.pacs_faults[:] = [500, 503]
    calm.submit("recovers")
    assert (calm.result("recovers").status, calm.result("recovers").attempt) == (ReportedStatus.SUCCEEDED, 1)


def test_a_lasting_job_is_reported_with_its_progress(calm: Stage, tmp_path: Path) -> None:
    calm.submit("lasting", progress=0.25, until=str(tmp_path / "go"))
    running = calm.reported(lambda r: r.job_id == "lasting" and r.status is ReportedStatus.RUNNING)
    assert (running.progress, running.attempt) == (0.25, 1)
    (tmp_path / "go").touch()
    final = calm.result("lasting")
    assert final.status is ReportedStatus.SUCCEEDED
    assert final.started_at == running.started_at


def test_short_jobs_are_not_reported_running(calm: Stage) -> None:
    jobs = [f"short-{index}" for index in range(40)]
    for job_id in jobs:
        calm.submit(job_id)
    for job_id in jobs:
        calm.result(job_id)
    said = [r for r in calm.results if r.job_id in jobs]
    ended = [r for r in said if r.status is not ReportedStatus.RUNNING]
    assert sorted(r.job_id for r in ended) == sorted(jobs)
    # On a machine that is held up one may last until the next one starts; that one alone may be reported then.
    starts = [*sorted((r.started_at or 0.0, r.job_id) for r in ended), (time.time(), "")]
    lasted = {job_id for (at, job_id), (then, _) in pairwise(starts) if then - at > REPORT_AFTER_S - 0.05}
    assert {r.job_id for r in said if r.status is ReportedStatus.RUNNING} <= lasted


def test_the_next_input_is_fetched_while_this_job_computes(calm: Stage, tmp_path: Path) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    calm.submit("first", started=str(started), until=str(go))
    calm.eventually(started.exists)
    calm.submit("second", pacs={**CT_SMALL, "image_id": "CT_small"})
    calm.eventually(lambda: any(path.endswith("/small/CT_small") for path in calm.pacs_requests))
    assert not any(r.job_id == "first" for r in calm.results if r.status is not ReportedStatus.RUNNING)
    go.touch()
    assert calm.result("second").status is ReportedStatus.SUCCEEDED


def test_a_pacs_in_trouble_sends_the_job_back_with_the_reason(stage: Stage) -> None:
    stage.start_worker()
    stage.pacs_faults[:] = [500] * 3
    stage.submit("troubled")
    trouble = stage.reported(lambda r: r.job_id == "troubled")
    assert trouble.status is ReportedStatus.RUNNING
    assert trouble.error is not None and trouble.error.code == "PACS_UNAVAILABLE"
    assert "answers 500" in trouble.error.message
    assert stage.held() + stage.waiting() == 1
    stage.submit("meanwhile")
    assert stage.result("meanwhile").status is ReportedStatus.SUCCEEDED


def test_what_may_pass_is_tried_again_and_in_the_end_given_up(stage: Stage) -> None:
    stage.start_worker()
    stage.submit("again", do="wait")
    stage.eventually(stage.dead_letters)
    tried = [r for r in stage.results if r.error is not None and r.error.code == "MODEL_BUSY"]
    assert [r.attempt for r in tried] == [1, 2, 3]
    assert all(r.status is ReportedStatus.RUNNING for r in tried)


def test_an_algorithm_that_hangs_fails_its_job_and_ends_its_worker(stage: Stage, tmp_path: Path) -> None:
    worker = stage.start_worker(MIP_TIME_LIMIT_S="3")
    stage.submit("warm")
    assert stage.result("warm").status is ReportedStatus.SUCCEEDED
    stage.submit_together(stage.job("hangs", until=str(tmp_path / "never")), stage.job("next"))
    result = stage.result("hangs")
    assert result.error is not None and result.error.code == "TIME_LIMIT_EXCEEDED"
    assert worker.wait() == 75
    assert (stage.waiting(), stage.held()) == (1, 0)
    stage.start_worker()
    assert stage.result("next").status is ReportedStatus.SUCCEEDED


def test_sigterm_lets_the_running_job_finish_and_gives_the_waiting_one_back(stage: Stage, tmp_path: Path) -> None:
    worker = stage.start_worker()
    stage.submit("warm")
    stage.result("warm")
    stage.submit("running", started=str(tmp_path / "started"), until=str(tmp_path / "go"))
    stage.eventually((tmp_path / "started").exists)
    stage.submit("waiting", pacs={**CT_SMALL, "image_id": "CT_small"})
    # Not merely leased: an answer on its way to a worker that hangs up is given back by the lease's end alone.
    stage.eventually(lambda: any(path.endswith("/small/CT_small") for path in stage.pacs_requests))
    worker.send_signal(signal.SIGTERM)
    stage.eventually(lambda: (stage.held(), stage.waiting()) == (1, 1))
    (tmp_path / "go").touch()
    assert stage.result("running").status is ReportedStatus.SUCCEEDED
    assert worker.wait() == 0
    assert (stage.held(), stage.waiting()) == (0, 1)


def test_sigterm_ends_an_idle_worker_promptly(stage: Stage) -> None:
    worker = stage.start_worker()
    stage.submit("warm")
    stage.result("warm")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10.0) == 0, "it waited for the end of its receive, which takes 20 s"
    stage.submit("later")
    assert (stage.held(), stage.waiting()) == (0, 1)


@pytest.mark.parametrize(
    ("env", "signals"),
    [
        ({"MIP_STOP_TIMEOUT_S": "0.3"}, [signal.SIGTERM]),
        ({}, [signal.SIGTERM, signal.SIGTERM]),
        ({}, [signal.SIGINT]),
    ],
    ids=["timeout", "second signal", "interrupt"],
)
def test_a_job_that_cannot_finish_in_time_is_given_back(
    stage: Stage, tmp_path: Path, env: dict[str, str], signals: list[signal.Signals]
) -> None:
    worker = stage.start_worker(**env)
    stage.submit("running", started=str(tmp_path / "started"), until=str(tmp_path / "never"))
    stage.eventually((tmp_path / "started").exists)
    for number in signals:
        worker.send_signal(number)
        stage.eventually(lambda: worker.has_ended() or "stopping" in worker.log.read_text())
    assert worker.wait() == 0
    assert (stage.held(), stage.waiting()) == (0, 1)
    assert not [r for r in stage.results if r.status is not ReportedStatus.RUNNING]


def test_the_job_of_a_killed_worker_is_finished_by_another(stage: Stage, tmp_path: Path) -> None:
    worker = stage.start_worker()
    stage.submit("orphan", started=str(tmp_path / "started"), until=str(tmp_path / "go"))
    stage.eventually((tmp_path / "started").exists)
    worker.kill()
    (tmp_path / "go").touch()
    stage.buried(worker)
    stage.start_worker()
    result = stage.result("orphan")
    assert (result.status, result.attempt) == (ReportedStatus.SUCCEEDED, 2)


def test_a_job_that_kills_its_workers_takes_no_other_with_it(stage: Stage, tmp_path: Path) -> None:
    worker = stage.start_worker()
    stage.submit("warm")
    stage.result("warm")
    stage.submit("first", started=str(tmp_path / "started"), until=str(tmp_path / "go"))
    stage.eventually((tmp_path / "started").exists)
    others = [f"innocent-{index}" for index in range(12)]
    for job_id in others[:3]:
        stage.submit(job_id)
    stage.submit("killer", do="die")
    for job_id in others[3:]:
        stage.submit(job_id)
    (tmp_path / "go").touch()
    for _ in range(3):
        stage.eventually(worker.has_ended)
        stage.buried(worker)
        worker = stage.start_worker()
    for job_id in others:
        assert stage.result(job_id).status is ReportedStatus.SUCCEEDED
    stage.eventually(stage.dead_letters)
    assert [json.loads(body)["job_id"] for body in stage.dead_letters()] == ["killer"]
    assert not worker.has_ended()


def test_a_message_that_is_no_job_goes_to_the_dead_letter_queue(stage: Stage) -> None:
    worker = stage.start_worker()
    stage.submit_text('{"job_id": "SMITH"', "a")
    stage.submit_text(json.dumps({"job_id": "x", "client_id": "c", "algo_id": "b", "pacs": {}}), "b")
    stage.submit("good")
    assert stage.result("good").status is ReportedStatus.SUCCEEDED
    stage.eventually(lambda: len(stage.dead_letters()) == 2)
    assert "SMITH" not in worker.log.read_text()


def test_a_result_that_may_not_be_stored_fails_the_job(stage: Stage) -> None:
    stage.start_worker(OUTPUT_BUCKET="another-bucket")
    stage.submit("elsewhere")
    result = stage.result("elsewhere")
    assert result.error is not None and result.error.code == "OUTPUT_REFUSED"


def test_a_wrong_pacs_key_fails_the_job(stage: Stage) -> None:
    stage.start_worker(PACS_API_KEY="wrong")
    stage.submit("denied")
    result = stage.result("denied")
    assert result.error is not None and result.error.code == "PACS_DENIED"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"ALGO_ID": "nobody"}, "UNKNOWN_PROCESSOR"),
        ({"QUEUE_URL": ""}, "the environment variable QUEUE_URL is not set"),
        ({"MIP_TIME_LIMIT_S": "x"}, "MIP_TIME_LIMIT_S"),
    ],
)
def test_a_worker_that_cannot_start_says_why_and_exits_with_78(
    calm: Stage, env: dict[str, str], words: str
) -> None:
    worker = calm.start_worker(**env)
    assert worker.wait() == 78
    (line,) = worker.lines()
    assert words in line["message"] and line["level"] == "CRITICAL"


def test_a_worker_ends_with_its_supervisor() -> None:
    """Ours is a process that starts a worker, tells its id, and is killed."""
    script = (
        "import os, subprocess, sys, time\n"
        "env = dict(os.environ, MIP_PARENT_PID=str(os.getpid()))\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'medical_image_processing.worker'], env=env,"
        " stdout=subprocess.PIPE)\n"
        "while b'ready' not in worker.stdout.readline(): pass\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    nowhere = "http://127.0.0.1:9/"
    env = {
        "QUEUE_URL": nowhere,
        "RESULT_QUEUE": nowhere,
        "PACS_API_BASE": nowhere,
        "OUTPUT_BUCKET": "b",
        "ALGO_ID": "processing_1",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "S",
    }
    with subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        supervisor.kill()
    status = Path(f"/proc/{pid}/stat")
    for _ in range(500):
        # It may stay as a zombie where no init reaps it.
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        threading.Event().wait(0.01)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the worker outlived its supervisor")


def test_keys_are_not_logged(calm: Stage) -> None:
    text = calm.workers[0].log.read_text()
    assert text and calm.workers[0].access_key_id not in text and "pacs-key" not in text


def test_a_decoder_that_hangs_fails_its_job_and_ends_the_worker_once_the_running_job_is_done(
    tmp_path: Path,
) -> None:
    (tmp_path / "pacs").mkdir()
    image = pydicom.dcmread(samples.ct_small())
    image.save_as(tmp_path / "pacs" / "plain.dcm")
    image.compress(RLELossless, generate_instance_uid=True)
    image.save_as(tmp_path / "pacs" / "rle.dcm")
    where = {"study_id": str(image.StudyInstanceUID), "series_id": str(image.SeriesInstanceUID)}
    plain = where | {"image_id": str(pydicom.dcmread(samples.ct_small()).SOPInstanceUID)}
    with Stage(tmp_path, tmp_path / "pacs") as stage:
        hanging = str(tmp_path / "hanging")
        worker = stage.start_worker(ACTS_RLE_HANGS=hanging, MIP_TIME_LIMIT_S="2")
        stage.submit("quick", pacs=plain)
        assert stage.result("quick").status is ReportedStatus.SUCCEEDED
        stage.submit_together(
            stage.job("runs", pacs=plain, until=hanging),
            stage.job("hangs", pacs=where | {"image_id": str(image.SOPInstanceUID)}),
        )
        result = stage.result("hangs")
        assert result.error is not None and result.error.code == "TIME_LIMIT_EXCEEDED"
        assert "decod" in result.error.message
        assert stage.result("runs").status is ReportedStatus.SUCCEEDED
        assert worker.wait() == 75
        stage.eventually(lambda: stage.held() + stage.waiting() == 0)
