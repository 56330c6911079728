"""``mip demo``, as a person or a script runs it."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import cv2
import pydicom

from api_calls import until
from platform_process import CLI, clean_environment


def test_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CLI, "demo", "--json"],
        cwd=tmp_path,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [job["status"] for job in said["jobs"]] == ["SUCCEEDED", "SUCCEEDED"]
    folder = tmp_path / "demo-output"
    assert sorted(file.name for file in folder.iterdir()) == [
        "image-result.dcm",
        "overlay.png",
        "series-result.dcm",
    ]
    image, series = (pydicom.dcmread(folder / f"{scope}-result.dcm") for scope in ("image", "series"))
    assert image.StudyInstanceUID == series.StudyInstanceUID
    assert (series.Rows, series.NumberOfFrames) == (image.Rows, 20), "the series is not the real CT"
    assert cv2.imread(str(folder / "overlay.png")) is not None
    assert list(tmp_path.glob("mip-demo-*")) == [], "the demo's platform left its home behind"


def start_demo(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A demo whose platform runs."""
    demo = subprocess.Popen(
        [*CLI, "demo"],
        cwd=tmp_path,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("mip-demo-*/home/env")):
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return demo


def test_demo_that_is_stopped_leaves_nothing_running(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    demo.send_signal(signal.SIGTERM)
    said, _ = demo.communicate(timeout=30)
    assert demo.returncode == 143, said
    assert b"Traceback" not in said
    assert list(tmp_path.glob("mip-demo-*")) == []
    until(lambda: processes_of_session(demo.pid) == [], "nothing of it runs")  # whoever reaps what it left


def processes_of_session(session: int) -> list[str]:
    """What still runs in a session, by command name (proc(5), ``/proc/PID/stat``)."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                name, _, fields = (folder / "stat").read_text().rpartition(")")
            except OSError:
                continue
            if int(fields.split()[3]) == session and int(folder.name) != os.getpid():
                found.append(name)
    return found


def test_demo_that_is_killed_takes_its_platform_with_it(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    [home] = tmp_path.glob("mip-demo-*/home")
    demo.kill()
    demo.communicate(timeout=30)  # until nobody holds its pipes
    until(lambda: running_with(home) == [], "its platform and workers have ended")


def running_with(home: Path) -> list[str]:
    """Command lines of processes that name ``home``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_text()
            found += [line] if str(home) in line else []
    return found
