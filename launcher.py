"""Makes ``.venv`` when it is missing or out of date, then runs the command line in it.

``mip`` and ``mip.ps1`` start this file with whichever Python they found, so it uses the standard library
only. ``mip test`` gets the environment of ``requirements.lock``, every other command the smaller one of
``requirements-server.lock``; what each pins is the same, so one ``.venv`` serves both.

A stamp in ``.venv`` says what was installed. It is written last: an interrupted set-up starts over.

Before ``mip up`` the web client is built, where npm is and its sources have changed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
UNFINISHED = VENV / "mip-unfinished"
WEB_BUILD = ROOT / "src" / "medical_image_processing" / "entrypoints" / "web_build.py"
LOCKS = {"server": "requirements-server.lock", "dev": "requirements.lock"}


class SetupFailed(Exception):
    """The environment can't be made; the message says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run ``mip`` with ``arguments``; the exit status."""
    is_help = bool({"-h", "--help"} & set(arguments[1:]))
    testing = arguments[:1] == ["test"] and not is_help
    try:
        ensure_environment("dev" if testing else "server")
        if arguments[:1] == ["up"] and not is_help:
            build_web_client()
    except SetupFailed as error:
        print(f"mip: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmip: set-up interrupted; the next run starts it over", file=sys.stderr)
        return 130
    if testing:
        return run([str(PYTHON), str(ROOT / "test" / "run.py"), *arguments[1:]])
    return run([str(PYTHON), "-P", "-m", "medical_image_processing.entrypoints.cli", *arguments])


def run(command: list[str]) -> int:
    """Become ``command``, so that signals reach it; on Windows, which can't, run and wait for it."""
    if os.name != "nt":
        os.execv(command[0], command)  # noqa: S606 - our own interpreter
    return subprocess.run(command, check=False).returncode  # noqa: S603


def build_web_client() -> None:
    """Build the web client unless that was done; where it can't be, say so and go on."""
    # By its file: what starts this is any Python, and importing the package would take its time.
    spec = importlib.util.spec_from_file_location("web_build", WEB_BUILD)
    web_build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(web_build)
    web_build.build_for_platform()


def ensure_environment(kind: str) -> None:
    """Make ``.venv`` hold what ``kind`` needs. SetupFailed."""
    if is_ready(kind):
        return
    with only_one_at_a_time():
        if not is_ready(kind):
            install(kind)


def is_ready(kind: str) -> bool:
    """Whether ``.venv`` holds what the locks say now. What the tests need includes the server's."""
    wanted = {"dev", kind}
    return not UNFINISHED.exists() and any(stamp(name) == read(stamp_file(name)) for name in wanted)


def stamp(kind: str) -> bytes:
    """Everything that the installed environment depends on."""
    files = (ROOT / "pyproject.toml", ROOT / LOCKS[kind])
    return str(ROOT).encode() + b"\n" + b"".join(file.read_bytes() for file in files)


def stamp_file(kind: str) -> Path:
    """Where the stamp of the installed environment is kept."""
    return VENV / f"mip-{kind}.stamp"


def read(file: Path) -> bytes | None:
    """The file's content, or None when there is none."""
    try:
        return file.read_bytes()
    except OSError:
        return None


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Hold a lock on the folder. The system lets go of it however the process ends."""
    if os.name == "nt":
        yield
        return
    import fcntl

    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("mip: another mip is setting up .venv; waiting for it", file=sys.stderr)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def install(kind: str) -> None:
    """Make or repair ``.venv``, one printed line a step."""
    print(f"mip: setting up {VENV}", file=sys.stderr)
    if UNFINISHED.exists() or not runs([str(PYTHON), "-m", "pip", "--version"]):
        make_venv()
    UNFINISHED.touch()
    for old in LOCKS:
        stamp_file(old).unlink(missing_ok=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-compile"]
    lock = ["--require-hashes", "-r", str(ROOT / LOCKS[kind])]
    uv = [str(SCRIPTS / "uv"), "pip", "install", "--system-certs", "--python", str(PYTHON)]
    # Python's own pip takes a download that was cut for a whole one, and refuses its hash; the lock's resumes it.
    installer = [*pip, "--require-hashes", "-r", str(ROOT / "requirements-setup.lock")]
    step("installer", installer, installer)
    # pip knows mirrors that are set up for it alone, so it has a try where uv finds nothing.
    step(f"packages of {LOCKS[kind]}", [*uv, "--compile-bytecode", *lock], [*pip, *lock])
    project = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    step("this project", [*uv, *project], [*pip, *project])
    stamp_file(kind).write_bytes(stamp(kind))
    UNFINISHED.unlink()


def make_venv() -> None:
    """A fresh ``.venv`` with pip in it; on Debian the module for it is a package of its own."""
    # The interpreter that runs this may be the one in .venv, which must not replace itself.
    python = getattr(sys, "_base_executable", None) or sys.executable
    if not runs([python, "-c", "import venv, ensurepip"]):
        package = f"python3.{sys.version_info.minor}-venv"
        get_debian_package(package)
    step("Python environment", [python, "-m", "venv", "--clear", str(VENV)])


def get_debian_package(package: str) -> None:
    """Install ``package`` where we may. SetupFailed with the command to run where we may not."""
    if os.name == "nt" or os.geteuid() != 0 or not runs(["apt-get", "--version"]):
        raise SetupFailed(f"this Python has no venv module; on Debian run: sudo apt-get install -y {package}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    step("Debian's package lists", ["apt-get", "-q", "update"], env=env)
    step(f"Debian package {package}", ["apt-get", "-q", "install", "-y", package], env=env)


def step(what: str, *commands: list[str], env: dict[str, str] | None = None) -> None:
    """Run the first of ``commands`` that succeeds. SetupFailed, with what they said."""
    print(f"  {what} …", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    said = []
    for command in commands:
        try:
            done = subprocess.run(  # noqa: S603 - commands of this file
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            said.append(f"{command[0]}: {error.strerror}")
            continue
        if done.returncode == 0:
            print(f" {time.monotonic() - began:.1f} s", file=sys.stderr)
            return
        said.append("\n".join(done.stdout.strip().splitlines()[-15:]))
    print(" failed", file=sys.stderr)
    said.append(f"setting up stopped at: {what}; once that is mended, run mip again")
    raise SetupFailed("\n".join(said))


def runs(command: list[str]) -> bool:
    """Whether ``command`` can be run and succeeds."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
