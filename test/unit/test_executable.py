"""What a run's end is called, and what of the executable's words is passed on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_image_processing.errors import AlgorithmFailed
from medical_image_processing.worker.executable import Executable, printable
from medical_image_processing.worker.memory import count_memory_kills, read_memory_limit
from medical_image_processing.worker.native_processor import public_environment


@given(st.binary(max_size=300))
def test_any_line_becomes_printable(raw: bytes) -> None:
    line = printable(raw)
    assert line.replace("\t", "").isprintable()


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"10 %\r50 %\r100 %", "100 %"),
        (b"windows\r", "windows"),
        (b"\x1b[1mbold\x1b[0m", "[1mbold[0m"),
        (b"caf\xc3\xa9 \xff", "caf\u00e9 \ufffd"),
        (b"x" * 10_000, "x" * 2000),
    ],
)
def test_lines_are_cut_to_what_a_person_would_see(raw: bytes, line: str) -> None:
    assert printable(raw) == line


def test_a_run_leaves_no_descriptor_open(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    executable = Executable(Path("/bin/ls"), time_limit_s=30, log=lambda line, stream: said.append((line, stream)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        executable.run(["/"], cwd=tmp_path, env={})
        with pytest.raises(AlgorithmFailed, match=r"EXECUTABLE_FAILED.*No such file"):
            executable.run(["/no/such/file"], cwd=tmp_path, env={"LC_ALL": "C"})
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert ("bin", "stdout") in said


def test_after_its_end_nothing_is_started(tmp_path: Path) -> None:
    executable = Executable(Path("/bin/ls"), time_limit_s=30, log=lambda *_: None)
    executable.close()
    with pytest.raises(AlgorithmFailed):
        executable.run([], cwd=tmp_path, env={})


def test_a_reaper_can_not_be_looked_into() -> None:
    asks = """
import ctypes, json
from medical_image_processing.worker.executable import become_reaper
become_reaper()
prctl, is_reaper = ctypes.CDLL(None).prctl, ctypes.c_int()
prctl(37, ctypes.byref(is_reaper))  # PR_GET_CHILD_SUBREAPER
print(json.dumps([is_reaper.value, prctl(3)]))  # PR_GET_DUMPABLE
"""
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [1, 0]


def test_both_versions_of_control_groups_are_read(tmp_path: Path) -> None:
    assert (read_memory_limit(tmp_path), count_memory_kills(tmp_path)) == (None, 0)
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "memory").mkdir(parents=True)
    new.mkdir()
    (old / "memory" / "memory.limit_in_bytes").write_text("536870912\n")
    (old / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (new / "memory.max").write_text("1073741824\n")
    (new / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert (read_memory_limit(old), count_memory_kills(old)) == (2**29, 2)
    assert (read_memory_limit(new), count_memory_kills(new)) == (2**30, 1)
    (new / "memory.max").write_text("max\n")
    (old / "memory" / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert read_memory_limit(new) is None and read_memory_limit(old) is None


def test_the_environment_keeps_what_is_the_records() -> None:
    env = {
        "PATH": "/bin",
        "EXTRA_DEBUG": "1",
        "OMP_NUM_THREADS": "4",
        "AWS_SESSION_TOKEN": "s",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "s",
        "ECS_CONTAINER_METADATA_URI_V4": "s",
        "PACS_API_KEY": "s",
        "QUEUE_URL": "s",
        "MIP_TASK": "s",
    }
    assert public_environment(env) == {"PATH": "/bin", "EXTRA_DEBUG": "1", "OMP_NUM_THREADS": "4"}
