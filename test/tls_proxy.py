"""nginx before a platform, as docs/operation.md sets it up: its own text, with ports and files of the test's."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "operation.md"
NAME = "mip.hospital.example"
START_S = 20.0
STOP_S = 10.0


def documented() -> str:
    """The configuration that the page shows."""
    (found,) = re.findall(r"^```nginx\n(.*?)^```", DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)
    return str(found)


def make_certificate(folder: Path, *names: str) -> Path:
    """A certificate of its own authority for ``names``, ``certificate.pem``; its key beside it, ``key.pem``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem"), "-days", "2"]
    command += ["-subj", f"/CN={names[0]}"]
    command += ["-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder / "certificate.pem"


@contextmanager
def running_nginx(folder: Path, *, port: int, upstream: int, name: str = NAME) -> Iterator[Path]:
    """nginx at ``https://{name}:{port}``, with the platform at ``upstream``; the certificate to trust."""
    certificate = make_certificate(folder, name, "localhost")
    text = documented()
    for written, ours in {
        "127.0.0.1:8080": f"127.0.0.1:{upstream}",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        f"server_name {NAME};": f"server_name {name};",
        "/etc/nginx/mip/certificate.pem": str(certificate),
        "/etc/nginx/mip/key.pem": str(folder / "key.pem"),
        "/var/log/nginx/mip.log": str(folder / "error.log"),
    }.items():
        assert text.count(written) == 1, f"{DOCUMENT.name} no longer has one '{written}'"
        text = text.replace(written, ours)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder / 'nginx.pid'};\n{user}worker_processes 1;\nevents {{}}\n"
        f"http {{\ninclude /etc/nginx/mime.types;\n{temporary}{text}}}\n"
    )
    log = folder / "said.log"
    with log.open("wb") as said:
        command = ["nginx", "-p", str(folder), "-e", str(log), "-c", str(folder / "nginx.conf")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        _wait(process, port, log)
        yield certificate
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + START_S
    anybody = ssl._create_unverified_context()
    while True:
        assert process.poll() is None and time.monotonic() < ends, f"nginx did not start:\n{log.read_text()}"
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=2) as raw,
                anybody.wrap_socket(raw, server_hostname="localhost"),
            ):
                return
        except OSError:
            time.sleep(0.05)
