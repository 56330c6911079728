"""What mip check makes of what it saw. That it sees it is tested in system/test_check.py."""

import io
from dataclasses import replace
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from medical_image_processing import samples
from medical_image_processing.entrypoints.verdicts import Observation, judge

SOURCE = samples.ct_small().read_bytes()


def result(**changes: Any) -> bytes:
    """CT_small as a new instance, with changed elements; None removes one."""
    image = pydicom.dcmread(io.BytesIO(SOURCE))
    for name, value in {"SOPInstanceUID": generate_uid(), **changes}.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    made = io.BytesIO()
    image.save_as(made)
    return made.getvalue()


GOOD = Observation(
    user="10001:10001",
    architecture="amd64",
    engine_architecture="amd64",
    time_limit_s=300,
    budget_s=60,
    asked=True,
    job={"status": "SUCCEEDED", "error": None},
    seconds=1.0,
    log=b'{"message": "ready"}\n',
    source=SOURCE,
    result=result(),
    invalid=[],
    secrets=frozenset({b"s3cr3t-key"}),
)
RUNNING = replace(GOOD, job={"status": "RUNNING"}, result=None, invalid=None)
FAILED = {
    "status": "FAILED",
    "error": {"code": "ALGORITHM_RAISED", "message": "the algorithm raised OSError at x:1"},
}
# As a worker leaves it that was stopped after the job.
LOG = b"""{"message": "ready", "start_ms": 3}
said by the algorithm
{"message": "the job failed: the algorithm raised OSError at x:1"}
{"message": "ready", "start_ms": 3}
{"message": "stopping: no more jobs are taken"}
{"message": "stopped"}
"""


def failures(seen: Observation) -> dict[str, str]:
    return {verdict.check: verdict.what for verdict in judge(seen) if verdict.outcome == "FAIL"}


def test_a_good_run_passes_all() -> None:
    assert {verdict.outcome for verdict in judge(GOOD)} == {"pass"}


@pytest.mark.parametrize(
    ("seen", "check", "word"),
    [
        (replace(GOOD, user=""), "user", "runs as root"),
        (replace(GOOD, user="0:0"), "user", "runs as root"),
        (replace(GOOD, user="root"), "user", "runs as root"),
        (
            replace(GOOD, user="app"),
            "user",
            "'app' is a name, which the platform doesn't trust",
        ),
        (replace(GOOD, user="app:app"), "user", "USER 10001:10001"),
        (replace(GOOD, user="10001"), "user", "has no group"),
        (replace(GOOD, user="10001:0"), "user", "is in root's group"),
        (replace(GOOD, user="10001:app"), "user", "runs as nobody"),
        (replace(GOOD, architecture="arm64"), "architecture", "--platform linux/amd64"),
        (replace(RUNNING, cpu_share=0.0), "job ends well", "hangs"),
        (replace(RUNNING, cpu_share=0.98), "job ends well", "still computes"),
        (replace(RUNNING, job=FAILED, log=b"first\nlast\n"), "job ends well", "its log ends: last"),
        (replace(RUNNING, job=FAILED, log=LOG), "job ends well", "its log ends: said by the algorithm"),
        (replace(RUNNING, job={**FAILED, "status": "RUNNING"}, cpu_share=0.0), "job ends well", "raised OSError"),
        (replace(GOOD, seconds=61), "in time", "too slow"),
        (replace(GOOD, log=b'{"errno": "EROFS"}'), "writes only to /tmp", "EROFS"),
        (replace(GOOD, log=b"x\ncp: /a: Read-only file system\ny"), "writes only to /tmp", "read-only: cp: /a"),
        (replace(GOOD, result=b"PNG"), "result is DICOM", "non-DICOM"),
        (replace(GOOD, result=b""), "result is DICOM", "non-DICOM"),
        (replace(GOOD, result=result(SOPInstanceUID=None)), "result is DICOM", "lacks SOPInstanceUID"),
        (replace(GOOD, invalid=["Error - one", "Error - two"]), "result is valid", "and 1 more"),
        (replace(GOOD, result=SOURCE), "result is of the source", "make a new one"),
        (replace(GOOD, result=result(PatientID="another")), "result is of the source", "PatientID"),
        (replace(GOOD, log=b"key s3cr3t-key"), "keeps its credentials", "to its log"),
        (replace(GOOD, result=result(ImageComments="s3cr3t-key")), "keeps its credentials", "to its result"),
        (replace(GOOD, log=b"{'PACS_API_KEY': 'x'}"), "keeps its credentials", "to its log"),
    ],
)
def test_a_fault_has_one_sentence(seen: Observation, check: str, word: str) -> None:
    said = failures(seen)
    assert list(said) == [check]
    assert word in said[check]


@pytest.mark.parametrize(
    ("reached", "failed"),
    [({"failure": "it exited"}, "worker starts"), ({"asked": False}, "worker asks for jobs")],
)
def test_what_was_not_reached_is_not_judged(reached: dict[str, Any], failed: str) -> None:
    early = replace(GOOD, asked=None, job=None, result=None, invalid=None)
    verdicts = {verdict.check: verdict for verdict in judge(replace(early, **reached))}
    assert [check for check, verdict in verdicts.items() if verdict.outcome == "FAIL"] == [failed]
    assert verdicts[failed].what.startswith("no worker: ")
    for check in ("job ends well", "in time", "result is DICOM", "result is valid", "result is of the source"):
        assert verdicts[check].outcome == "not reached"


def test_a_secret_is_never_in_a_verdict_or_in_what_python_prints() -> None:
    seen = replace(GOOD, log=b"key s3cr3t-key")
    assert "s3cr3t-key" not in str(judge(seen))
    assert "s3cr3t-key" not in repr(replace(seen, log=b""))


def test_a_name_without_its_value_is_no_leak() -> None:
    assert failures(replace(GOOD, log=b"PACS_API_KEY is not set; AWS_SECRET_ACCESS_KEY=\n")) == {}
