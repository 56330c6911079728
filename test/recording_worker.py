"""A worker that keeps every byte it is given: our own, behind a proxy that writes down what the platform sends.

As a script, ``recording_worker.py FOLDER``: the command of a record. ``FOLDER/environment.json`` is the
environment it was started with, ``FOLDER/*.received`` what came over each of its connections.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_ADDRESSES = ("AWS_ENDPOINT_URL", "QUEUE_URL", "RESULT_QUEUE", "PACS_API_BASE")


def install(folder: Path, name: str = "recording-worker") -> str:
    """Make it a command in ``folder``, which --allow-commands names; the command's first word."""
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return name


def received(folder: Path) -> bytes:
    """All that it was given: environment and connections."""
    files = [folder / "environment.json", *sorted(folder.glob("*.received"))]
    return b"\n".join(file.read_bytes() for file in files)


def main(folder: Path) -> int:
    """Run the worker until it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    server = socket.create_server(("127.0.0.1", 0))
    ours = f"http://127.0.0.1:{server.getsockname()[1]}"
    environment = dict(os.environ, MIP_PARENT_PID=str(os.getpid()))
    for name in _ADDRESSES:
        environment[name] = environment[name].replace(f"{endpoint.scheme}://{endpoint.netloc}", ours)
    there = endpoint.hostname or "", endpoint.port or 80
    threading.Thread(target=_accept, args=(server, there, folder), daemon=True).start()
    worker = subprocess.Popen([sys.executable, "-m", "medical_image_processing.worker"], env=environment)
    signal.signal(signal.SIGTERM, lambda number, _: worker.send_signal(number))
    return worker.wait()


def _accept(server: socket.socket, there: tuple[str, int], folder: Path) -> None:
    for number in itertools.count(1):
        inside, _ = server.accept()
        outside = socket.create_connection(there)
        record = (folder / f"{os.getpid()}-{number:05}.received").open("wb", buffering=0)
        threading.Thread(target=_pass, args=(inside, outside, None), daemon=True).start()
        threading.Thread(target=_pass, args=(outside, inside, record), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, record: Any) -> None:
    try:
        while data := source.recv(2**16):
            if record is not None:
                record.write(data)
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
