"""``./mip`` in a fresh copy whose path has a space, with a short lock in place of the real one."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from platform_process import clean_environment

ROOT = Path(__file__).parents[2]
# What `mip --version` imports, from the real lock; the whole of it would only take longer.
PACKAGES = (
    *("annotated-doc", "annotated-types", "anyio", "certifi", "h11", "httpcore", "httpx", "idna"),
    *("markdown-it-py", "mdurl", "pydantic", "pydantic-core", "typing-inspection"),
    *("pygments", "rich", "shellingham", "typer", "typing-extensions"),
)
TIMEOUT_S = 120


@dataclass
class Clone:
    """A copy of the project that has been set up."""

    root: Path
    first_said: str
    """Standard error of the first run, which was killed in the middle."""
    said: tuple[str, str]
    """Standard error of the two runs after that, which ran at once."""


def short_lock() -> str:
    lock = (ROOT / "requirements-server.lock").read_text()
    entries = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    return "".join(entry for entry in entries if entry.partition("==")[0] in PACKAGES)


def start(mip: Path, *arguments: str, cwd: Path = Path("/"), **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [mip, *arguments],
        cwd=cwd,
        env=clean_environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], *, status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status, err
    return out, err


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    root = tmp_path_factory.mktemp("a b") / "the clone"
    root.mkdir()
    for name in ("mip", "launcher.py", "pyproject.toml", "hatch_build.py", "README.md", "requirements-setup.lock"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "requirements-server.lock").write_text(short_lock())
    (root / "requirements.lock").write_text("")
    first = start(root / "mip", "--version")
    deadline = time.monotonic() + TIMEOUT_S
    while not (root / ".venv" / "mip-unfinished").exists():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first_said = first.communicate(timeout=TIMEOUT_S)[1]
    both = [start(root / "mip", "--version") for _ in range(2)]
    said = tuple(finish(process) for process in both)
    assert said[0][0] == said[1][0] != ""
    return Clone(root, first_said, (said[0][1], said[1][1]))


def test_interrupted_set_up_is_repaired_by_one_of_two(clone: Clone) -> None:
    assert "setting up" in clone.first_said
    assert "this project" not in clone.first_said
    assert sum("setting up /" in said for said in clone.said) == 1
    assert sum("this project" in said for said in clone.said) == 1
    assert not (clone.root / ".venv" / "mip-unfinished").exists()


def test_runs_from_anywhere_through_a_link(clone: Clone, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(clone.root / "mip")
    (tmp_path / "two").symlink_to("one")
    # Files of the current folder must not take the place of the platform's own modules.
    (tmp_path / "typer.py").write_text("raise SystemExit('not this one')")
    out, err = finish(start(tmp_path / "two", "--version", cwd=tmp_path))
    assert (out.strip(), err) == (version(), "")


def test_pip_stays_usable(clone: Clone) -> None:
    python = clone.root / ".venv" / "bin" / "python"
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    found = {package["name"].lower(): package for package in json.loads(listed.stdout)}
    assert set(PACKAGES) <= {name.replace("_", "-") for name in found}
    assert found["medical-image-processing"]["editable_project_location"] == str(clone.root)


def test_moved_folder_then_bad_lock(clone: Clone, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(clone.root, moved, symlinks=True)
    out, err = finish(start(moved / "mip", "--version"))
    assert "setting up" in err
    assert out.strip() == version()
    assert str(clone.root) not in source_of(moved)
    (moved / "requirements-server.lock").write_text("nothing-like-this==1.0 --hash=sha256:" + 64 * "0" + "\n")
    out, err = finish(start(moved / "mip", "--version"), status=1)
    assert out == ""
    assert "nothing-like-this" in err
    assert "run mip again" in err.splitlines()[-1]
    assert "Traceback" not in err


def source_of(root: Path) -> str:
    """Where the interpreter of ``root`` finds the package."""
    command = [
        root / ".venv" / "bin" / "python",
        "-P",
        "-c",
        "import medical_image_processing as m; print(m.__file__)",
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_no_python(tmp_path: Path) -> None:
    for tool in ("dirname", "readlink"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    shutil.copy(ROOT / "mip", tmp_path)
    out, err = finish(start(tmp_path / "mip", PATH=str(tmp_path)), status=1)
    assert out == ""
    assert err.count("\n") == 1
    assert "Python 3.11" in err


def test_old_python_is_passed_over(tmp_path: Path) -> None:
    for tool in ("dirname", "readlink"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    shutil.copy(ROOT / "mip", tmp_path)
    for name, status, said in (("python3", 1, "old"), ("python3.12", 0, "new")):
        (tmp_path / name).write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit {status}\necho {said} "$@"\n')
        (tmp_path / name).chmod(0o755)
    out, _ = finish(start(tmp_path / "mip", "jobs", "a b", PATH=str(tmp_path)))
    assert out == f"new -P {tmp_path}/launcher.py jobs a b\n"


def test_what_the_server_needs_is_pinned_as_in_the_tests() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+(?:\[.*\])?==[^ ]+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements-server.lock")
    assert pins("requirements-server.lock") <= pins("requirements.lock")


def version() -> str:
    from medical_image_processing import __version__

    return __version__
