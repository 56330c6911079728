"""What the benches share: a platform to measure, clients that cost little, and figures with their spread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from medical_image_processing import samples
from medical_image_processing.entrypoints.client import Client
from medical_image_processing.errors import Conflict, NotFound

ROOT = Path(__file__).parents[1]
PROCESSORS = Path(__file__).parent / "processors"
"""Processors for the benches, laid out like an installed package; a worker finds them on PYTHONPATH."""
CLIENT_ID = "bench"
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

sys.path.insert(0, str(ROOT / "test"))
import docker_engine as docker_engine  # noqa: E402
from platform_process import Platform as Platform  # noqa: E402 - the tests' own: started in the same way
from platform_process import unconfined as unconfined  # noqa: E402


@dataclass(frozen=True)
class Figure:
    """One figure: its samples, and what it should be. ``target`` is an upper limit unless ``at_least``."""

    name: str
    unit: str
    samples: Sequence[float]
    target: float | None = None
    at_least: bool = False
    of: Callable[[Sequence[float]], float] = statistics.median
    note: str = ""

    @property
    def value(self) -> float:
        """The sample that is held against the target: the median, if nothing else is said."""
        return self.of(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass
class Job:
    """A job on its way: when it was sent and when its result came, in seconds of ``perf_counter``."""

    job_id: str
    sent: float = 0.0
    accepted: float = 0.0
    done: float = 0.0
    message: dict[str, Any] = field(default_factory=dict)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample below which ``percent`` of them lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def p95(samples: Sequence[float]) -> float:
    """The 95th percentile."""
    return percentile(samples, 95)


def show(figures: Sequence[Figure]) -> None:
    """Print figures as a table: value against target, and the spread of the samples."""
    print(f"{'figure':<62} {'target':>10} {'measured':>10}   {'[p5 .. p95]':<20} met", flush=True)
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        target = f"{sign} {figure.target:g}" if figure.target is not None else ""
        spread = f"[{percentile(figure.samples, 5):.4g} .. {p95(figure.samples):.4g}]"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        name = f"{figure.name}, {figure.unit}"
        print(f"{name:<62} {target:>10} {figure.value:>10.4g}   {spread:<20} {met}", flush=True)
        if figure.note:
            print(f"    {figure.note}", flush=True)


def run(bench: Callable[[], Sequence[Figure]], title: str) -> None:
    """The main program of a bench."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no platform is left running
    print(title, flush=True)
    began = time.monotonic()
    show(bench())
    print(f"    took {time.monotonic() - began:.0f} s on {os.cpu_count()} cores", flush=True)


@contextlib.contextmanager
def platform(pacs: Path) -> Iterator[Platform]:
    """A platform in a temporary home, started."""
    with new_home() as home, Platform(home, pacs=pacs, options=unconfined(PROCESSORS)) as running:
        yield running


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    """A folder for a platform's home, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="mip-bench-") as folder:
        yield Path(folder) / "home"


def register(client: Client, algo_id: str, *, workers: int = 2) -> None:
    """Register an algorithm of this project or of the benches, and wait until it is ACTIVE."""
    client.call("POST", "admin", "algorithms", body=specification(algo_id, workers=workers))
    wait_until(lambda: state(client, algo_id) == "ACTIVE", 20)


def specification(algo_id: str, *, workers: int) -> dict[str, Any]:
    """The body of POST /admin/algorithms."""
    return {
        "algo_id": algo_id,
        "image_uri": "bench:latest",
        "cpu": 1024,
        "memory": 2048,
        "command": ["/app/worker.sh"],
        "env": {"PYTHONPATH": str(PROCESSORS)},
        "desired_count": workers,
    }


def state(client: Client, algo_id: str) -> str | None:
    """The algorithm's status; None when there is no such algorithm."""
    try:
        record = client.call("GET", "admin", "algorithms", algo_id)
    except NotFound:
        return None
    if record["status"] == "FAILED":
        raise SystemExit(f"{algo_id} is FAILED: {record['status_reason']}")
    return str(record["status"])


def remove(client: Client, algo_id: str) -> None:
    """Delete an algorithm for good, and wait until it has gone."""
    wait_until(lambda: _removed(client, algo_id), 30)


def _removed(client: Client, algo_id: str) -> bool:
    try:
        client.call("DELETE", "admin", "algorithms", algo_id, params={"hard": "true", "force": "true"})
    except NotFound:
        return True
    except Conflict:  # its record was written to at that moment
        pass
    return state(client, algo_id) is None


