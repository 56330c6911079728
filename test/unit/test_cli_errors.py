"""What goes wrong is said in one line: exit status 1, or 2 for wrong usage, and never a traceback."""

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medical_image_processing.entrypoints.cli import app


@pytest.fixture(scope="module")
def nobody() -> str:
    """An address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def mip(*arguments: str, base: str = "http://127.0.0.1:1", stdin: str = "", **env: str):
    runner = CliRunner(
        env={"MIP_API_BASE": base, "MIP_ADMIN_KEY": "", "MIP_CLIENT_KEY": "", "COLUMNS": "80", **env}
    )
    return runner.invoke(app, arguments, input=stdin, prog_name="mip")


CALLS = [
    ("algorithms", "register", "a", "--image", "i"),
    ("algorithms", "list"),
    ("algorithms", "show", "a"),
    ("algorithms", "update", "a", "--cpu", "256"),
    ("algorithms", "scale", "a", "1"),
    ("algorithms", "remove", "a"),
    ("algorithms", "logs", "a"),
    ("process", "a", "--study", "s"),
    ("jobs", "list"),
    ("jobs", "show", "j"),
    ("jobs", "replay", "j"),
    ("keys", "add", "n"),
    ("keys", "list"),
    ("keys", "remove", "n"),
]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_no_platform(call: tuple[str, ...], nobody: str) -> None:
    answer = mip(*call, base=nobody)
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr.count("\n") == 1
    assert nobody in answer.stderr
    assert "mip up" in answer.stderr


def test_a_platform_that_may_not_start_fetches_no_sample_before_it_says_so(tmp_path: Path) -> None:
    answer = mip(
        *("up", "--host", "0.0.0.0", "--home", str(tmp_path / "home")),
        MIP_SAMPLES=str(tmp_path / "samples"),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(tmp_path),
    )
    assert answer.exit_code == 1
    assert "--client-keys" in answer.stderr
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_errors_for_programs(call: tuple[str, ...], nobody: str) -> None:
    answer = mip(*call, "--json", base=nobody)
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert json.loads(answer.stderr)["error"]["code"] == "PLATFORM_UNREACHABLE"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("nonsense",), "No such command"),
        (("process", "a"), "--study"),
        (("process", "a", "--study", "s", "--parameters", "{"), "--parameters"),
        (("process", "a", "--study", "s", "--parameters", "[1]"), "JSON object"),
        (("algorithms", "register", "a"), "--image"),
        (("algorithms", "register", "a", "--image", "i", "--env", "X"), "NAME=VALUE"),
        (("algorithms", "register", "a", "--image", "i", "--command", "'x"), "--command"),
        (("algorithms", "update", "a"), "at least one thing"),
        (("algorithms", "scale", "a", "-1"), "N"),
        (("algorithms", "remove", "a", "--force"), "--hard"),
        (("algorithms", "remove", "a", "--hard"), "--yes"),
        (("algorithms", "logs", "a", "--follow", "--json"), "--follow"),
        (("jobs", "list", "--limit", "0"), "--limit"),
        (("keys", "add", "n", "--role", "admin", "--client-ids", "c"), "--role"),
        (("up", "--port", "70000"), "--port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(call: tuple[str, ...], said: str) -> None:
    answer = mip(*call)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert said in answer.stderr
    assert "Usage: mip" in answer.stderr


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_is_none_is_named(content: str | None, nobody: str, tmp_path: Path) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    answer = mip("jobs", "list", "--json", base=nobody, SSL_CERT_FILE=str(file))
    error = json.loads(answer.stderr)["error"]
    assert (answer.exit_code, error["code"]) == (1, "BAD_CERTIFICATES")
    assert "SSL_CERT_FILE" in error["message"]


@pytest.mark.parametrize(
    "base", ["nonsense", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://[", "http://a b"]
)
def test_bad_address(base: str) -> None:
    answer = mip("jobs", "list", base=base)
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr.count("\n") == 1
    assert base in answer.stderr


def test_key_that_no_header_can_carry() -> None:
    answer = mip("keys", "list", MIP_ADMIN_KEY="schlüssel")
    assert answer.exit_code == 1
    assert "MIP_ADMIN_KEY" in answer.stderr
    assert "schlüssel" not in answer.stderr


def test_spec_files(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    for content, said in (
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"algo_id": "b", "image_uri": "i"}', "'b'"),
    ):
        spec.write_text(content)
        answer = mip("algorithms", "register", "a", "--file", str(spec))
        assert answer.exit_code == 1
        assert said in answer.stderr
    missing = mip("algorithms", "register", "a", "--file", str(tmp_path / "none"))
    assert missing.exit_code == 1
    assert str(tmp_path / "none") in missing.stderr
    assert "can't be read" in missing.stderr


def test_key_for_a_file_is_shown_once_and_kept_hashed(tmp_path: Path) -> None:
    file = tmp_path / "client-keys"
    added = mip("keys", "add", "ward-7", "--client-ids", "a,b", "--file", str(file))
    assert added.exit_code == 0
    key = added.stdout.strip()
    assert key
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert file.read_text().startswith("ward-7 ")
    again = mip("keys", "add", "ward-7", "--file", str(file))
    assert again.exit_code == 1
    assert "ward-7" in again.stderr
