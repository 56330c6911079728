"""containers/examples/openmp_adapter.py: a program on the platform through boto3 and requests alone."""

from __future__ import annotations

import ast
import os
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from api_calls import Api, make_pacs, until
from platform_process import Platform

ADAPTER = Path(__file__).parents[2] / "containers" / "examples" / "openmp_adapter.py"

# Copies its input, which is a file or a folder of them.
PROGRAM = """#!/bin/sh
echo "starting" >&2
[ -z "$SLOW" ] || { echo $$ > "$SLOW"; while [ ! -e "$SLOW.go" ]; do sleep 0.05; done; }
[ -z "$FAILS" ] || { echo "no liver in sight" >&2; exit 3; }
if [ -d "$1" ]; then cat "$1"/00000.dcm > "$2"; ls "$1" | wc -l >> "$COUNT"; else cp "$1" "$2"; fi
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openmp")


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[Api]:
    commands = folder / "commands"
    commands.mkdir()
    adapter, program = commands / "adapter.py", commands / "my_openmp"
    adapter.write_text(ADAPTER.read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable}"))
    program.write_text(PROGRAM)
    via = commands / "via.sh"
    via.write_text(f'#!/bin/sh\nPACS_API_BASE="$VIA/$PACS_API_BASE" exec {commands}/hasty.py\n')
    hasty = commands / "hasty.py"
    hasty.write_text(adapter.read_text().replace("LEASE_S = 60", "LEASE_S = 2"))
    for file in (adapter, program, via, hasty):
        file.chmod(0o755)
    with Platform(
        folder / "home", pacs=make_pacs(folder / "pacs"), options=["--allow-commands", str(commands)]
    ) as up:
        yield Api(up)


def register(api: Api, folder: Path, algo_id: str, command: str = "adapter.py", **env: str) -> None:
    program = folder / "commands" / "my_openmp"
    env = {"PROGRAM": str(program), "COUNT": str(folder / "count"), "SLOW": "", "FAILS": "", **env}
    api.register(algo_id, command=[command], env=env)


def test_it_is_short_and_needs_nothing_of_ours() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(ADAPTER.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
        )
    }
    assert imported - sys.stdlib_module_names == {"boto3", "requests"}
    assert len(ADAPTER.read_text().splitlines()) <= 115
    assert os.access(ADAPTER, os.X_OK)


def test_an_image_goes_in_and_a_file_comes_out(api: Api, folder: Path) -> None:
    register(api, folder, "my_openmp")
    job = api.succeeds("my_openmp", job_id="job-1")
    assert job["result"]["dicom"]["key"] == "my_openmp/study-1/series-1/image-1_job-1.dcm"
    source = (folder / "pacs/study-1/series-1/image-1.dcm").read_bytes()
    assert api.download(job["result"]["dicom"]["url"]) == source


def test_a_series_is_a_folder_of_files(api: Api, folder: Path) -> None:
    register(api, folder, "my_openmp")
    job = api.succeeds("my_openmp", pacs={"study_id": "study-1", "series_id": "series-1", "scope": "series"})
    assert job["result"]["dicom"]["key"] == f"my_openmp/study-1/series-1/{job['job_id']}.dcm"
    assert (folder / "count").read_text().split() == ["3"]


def test_a_failure_has_the_programs_reason(api: Api, folder: Path) -> None:
    register(api, folder, "fails_openmp", FAILS="1")
    job = api.until_ended(api.process("fails_openmp"))
    assert (job["status"], job["error"]) == (
        "FAILED",
        {"code": "ALGORITHM_FAILED", "message": "no liver in sight (exit status 3)"},
    )


def test_an_image_that_is_not_there_fails_with_the_pacs_answer(api: Api, folder: Path) -> None:
    register(api, folder, "my_openmp")
    where = {"study_id": "study-1", "series_id": "series-1", "image_id": "none", "scope": "image"}
    job = api.until_ended(api.process("my_openmp", pacs=where))
    assert (job["status"], job["error"]["message"]) == ("FAILED", "the PACS answered 404")


@pytest.fixture
def stumbling_pacs() -> Iterator[tuple[str, list[int]]]:
    """Fails once, then sends on to the address in the path; its own address, and what it answered."""
    answered: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answered.append(307 if answered else 503)
            self.send_response(answered[-1])
            self.send_header("location", self.path[1:])
            self.send_header("content-length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", answered
        server.shutdown()


def test_a_pacs_that_fails_once_costs_no_job(
    api: Api, folder: Path, stumbling_pacs: tuple[str, list[int]]
) -> None:
    address, answered = stumbling_pacs
    register(api, folder, "hasty_openmp", command="via.sh", VIA=address)
    job = api.until_ended(api.process("hasty_openmp"))
    assert (job["status"], answered) == ("SUCCEEDED", [503, 307]), job["error"]


def test_asked_to_stop_it_finishes_its_job_and_leaves(api: Api, folder: Path) -> None:
    slow = folder / "slow"
    register(api, folder, "slow_openmp", SLOW=str(slow))
    job_id = api.process("slow_openmp")
    until(lambda: slow.exists() and slow.read_text().endswith("\n"), "the program has started")
    program = int(slow.read_text())
    adapter = int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(adapter, signal.SIGTERM)
    (folder / "slow.go").touch()
    job = api.until_ended(job_id)
    assert (job["status"], job["attempts"]) == ("SUCCEEDED", 1)
