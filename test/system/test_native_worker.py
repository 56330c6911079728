"""Native algorithms in whole workers: executables that behave, fail, hang, leave things behind and attack."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from worker_stage import Stage, WorkerProcess

from medical_image_processing import samples
from medical_image_processing.dicom.read import read_image
from medical_image_processing.dicom.secondary_capture import read_mask
from medical_image_processing.model.job import ReportedStatus, ResultMessage

SERIES = {"study_id": "CT", "series_id": "three"}

EXECUTABLE = '''#!{python} -IS
"""What a native tool can do; the job's parameters say which."""
import array, json, os, signal, subprocess, sys, time

source, result = sys.argv[1:]
said = json.load(open(os.environ["MIP_PARAMETERS"]))
data = open(source, "rb").read()
text, _, pixels = data.partition(b"\\n\\n")
sizes = next(line for line in text.decode().split("\\n") if line.startswith("sizes"))


def write(kind, values, sizes=sizes):
    head = f"NRRD0004\\ntype: {{kind}}\\ndimension: 3\\n{{sizes}}\\nendian: little\\nencoding: raw\\n\\n"
    open(result, "wb").write(head.encode() + values.tobytes())


def above(limit):
    return array.array("B", (value > limit for value in array.array("h", pixels)))


def note(**facts):
    with open(said["note"], "w") as file:
        json.dump(facts, file)


def start_others():
    """One child in this process group, and one that has left it; both hold our pipes open."""
    sleep = ["/bin/sleep", "600"]
    with_us, away = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
    note(pids=[os.getpid(), with_us.pid, away.pid])


print("to standard output")
print("to standard error", file=sys.stderr)
match said.get("do"):
    case "fail":
        print("first line\\nthe \\x1b[31mreason\\x07 is \\u00e9 " + "x" * 5000, file=sys.stderr)
        sys.exit(3)
    case "fail silently":
        sys.stderr.close()
        os.close(2)
        os._exit(4)
    case "signal":
        os.kill(os.getpid(), said["number"])
    case "hang":
        start_others()
        time.sleep(600)
    case "leave":
        start_others()
        write("uchar", above(0))
    case "nothing":
        pass
    case "fifo":
        os.mkfifo(result)
    case "link":
        os.symlink("/etc/passwd", result)
    case "short":
        write("uchar", above(0)[:100])
    case "other sizes":
        write("uchar", above(0), "sizes: 1 1 1")
    case "float":
        write("float", array.array("f", above(0)))
    case "words":
        write("short", array.array("h", [-5 * value for value in above(0)]))
    case "cut the input":
        write("uchar", above(0))
        os.chmod(source, 0o600)
        os.truncate(source, 10)
    case "environment":
        note(env=dict(os.environ), cwd=os.getcwd(), header=text.decode(), mode=os.stat(source).st_mode & 0o777)
        write("uchar", above(0))
    case "litter":
        os.makedirs("a/b")
        open("a/b/file", "w").write("x")
        os.chmod("a/b", 0)
        os.chmod("a", 0)
        write("uchar", above(0))
    case "flood":
        for number in range(200_000):
            sys.stderr.write(f"{{number}}\\n")
        sys.exit(5)
    case "image":
        write("float", array.array("f", [value / 4 for value in array.array("h", pixels)]))
    case _:
        write("uchar", above(said.get("above", 0)))
