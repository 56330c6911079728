"""The web client is built on first use, where npm is: by ``./mip up`` in a clone whose client is a small one."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api_calls import until
from medical_image_processing.entrypoints import web_build
from medical_image_processing.entrypoints.client import read_env
from platform_process import clean_environment

pytestmark = pytest.mark.needs("node", "npm")

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
# What vite does, as far as this is about it. A file `wait` keeps the build from ending.
BUILD = """
import fs from "node:fs";
const out = process.argv[process.argv.indexOf("--outDir") + 1];
const body = fs.readFileSync("src/main.ts", "utf8");
fs.writeFileSync("builds", "x", { flag: "a" });
fs.mkdirSync(out, { recursive: true });
fs.writeFileSync(out + "/index.html", "<!doctype html><p>half");
while (fs.existsSync("wait")) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
if (body.includes("error")) { console.error("main.ts: it is wrong"); process.exit(2); }
fs.writeFileSync(out + "/index.html", `<!doctype html><p>${body} ${process.env.REACT_APP_API_BASE ?? ""}`);
fs.writeFileSync(out + "/large.js", body.repeat(1000));
"""


class Clone:
    """A copy of the project whose client takes a second to build, with the environment of this one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client = root / "clients/react-app"
        for name in ("mip", "launcher.py", "pyproject.toml", "hatch_build.py", "README.md"):
            shutil.copy(ROOT / name, root)
        for name in ("requirements.lock", "requirements-server.lock"):
            shutil.copy(ROOT / name, root)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "src", root / "src", ignore=ignored)
        (self.client / "src").mkdir(parents=True)
        package = {"name": "small", "version": "1.0.0", "type": "module", "engines": {"node": ">=18.18"}}
        self.write("package.json", json.dumps({**package, "scripts": {"build": "node build.js"}}))
        self.lock()
        self.write("build.js", BUILD)
        self.write("src/main.ts", "first")
        venv = root / ".venv"
        venv.mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (venv / name).symlink_to(Path(sys.prefix) / name)
        files = [root / name for name in ("pyproject.toml", "requirements.lock")]
        (venv / "mip-dev.stamp").write_bytes(str(root).encode() + b"\n" + b"".join(f.read_bytes() for f in files))

    def write(self, name: str, text: str) -> None:
        (self.client / name).write_text(text)

    def lock(self, **packages: object) -> None:
        """Pin these packages."""
        pinned = {"": {"name": "small", "version": "1.0.0"}, **packages}
        self.write("package-lock.json", json.dumps({"name": "small", "lockfileVersion": 3, "packages": pinned}))

    @property
    def builds(self) -> int:
        """How often the client was built, or tried to be."""
        file = self.client / "builds"
        return len(file.read_text()) if file.exists() else 0

    def environment(self, **more: str) -> dict[str, str]:
        return clean_environment(PYTHONPATH=str(self.root / "src"), **more)

    def start_build(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", str(self.root / "src/medical_image_processing/entrypoints/web_build.py")],
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def build(self, *, status: int = 0, **environment: str) -> str:
        """What it said."""
        process = self.start_build(**environment)
        said, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == status, said
        return said

    @contextmanager
    def up(self, pacs: Path, **environment: str) -> Iterator[tuple[str, httpx.Response]]:
        """``./mip up`` until it has announced itself: what it said, and its page."""
        home, log = self.root / "home", self.root / "log"
        (home / "env").unlink(missing_ok=True)
        command = [str(self.root / "mip"), "up", "--port", "0", "--runtime", "process"]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, "--pacs", str(pacs), "--home", str(home)],
                env=self.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        try:
            until(lambda: b"in a shell" in log.read_bytes() or process.poll() is not None, "it is up")
            assert process.poll() is None, log.read_text()
            base = read_env(home / "env")["API_BASE"]
            page = httpx.get(f"{base}/", headers={"accept": "text/html"}, trust_env=False)
            yield log.read_text(), page
        finally:
            process.terminate()
            process.wait(LIMIT_S)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    root = tmp_path / "the clone"
    root.mkdir()
    return Clone(root)


def path_with(folder: Path, *programs: str) -> str:
    """A PATH that leads to these programs, and to what ``mip`` itself needs."""
    folder.mkdir()
    for program in ("dirname", "readlink", "sh", "env", *programs):
        (folder / program).symlink_to(shutil.which(program) or "")
    return str(folder)


