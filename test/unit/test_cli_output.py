"""Times for people, a log that is followed, and downloads that are whole or not there."""

import http.server
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from medical_image_processing.entrypoints.cli_output import ago, clock, seconds
from medical_image_processing.entrypoints.client import Client, read_env
from medical_image_processing.errors import Unavailable

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (timedelta(seconds=-3), "0 s ago"),
        (timedelta(seconds=59.9), "59 s ago"),
        (timedelta(seconds=60), "1 min ago"),
        (timedelta(hours=23, minutes=59), "23 h ago"),
        (timedelta(days=400), "400 d ago"),
    ],
)
def test_ago(passed: timedelta, said: str) -> None:
    moment = NOW - passed
    assert ago(moment.isoformat().replace("+00:00", "Z"), now=NOW) == said
    assert ago(moment.timestamp(), now=NOW) == said


def test_clock_is_the_machines() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
    assert clock(there) == clock("2026-11-24T12:00:00Z") == f"{NOW.astimezone():%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("value", "said"),
    [(-0.1, "0 ms"), (0.0854, "85 ms"), (3.21, "3.2 s"), (99.94, "99.9 s"), (240, "4 min"), (7300, "2 h")],
)
def test_seconds(value: float, said: str) -> None:
    assert seconds(value) == said


def test_env_file(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("export A=1\n\n# comment\nexport B='x y=z'\nexport C=\n")
    assert read_env(file) == {"A": "1", "B": "x y=z", "C": ""}


class _Breaks(http.server.BaseHTTPRequestHandler):
    """Promises more than it sends, except under /whole."""

    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("content-length", "4" if self.path == "/whole" else "1000")
        self.end_headers()
        self.wfile.write(b"DICM")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Breaks) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join(10)


def test_download_is_whole_or_leaves_nothing(tmp_path: Path, server: str) -> None:
    file = tmp_path / "made" / "result.dcm"
    with Client(server) as client:
        for path in ("/broken", "/none"):
            with pytest.raises(Unavailable) as caught:
                client.download(server + path, file)
            assert caught.value.code == "DOWNLOAD_FAILED"
            assert not file.parent.exists() or not list(file.parent.iterdir())
        assert client.download(f"{server}/whole", file) == 4
    assert file.read_bytes() == b"DICM"
    assert [entry.name for entry in file.parent.iterdir()] == ["result.dcm"]
