"""Builds the web client in a clone of the sources, ``clients/react-app``, once for what its sources are.

``./mip up``, ``./mip test``, the tests and the build of the wheel call it, some of them before anything is
installed: standard library only. Where the platform is installed without its sources, the package has the client.

The client is built aside and then put in place whole: a build that fails or is killed leaves the one before it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[3] / "clients" / "react-app"
DIST = CLIENT / "dist"
_STAMP = DIST / ".stamp"
"""What sources it was built from. Hidden, so that it is not served."""
_MODULES = CLIENT / "node_modules"
_INSTALLED = _MODULES / ".mip-stamp"
_NEW, _OLD = _MODULES / ".mip-new", _MODULES / ".mip-old"
_PACKAGES = ("package.json", "package-lock.json")
_SOURCES = (*_PACKAGES, "src", "public", "index.html", "vite.config.ts", "tsconfig.json")
# No package runs a program of its own when it is installed. Two of ours would, and neither needs to: esbuild tries
# out its binary, core-js-pure asks for money.
# What lies in npm's cache isn't asked for; without a network it gives up in seconds, not in minutes.
_INSTALL = (
    *("ci", "--ignore-scripts", "--include=dev", "--no-audit", "--no-fund", "--prefer-offline"),
    "--fetch-timeout=60000",
    *("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"),
)
_COMPRESSED = (".js", ".css", ".html", ".svg", ".json", ".wasm")
_SMALL_BYTES = 1024
_STEP_S = 600.0
_VERSION_S = 30.0
_LOCK_S = 2 * _STEP_S + 60
_SAID_LINES = 15


class BuildFailed(Exception):
    """The client can't be built; the message says why, and what to do."""


def has_sources() -> bool:
    """Whether this is a clone, whose client can be built at all."""
    return (CLIENT / "package.json").is_file()


def is_built() -> bool:
    """Whether the client is there as its sources are now."""
    built_from = _read(_STAMP)
    return built_from is not None and built_from == _stamp(_SOURCES)


def build_client() -> Path:
    """The folder of the built client; unless its sources are as they were, it is built, a printed line a step.

    BuildFailed. Of several that want it built at once, one builds it and the others wait.
    """
    try:
        if not is_built():
            with _only_one_at_a_time() as lock:
                if not is_built():
                    _build(lock)
    except OSError as error:
        raise BuildFailed(f"{error.filename or CLIENT}: {error.strerror or error}") from error
    return DIST


def build_for_platform() -> None:
    """As ``./mip up`` does it: what keeps the client from being built is said, and keeps nothing else."""
    if not has_sources():
        return
    try:
        build_client()
    except BuildFailed as error:
        has_older = (DIST / "index.html").is_file()
        outcome = (
            "the web client stays the one that was built before" if has_older else "the web client is missing"
        )
        print(f"mip: {outcome}: {error}\nmip: the platform starts all the same", file=sys.stderr)