def test_up_builds_it_once_and_serves_it(clone: Clone, small_pacs: Path, tmp_path: Path) -> None:
    with clone.up(small_pacs, REACT_APP_API_BASE="http://elsewhere.example", NODE_ENV="production") as (
        said,
        page,
    ):
        assert "building the web client" in said and "packages of package-lock.json … " in said
        assert page.status_code == 200 and page.text == "<!doctype html><p>first ", "as without that environment"
        assert f"web client  {page.url}" in said
        with httpx.stream("GET", f"{page.url}large.js", trust_env=False) as script:
            sent = b"".join(script.iter_raw())
            assert script.headers["content-encoding"] == "gzip"
        assert sent == (clone.client / "dist/large.js.gz").read_bytes(), "as it was compressed when it was built"
        assert gzip.decompress(sent) == b"first" * 1000
    with clone.up(small_pacs, PATH=path_with(tmp_path / "no npm")) as (said, page):
        assert "building" not in said and "missing" not in said
        assert page.text == "<!doctype html><p>first "
    assert clone.builds == 1
    clone.write("src/main.ts", "second")
    with clone.up(small_pacs) as (said, page):
        assert "the web client … " in said and "package-lock.json" not in said, "its packages are there"
        assert page.text == "<!doctype html><p>second "


def test_up_without_npm_says_that_the_client_is_missing(clone: Clone, small_pacs: Path, tmp_path: Path) -> None:
    with clone.up(small_pacs, PATH=path_with(tmp_path / "no npm")) as (said, page):
        assert "mip: the web client is missing: npm, which builds it, is not installed; install Node 18.18" in said
        assert "web client  missing" in said and "Traceback" not in said
        assert page.status_code == 404 and "The web client is not built" in page.text
    assert clone.builds == 0


def test_up_goes_on_where_the_build_fails(clone: Clone, small_pacs: Path) -> None:
    clone.write("src/main.ts", "an error")
    with clone.up(small_pacs) as (said, page):
        assert "the web client … failed" in said and "main.ts: it is wrong" in said
        assert "mip: the web client is missing: `npm run` failed" in said and "Traceback" not in said
        assert page.status_code == 404
    clone.write("src/main.ts", "right")
    clone.build()
    clone.write("src/main.ts", "an error again")
    with clone.up(small_pacs) as (said, page):
        assert "mip: the web client stays the one that was built before: `npm run` failed" in said
        assert page.text == "<!doctype html><p>right ", "a build that failed leaves what is there"