def wait_until(condition: Callable[[], object], timeout_s: float, *, every_s: float = 0.005) -> None:
    """Return once ``condition`` holds; SystemExit when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up after {timeout_s} s")
        time.sleep(every_s)


def chest_slices(count: int) -> list[Path]:
    """Slices of a real chest CT, 512×512, uncompressed, one after the other."""
    return sorted(samples.chest_ct(samples.default_cache()).glob("*.dcm"))[:count]


def linked(images: Sequence[Path], folder: Path) -> list[str]:
    """Lay images out as ``folder/bench/NUMBER/image.dcm``; what stands for each in a job's ``pacs``."""
    ids = []
    for number, image in enumerate(images):
        place = folder / "bench" / f"{number:03}"
        place.mkdir(parents=True)
        (place / "image.dcm").write_bytes(image.read_bytes())
        ids.append(f"{number:03}")
    return ids


def job_body(job_id: str, image: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """The body of POST /process for one image of :func:`linked`."""
    pacs = {"study_id": "bench", "series_id": image, "image_id": "image", "scope": "image"}
    return {"job_id": job_id, "client_id": CLIENT_ID, "pacs": pacs, "parameters": parameters or {}}


class Poster:
    """A kept-alive HTTP/1.1 connection that POSTs bytes made beforehand: the load must cost little itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    @classmethod
    async def open(cls, base: str) -> Poster:
        """Connect to the platform's API."""
        address = urlsplit(base)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        return cls(reader, writer, address.netloc)

    def request(self, algo_id: str, body: dict[str, Any]) -> bytes:
        """A whole request of POST /process/{algo_id}."""
        content = json.dumps(body).encode()
        head = f"POST /process/{algo_id} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content

    async def post(self, request: bytes) -> int:
        """Send a request; the status of its answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.partition(b":")[2]))
        return int(head.split(b" ", 2)[1])

    async def accept(self, request: bytes) -> None:
        """Send a request that must be answered with 202."""
        if (status := await self.post(request)) != 202:
            raise SystemExit(f"POST /process was answered with {status}")

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


@contextlib.asynccontextmanager
async def results(base: str, client_id: str = CLIENT_ID) -> AsyncIterator[ClientConnection]:
    """The WebSocket on which the client's results come."""
    address = f"ws{base.removeprefix('http')}/ws?client_id={client_id}"
    async with connect(address, max_size=None, compression=None, proxy=None) as socket:
        yield socket


async def next_result(socket: ClientConnection, timeout_s: float = 30) -> dict[str, Any]:
    """The next result, which must be a success. Said to be received, so that it does not come again."""
    async with asyncio.timeout(timeout_s):
        message: dict[str, Any] = json.loads(await socket.recv())
    await socket.send(json.dumps({"type": "received", "job_id": message["job_id"]}))
    if message.get("status", "SUCCEEDED") != "SUCCEEDED":
        raise SystemExit(f"a job failed: {message.get('error')}")
    return message


async def process(
    base: str, algo_id: str, bodies: Sequence[dict[str, Any]], *, connections: int = 8, timeout_s: float = 60
) -> tuple[list[Job], float]:
    """Send all jobs as fast as they are accepted; each job, and the seconds from first POST to last result."""
    jobs = {body["job_id"]: Job(body["job_id"]) for body in bodies}
    async with results(base) as socket:
        posters = [await Poster.open(base) for _ in range(connections)]
        waiting = iter([(jobs[body["job_id"]], posters[0].request(algo_id, body)) for body in bodies])

        async def send(poster: Poster) -> None:
            for job, request in waiting:
                job.sent = time.perf_counter()
                await poster.accept(request)
                job.accepted = time.perf_counter()

        async def receive() -> None:
            left = set(jobs)
            while left:
                message = await next_result(socket, timeout_s)
                if (job := jobs.get(message["job_id"])) and job.job_id in left:
                    job.done, job.message = time.perf_counter(), message
                    left.remove(job.job_id)

        began = time.perf_counter()
        await asyncio.gather(receive(), *(send(poster) for poster in posters))
        wall = time.perf_counter() - began
        for poster in posters:
            poster.close()
    return list(jobs.values()), wall


def worker_pids(platform_pid: int) -> list[int]:
    """The platform's children: its workers."""
    return [int(pid) for task in Path(f"/proc/{platform_pid}/task").iterdir()
            for pid in (task / "children").read_text().split()]  # fmt: skip


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used, in user and system mode (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def unused_cpu() -> float:
    """How much of the machine's CPU nobody uses over half a second, 0 to 1: what a bench's figures stand on."""

    def read() -> tuple[int, int]:
        times = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return times[3] + times[4], sum(times)

    idle, total = read()
    time.sleep(0.5)
    idle_later, total_later = read()
    return (idle_later - idle) / max(1, total_later - total)