def _build(lock: int | None) -> None:
    _put_back()
    npm = _find_npm()
    print(f"mip: building the web client in {CLIENT}", file=sys.stderr)
    sources, packages = _stamp(_SOURCES), _stamp(_PACKAGES)
    if _read(_INSTALLED) != packages:
        _step("packages of package-lock.json", [npm, *_INSTALL], lock)
        _MODULES.mkdir(exist_ok=True)
        _INSTALLED.write_text(packages)
    # Relative, as vite takes it: a path with a space would have to pass through npm's shell.
    place = _NEW.relative_to(CLIENT).as_posix()
    _step("the web client", [npm, "run", "build", "--", "--outDir", place, "--emptyOutDir"], lock)
    _compress(_NEW)
    (_NEW / _STAMP.name).write_text(sources)
    shutil.rmtree(_OLD, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        DIST.rename(_OLD)
    _NEW.rename(DIST)
    shutil.rmtree(_OLD, ignore_errors=True)


def _compress(folder: Path) -> None:
    """Beside each file that is worth it its gzip, ``NAME.gz``: nobody waits for that who opens the page."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in _COMPRESSED and file.is_file() and file.stat().st_size >= _SMALL_BYTES:
            packed = gzip.compress(file.read_bytes(), 9, mtime=0)
            file.with_name(f"{file.name}.gz").write_bytes(packed)


def _put_back() -> None:
    """The client of before, where a build was killed between its renames: npm removes it with its packages."""
    if not DIST.exists() and (_OLD / "index.html").is_file():
        _OLD.rename(DIST)


def _find_npm() -> str:
    """npm, with a node that package.json says will do. BuildFailed."""
    wanted = re.findall(r"\d+", json.loads((CLIENT / "package.json").read_text())["engines"]["node"])
    advice = f"install Node {'.'.join(wanted)} or newer and npm (Debian: apt-get install nodejs npm)"
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise BuildFailed(f"{'npm' if npm is None else 'node'}, which builds it, is not installed; {advice}")
    said = _run([node, "--version"], _VERSION_S)
    if [int(part) for part in re.findall(r"\d+", said)] < [int(part) for part in wanted]:
        raise BuildFailed(f"Node {said.strip()} is too old to build it; {advice}")
    return npm


def _step(what: str, command: Sequence[str], lock: int | None) -> None:
    print(f"  {what} …", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        _run(command, _STEP_S, lock)
    except BaseException:
        print(" failed", file=sys.stderr)
        raise
    print(f" {time.monotonic() - began:.1f} s", file=sys.stderr)


def _run(command: Sequence[str], limit_s: float, lock: int | None = None) -> str:
    """What the program printed. BuildFailed, with the end of that, when it fails or takes longer than ``limit_s``.

    It holds ``lock``, too: if this process is killed, nobody else builds in that folder before npm has ended.
    """
    process = subprocess.Popen(  # noqa: S603 - npm, where the user's PATH has it
        command,
        cwd=CLIENT,
        env=_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=None if os.name == "nt" else 0,
        pass_fds=(lock,) if lock is not None else (),
    )
    name = f"{Path(command[0]).stem} {command[1]}"
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"`{name}` did not end within {limit_s:.0f} s") from None
    finally:
        if process.poll() is None:
            _kill(process)
    if process.returncode != 0:
        end = "\n".join(said.strip().splitlines()[-_SAID_LINES:])
        raise BuildFailed(f"`{name}` failed, and said:\n{end}")
    return said


def _kill(process: subprocess.Popen[str]) -> None:
    """End the program, and what it started: that is in its group, and would go on without it."""
    with contextlib.suppress(ProcessLookupError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's, without what would make another client of the same sources: addresses, a mode."""
    foreign = ("REACT_APP_", "NODE_ENV", "FORCE_COLOR")
    return {name: value for name, value in environment.items() if not name.startswith(foreign)} | {"NO_COLOR": "1"}


def _stamp(names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = CLIENT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                content = file.read_bytes()
                digest.update(f"{file.relative_to(CLIENT).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except OSError:
        return None


@contextlib.contextmanager
def _only_one_at_a_time() -> Iterator[int | None]:
    """Hold a lock on the client's folder; its descriptor. The system lets go of it however its holders end."""
    if os.name == "nt":
        yield None
        return
    import fcntl

    folder = os.open(CLIENT, os.O_RDONLY)
    try:
        deadline, is_told = time.monotonic() + _LOCK_S, False
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildFailed(f"another mip has been building it for {_LOCK_S:.0f} s") from None
            if not is_told:
                print("mip: another mip is building the web client; waiting for it", file=sys.stderr)
                is_told = True
            time.sleep(0.1)
        yield folder
    finally:
        os.close(folder)


if __name__ == "__main__":
    try:
        print(build_client())
    except BuildFailed as failure:
        sys.exit(f"mip: {failure}")