def test_up_goes_on_without_a_network(clone: Clone, small_pacs: Path) -> None:
    clone.lock(**{"node_modules/nowhere": {"version": "1.0.0", "integrity": f"sha512-{'A' * 86}=="}})
    clone.write(
        "package.json",
        json.dumps(
            {**json.loads((clone.client / "package.json").read_text()), "dependencies": {"nowhere": "1.0.0"}}
        ),
    )
    clone.lock(
        **{
            "": {"name": "small", "version": "1.0.0", "dependencies": {"nowhere": "1.0.0"}},
            "node_modules/nowhere": {"version": "1.0.0", "integrity": f"sha512-{'A' * 86}=="},
        }
    )
    nobody = {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_cache": str(clone.root / "cache")}
    with clone.up(small_pacs, **nobody) as (said, page):
        assert "packages of package-lock.json … failed" in said and "ECONNREFUSED" in said
        assert "mip: the web client is missing: `npm ci` failed" in said
        assert page.status_code == 404
    assert clone.builds == 0


def test_no_package_runs_what_it_brings_when_it_is_installed(clone: Clone) -> None:
    ran = clone.root / "ran"
    scripts = {"install": f"touch '{ran}'"}
    package = json.dumps({"name": "brings", "version": "1.0.0", "scripts": scripts}).encode()
    with tarfile.open(clone.client / "brings.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(package)
        archive.addfile(entry, io.BytesIO(package))
    wants = {"dependencies": {"brings": "file:brings.tgz"}}
    own = json.loads((clone.client / "package.json").read_text())
    clone.write("package.json", json.dumps({**own, **wants}))
    clone.lock(
        **{
            "": {"name": "small", "version": "1.0.0", **wants},
            "node_modules/brings": {"version": "1.0.0", "resolved": "file:brings.tgz", "hasInstallScript": True},
        }
    )
    clone.build()
    assert (clone.client / "node_modules/brings/package.json").is_file()
    assert not ran.exists()


def test_help_builds_nothing(clone: Clone) -> None:
    for arguments in (["up", "--help"], ["up", "-h"], ["--help"], ["jobs", "--help"]):
        done = subprocess.run(
            [clone.root / "mip", *arguments], env=clone.environment(), capture_output=True, timeout=LIMIT_S
        )
        assert done.returncode == 0 and done.stderr == b""
    assert clone.builds == 0


def test_a_node_that_is_too_old_is_said_to_be(clone: Clone, tmp_path: Path) -> None:
    path = path_with(tmp_path / "old", "npm")
    node = Path(path) / "node"
    node.write_text("#!/bin/sh\necho v18.9.1\n")
    node.chmod(0o755)
    assert "Node v18.9.1 is too old to build it; install Node 18.18 or newer" in clone.build(status=1, PATH=path)
    assert clone.builds == 0


def test_of_two_at_once_one_builds(clone: Clone) -> None:
    clone.write("wait", "")
    one = clone.start_build()
    until(lambda: clone.builds == 1, "it is being built")
    other = clone.start_build()
    assert other.stdout is not None
    assert "waiting for it" in other.stdout.readline()
    (clone.client / "wait").unlink()
    for process in (one, other):
        assert process.communicate(timeout=LIMIT_S) and process.returncode == 0
    assert clone.builds == 1


def test_a_build_that_was_killed_leaves_no_half_client_and_is_done_again(clone: Clone) -> None:
    clone.write("wait", "")
    first = clone.start_build()
    until(lambda: clone.builds == 1, "it is being built")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=LIMIT_S)
    assert not (clone.client / "dist").exists()
    # npm goes on in that folder, so nobody else builds there before it has ended.
    second = clone.start_build()
    assert second.stdout is not None
    assert "waiting for it" in second.stdout.readline()
    (clone.client / "wait").unlink()
    second.communicate(timeout=LIMIT_S)
    assert second.returncode == 0 and clone.builds == 2
    assert (clone.client / "dist/index.html").read_text() == "<!doctype html><p>first "


def test_a_client_that_was_put_aside_when_its_build_was_killed_is_served_still(
    clone: Clone, small_pacs: Path, tmp_path: Path
) -> None:
    clone.build()
    clone.write("src/main.ts", "second")
    (clone.client / "dist").rename(clone.client / "node_modules/.mip-old")
    with clone.up(small_pacs, PATH=path_with(tmp_path / "no npm")) as (said, page):
        assert "mip: the web client stays the one that was built before: npm" in said
        assert page.text == "<!doctype html><p>first "


def make_wheel(clone: Clone, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As ``pip wheel`` makes it, with what is installed here, and without a network."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-index"]
    return subprocess.run(
        [*command, "--no-build-isolation", "-w", str(place), str(clone.root)],
        env=clone.environment(**environment),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_no_wheel_is_made_of_a_clone_without_the_client(clone: Clone, tmp_path: Path) -> None:
    done = make_wheel(clone, tmp_path / "wheels", PATH=path_with(tmp_path / "no npm"))
    assert done.returncode != 0 and "npm, which builds it, is not installed" in done.stdout + done.stderr
    assert not list(tmp_path.glob("wheels/*.whl"))
    assert make_wheel(clone, tmp_path / "wheels").returncode == 0
    [wheel] = tmp_path.glob("wheels/*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if "/web/" in name}
    expected = ("index.html", "large.js", "large.js.gz")
    assert packed == {f"medical_image_processing/web/{name}" for name in expected}
    assert clone.builds == 1


def test_what_an_image_is_made_of_needs_no_npm(clone: Clone, tmp_path: Path) -> None:
    shutil.rmtree(clone.root / "clients")
    done = make_wheel(clone, tmp_path / "wheels", PATH=path_with(tmp_path / "no npm"))
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("wheels/*.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "/web/" in name]


def test_what_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    script = f"sleep 1000 & echo $! > {tmp_path / 'pid'}; wait"
    with pytest.raises(web_build.BuildFailed, match="`sh -c` did not end within 1 s"):
        web_build._run(["/bin/sh", "-c", script], 1.0)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or is_zombie(pid), "its child has ended")
    assert time.monotonic() - began < LIMIT_S


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