'''


HANGS_ONCE = """#!/bin/sh
# A shell, which does all this in a hundredth of the time limit. First it hangs, with a child in its process group
# and one that has left it; then it answers with an empty mask.
if [ ! -e "$NOTE" ]; then
    sleep 600 & with_us=$!
    setsid sleep 600 & away=$!
    echo "$$ $with_us $away" > "$NOTE"
    wait
fi
sizes=$(LC_ALL=C sed -n '/^sizes/{p;q}' "$1")
printf 'NRRD0004\\ntype: uchar\\ndimension: 3\\n%s\\nendian: little\\nencoding: raw\\n\\n' "$sizes" > "$2"
head -c 16384 /dev/zero >> "$2"
"""


@pytest.fixture(scope="module")
def pacs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pacs")
    (folder / "CT" / "small").mkdir(parents=True)
    (folder / "CT" / "three").mkdir()
    shutil.copy(samples.ct_small(), folder / "CT" / "small" / "CT_small.dcm")
    for index in range(3):
        slice_ = pydicom.dcmread(samples.ct_small())
        slice_.SeriesInstanceUID += ".3"
        slice_.SOPInstanceUID += f".{index}"
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
        slice_.ImagePositionPatient = [-1.5, 2, 5.0 * index]
        slice_.save_as(folder / "CT" / "three" / f"{index}.dcm")
    return folder


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bin") / "tool"
    path.write_text(EXECUTABLE.format(python=os.path.realpath(sys.executable)))
    path.chmod(0o755)
    return path


def start(stage: Stage, executable: Path, *options: str, **env: str) -> WorkerProcess:
    module = "medical_image_processing.worker.native"
    command = (sys.executable, "-m", module, str(executable), *options)
    temporary = stage.output.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    return stage.start_worker(*command, **{"TMPDIR": str(temporary), **env})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, pacs_folder: Path, executable: Path) -> Iterator[Stage]:
    """With one worker, which survives every job; so each test also sees what the ones before left."""
    with Stage(tmp_path_factory.mktemp("native"), pacs_folder) as running:
        start(running, executable, MIP_IMAGE_DIGEST="sha256:0123", RECORDS_OWN="kept", AWS_PROFILE="other")
        yield running
        assert not running.workers[0].has_ended()


@pytest.fixture
def own_stage(tmp_path: Path, pacs_folder: Path) -> Iterator[Stage]:
    with Stage(tmp_path, pacs_folder) as running:
        yield running


def process(stage: Stage, job_id: str, **parameters: Any) -> ResultMessage:
    stage.submit(job_id, **parameters)
    result = stage.result(job_id)
    stage.eventually(lambda: work_folders(stage) == [])
    return result


def work_folders(stage: Stage) -> list[Path]:
    return list((stage.output.parent / "tmp").iterdir())


def written(stage: Stage, result: ResultMessage) -> pydicom.Dataset:
    assert result.status is ReportedStatus.SUCCEEDED, result.error
    assert result.dicom is not None
    return pydicom.dcmread(stage.output / result.dicom.key)


def failure(result: ResultMessage) -> tuple[str, str]:
    assert result.status is ReportedStatus.FAILED and result.error is not None
    return result.error.code, result.error.message


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_an_image_becomes_a_mask(stage: Stage) -> None:
    result = process(stage, "image", above=30)
    expected = read_image(samples.ct_small().read_bytes()).pixels > 30
    np.testing.assert_array_equal(read_mask(written(stage, result)), expected)
    assert result.provenance is not None
    assert result.provenance["image_digest"] == "sha256:0123"


def test_a_series_becomes_a_volume(stage: Stage) -> None:
    result = process(stage, "series", pacs=SERIES, scope="series", above=0)
    mask = read_mask(written(stage, result))
    expected = read_image(samples.ct_small().read_bytes()).pixels > 0
    np.testing.assert_array_equal(mask, [expected] * 3)


def test_words_become_a_mask_of_what_is_not_zero(stage: Stage) -> None:
    mask = read_mask(written(stage, process(stage, "words", do="words")))
    np.testing.assert_array_equal(mask, read_image(samples.ct_small().read_bytes()).pixels > 0)


def test_the_executable_sees_its_job_and_no_secrets(stage: Stage, tmp_path: Path) -> None:
    note = tmp_path / "note"
    written(stage, process(stage, "environment", pacs=SERIES, scope="series", do="environment", note=str(note)))
    seen = json.loads(note.read_text())
    env = seen["env"]
    assert {name for name in env if name.startswith(("AWS", "MIP", "ECS", "PACS"))} == {"MIP_PARAMETERS"}
    assert not {"QUEUE_URL", "RESULT_QUEUE", "OUTPUT_BUCKET", "ALGO_ID"} & set(env)
    assert (env["RECORDS_OWN"], env["OMP_NUM_THREADS"]) == ("kept", "1")
    assert env["TMPDIR"] == seen["cwd"] and seen["cwd"].startswith(str(stage.output.parent / "tmp"))
    assert "space origin: (-1.5,2,0)\n" in seen["header"]
    assert "space: left-posterior-superior\nsizes: 128 128 3\n" in seen["header"]
    assert seen["mode"] == 0o400


def test_what_it_says_is_in_the_log_with_the_job(stage: Stage) -> None:
    process(stage, "says")
    lines = [line for line in stage.workers[0].lines() if line.get("job_id") == "says" and "stream" in line]
    assert {(line["message"], line["stream"]) for line in lines} == {
        ("to standard output", "stdout"),
        ("to standard error", "stderr"),
    }


def test_its_last_line_is_the_reason(stage: Stage) -> None:
    code, message = failure(process(stage, "fail", do="fail"))
    assert code == "EXECUTABLE_FAILED"
    assert message.startswith("The executable ended with status 3: the [31mreason is é xxx")
    assert len(message) < 600 and message.isprintable()


def test_without_a_line_its_status_is_all_that_is_known(stage: Stage) -> None:
    code, message = failure(process(stage, "silent", do="fail silently"))
    assert (code, "status 4" in message) == ("EXECUTABLE_FAILED", True)


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "SIGKILL, perhaps for want of memory")]
)
def test_a_signal_is_named(stage: Stage, number: signal.Signals, said: str) -> None:
    code, message = failure(process(stage, f"signal-{number}", do="signal", number=int(number)))
    assert (code, said in message) == ("EXECUTABLE_KILLED", True)


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("nothing", "was not written"),
        ("fifo", "no plain file"),
        ("link", "no plain file"),
        ("short", "cut short: 100 bytes"),
        ("other sizes", "it has 1 x 1 x 1 pixels, and the input 128 x 128"),
        ("float", "--output image"),
    ],
)
def test_a_bad_output_fails_the_job(stage: Stage, do: str, said: str) -> None:
    code, message = failure(process(stage, f"bad-{do.replace(' ', '-')}", do=do))
    assert (code, said in message) == ("INVALID_RESULT", True), message


def test_an_input_cut_short_fails_the_job_and_not_the_worker(stage: Stage) -> None:
    result = process(stage, "cut", pacs=SERIES, scope="series", do="cut the input")
    assert failure(result)[0] == "INVALID_RESULT"


def test_a_flood_is_cut(stage: Stage) -> None:
    code, message = failure(process(stage, "flood", do="flood"))
    assert (code, message) == ("EXECUTABLE_FAILED", "The executable ended with status 5: 199999")
    lines = [line["message"] for line in stage.workers[0].lines() if line.get("job_id") == "flood"]
    assert len(lines) < 10_010 and "190002 more lines are left out" in lines


def test_what_it_leaves_behind_is_ended(stage: Stage, tmp_path: Path) -> None:
    written(stage, process(stage, "leave", do="leave", note=str(tmp_path / "note")))
    pids = json.loads((tmp_path / "note").read_text())["pids"]
    stage.eventually(lambda: not any(map(is_running, pids)))


def test_what_it_makes_unreadable_is_removed(stage: Stage) -> None:
    written(stage, process(stage, "litter", do="litter"))


def test_a_hanging_executable_is_ended_with_its_children_and_the_worker_goes_on(
    own_stage: Stage, tmp_path: Path
) -> None:
    """Long before its children would go, which hold its pipes open."""
    tool, note = tmp_path / "hanging", tmp_path / "note"
    tool.write_text(HANGS_ONCE)
    tool.chmod(0o755)
    start(own_stage, tool, MIP_TIME_LIMIT_S="2", NOTE=str(note))
    code, message = failure(process(own_stage, "hang"))
    assert (code, message) == ("TIME_LIMIT_EXCEEDED", "the algorithm took longer than its 2 s; send less at once")
    pids = [int(word) for word in note.read_text().split()]
    assert len(pids) == 3
    own_stage.eventually(lambda: not any(map(is_running, pids)))
    written(own_stage, process(own_stage, "after-hang"))


def test_an_image_is_kept_as_an_image(own_stage: Stage, executable: Path) -> None:
    start(own_stage, executable, "--output", "image")
    expected = read_image(samples.ct_small().read_bytes()).pixels / 4
    for job_id, where in (("one", {}), ("three", {"pacs": SERIES, "scope": "series"})):
        dataset = written(own_stage, process(own_stage, job_id, do="image", **where))
        values = dataset.pixel_array * np.float64(dataset.RescaleSlope) + np.float64(dataset.RescaleIntercept)
        np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=0.01)
        assert dataset.PhotometricInterpretation == "MONOCHROME2"
        assert dataset.SeriesDescription == "acts image, research use only"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_a_worker_that_goes_takes_the_executable_along(
    own_stage: Stage, executable: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    note = tmp_path / "note"
    worker = start(own_stage, executable, MIP_TIME_LIMIT_S="60", MIP_STOP_TIMEOUT_S="0.5")
    own_stage.submit("hang", do="hang", note=str(note))
    own_stage.eventually(lambda: note.exists() and note.read_text().endswith("}"))
    pids = json.loads(note.read_text())["pids"]
    worker.send_signal(number)
    assert worker.wait() == status
    own_stage.eventually(lambda: not is_running(pids[0]))
    if number is not signal.SIGKILL:
        own_stage.eventually(lambda: not any(map(is_running, pids)))
        own_stage.eventually(lambda: own_stage.waiting() == 1)
        assert work_folders(own_stage) == []
    for pid in pids:  # of a worker killed outright its container takes care
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "is not there"),
        (b"#!/bin/sh\n", 0o644, "may not be executed"),
        (b"just text\n", 0o755, "is neither a program (ELF) nor a script"),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\xf3\x00", 0o755, "is built for another processor"),
    ],
)
def test_a_worker_without_a_usable_executable_does_not_start(
    own_stage: Stage, tmp_path: Path, content: bytes | None, mode: int, said: str
) -> None:
    tool = tmp_path / "tool"
    if content is not None:
        tool.write_bytes(content)
        tool.chmod(mode)
    if mode == 0o644 and os.geteuid() == 0:
        assert not os.access(tool, os.X_OK)
    worker = start(own_stage, tool)
    assert worker.wait() == os.EX_CONFIG
    last = worker.lines()[-1]["message"]
    assert "the worker can't start: EXECUTABLE_UNUSABLE" in last and said in last


def test_a_script_without_its_interpreter_fails_the_job(own_stage: Stage, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/no/such/interpreter\n")
    tool.chmod(0o755)
    start(own_stage, tool)
    code, message = failure(process(own_stage, "job"))
    assert (code, "interpreter" in message) == ("EXECUTABLE_UNUSABLE", True)


def test_the_folder_of_the_header_is_printed() -> None:
    command = [sys.executable, "-m", "medical_image_processing.worker.native", "--include"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert (Path(said.strip()) / "mip_volume.hpp").is_file()
