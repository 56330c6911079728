"""The wheel has the web client in it: installed by itself, without the sources, a platform serves it."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
from playwright.sync_api import Browser
from web_client import Person, built_client

from api_calls import until
from medical_image_processing.entrypoints.client import read_env
from platform_process import START_S, clean_environment

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300


def run(*command: str | Path) -> str:
    """What it printed. AssertionError when it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(folder: Path) -> Path:
    """The programs of an environment that has the wheel of this clone; what it depends on is this one's."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder / "wheels", ROOT)
    [wheel] = folder.glob("wheels/*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    run(*pip, "--python", folder / "venv/bin/python", "install", "--no-deps", "--no-index", wheel)
    [site] = folder.glob("venv/lib/python*/site-packages")
    # By itself, without the .pth file there that leads to the sources.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv/bin"


def test_a_platform_from_the_wheel_serves_the_client(tmp_path: Path, small_pacs: Path, browser: Browser) -> None:
    built = built_client()
    programs = installed(tmp_path)
    where = run(programs / "python", "-P", "-c", "import medical_image_processing as m; print(m.__file__)")
    assert where.startswith(str(tmp_path))
    home, log = tmp_path / "home", tmp_path / "log"
    up = [programs / "mip", "up", "--port", "0", "--runtime", "process", "--home", home, "--pacs", small_pacs]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            up, cwd=tmp_path, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
    try:
        until(lambda: b"in a shell" in log.read_bytes() or process.poll() is not None, "it is up", wait_s=START_S)
        assert process.poll() is None, log.read_text()
        base = read_env(home / "env")["API_BASE"]
        assert f"web client  {base}/" in log.read_text()
        page = httpx.get(f"{base}/", trust_env=False)
        assert page.content == (built / "index.html").read_bytes()
        [script] = re.findall(r'src="(/assets/[^"]+\.js)"', page.text)
        sent = httpx.get(f"{base}{script}", trust_env=False)
        assert sent.headers["content-encoding"] == "gzip", "what was compressed is in the wheel, too"
        assert sent.content == (built / script[1:]).read_bytes()
        someone = Person(browser, base)
        try:
            someone.visit().wait_for_selector(".series-card")
            assert not someone.broken
        finally:
            someone.close()
    finally:
        process.terminate()
        process.wait(LIMIT_S)
