"""How many calls of AWS a job makes, from POST to push, by call: with few and many algorithms, without and with
jobs that wait.

The Lambdas' own code runs here against an emulator, a real worker beside it. The platform's calls are counted by
botocore's event ``before-send``, so that a try that is repeated counts; the worker's, which signs its requests
itself, by a proxy before the emulator. ``--write`` puts the table into docs/costs.md.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import uvicorn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from aws_emulator import AwsEmulator, running_emulator  # noqa: E402
from aws_stage import AwsStage  # noqa: E402
from lambda_events import call, invoke, queue_event, run  # noqa: E402
from medical_image_processing import naming, samples  # noqa: E402
from medical_image_processing.engines.aws.clients import AwsClients  # noqa: E402
from medical_image_processing.engines.aws.connections import Connection  # noqa: E402
from medical_image_processing.engines.aws.engine import AwsEngine  # noqa: E402
from medical_image_processing.entrypoints.lambdas import delivery, processing  # noqa: E402
from medical_image_processing.entrypoints.lambdas.runtime import adapted  # noqa: E402
from medical_image_processing.model.algorithm import AlgorithmSpec, AlgorithmStatus, ResourceStatus  # noqa: E402
from medical_image_processing.model.job import JobMessage, PacsRef  # noqa: E402
from medical_image_processing.pacs.app import create_app as create_pacs_app  # noqa: E402
from medical_image_processing.pacs.folder import FolderIndex  # noqa: E402
from medical_image_processing.pacs.keys import HashedKeys  # noqa: E402
from medical_image_processing.pacs.links import LinkSigner  # noqa: E402
from medical_image_processing.ports.keys import KeyRole, digest  # noqa: E402
from page_tables import PAGES, markdown_table, replace_part  # noqa: E402
from websocket_gateway import Gateway  # noqa: E402

ALGO, CLIENT, KEY, PACS_KEY = "processing_1", "client-1", "key-of-the-bench", "pacs-key-of-the-bench"
IMAGE = {"study_id": "study-1", "series_id": "series-1", "image_id": "image-1.dcm", "scope": "image"}
MEASURED = 20
MEASURED_SHORT = 6
CASES = ((1, 0), (50, 0), (1, 500), (50, 500))
"""Algorithms, jobs that wait."""
SHORT = ((1, 0), (10, 10))
AIM = 12.0
DEPTH = "POST: SQS GetQueueAttributes"
"""Not counted against the aim: at most once in five seconds, however many jobs come."""
_DEADLINE_S = 600.0
_SERVICES = {
    "dynamodb": "DynamoDB",
    "sqs": "SQS",
    "s3": "S3",
    "apigatewaymanagementapi": "API Gateway",
    "secretsmanager": "Secrets Manager",
    "iam": "IAM",
}


@dataclass
class Calls:
    """What was called while it counted, and by how many jobs."""

    by_call: Counter[str] = field(default_factory=Counter)
    jobs: int = 0

    def each(self) -> dict[str, float]:
        """Calls of one job."""
        return {name: count / self.jobs for name, count in self.by_call.items()}


def measure(emulator: AwsEmulator, algorithms: int, waiting: int, measured: int) -> dict[str, float]:
    """Calls of one job, by who makes them and what they are."""
    bench = _Bench(emulator)
    bench.register(algorithms)
    bench.wait_in_line(waiting)
    with bench.connected():
        bench.post("warm", 3)
        if waiting:
            posted = bench.post("measured", measured)
            with bench.worker(), bench.counting_worker() as worked:
                delivered = bench.deliver(3 + measured + waiting)
        else:
            with bench.worker():
                bench.deliver(3)
                time.sleep(1)  # the worker deletes the last of them
                with bench.counting_worker() as worked:
                    posted, delivered = bench.one_after_the_other(measured)
                    time.sleep(1)
        worked.jobs = delivered.jobs
    return {
        f"{who}: {name}": count
        for who, calls in (("POST", posted), ("worker", worked), ("delivery", delivered))
        for name, count in sorted(calls.each().items())
    }


class _Bench:
    def __init__(self, emulator: AwsEmulator) -> None:
        place = AwsStage(emulator)
        self.gateway = Gateway(place)
        self.stage = place
        self.counted: Counter[str] | None = None
        self._proxied: Counter[str] = Counter()
        session = place.account.session()
        session.events.register("before-send", self._count)
        clients = AwsClients(session=session, endpoint_url=place.account.endpoint)
        settings = type(place.engine.settings)({**place.environment, "MIP_WS_ENDPOINT": self.gateway.endpoint})
        self.engine = AwsEngine(settings, clients)
        self.api = adapted(processing.create(self.engine))
        self.deliveries = delivery.create(self.engine)
        self.sqs = place.boto("sqs")
        run(
            lambda: place.engine.keys.add(
                digest(KEY), name="b", role=KeyRole.CLIENT, client_ids=[CLIENT], actor="b"
            )
        )

    def _count(self, event_name: str = "", **more: Any) -> None:
        _, service, operation = event_name.split(".")  # before-send.sqs.SendMessage
        if self.counted is not None:
            self.counted[f"{_SERVICES.get(service, service)} {operation}"] += 1

    def register(self, algorithms: int) -> None:
        names = [ALGO, *(f"other_{number}" for number in range(1, algorithms))]
        for name in names:
            run(partial(_register, self.stage.engine, name))
        attributes = {"FifoQueue": "true", "VisibilityTimeout": "30"}
        made = self.sqs.create_queue(QueueName=naming.queue(ALGO), Attributes=attributes)
        self.queue_url = str(made["QueueUrl"])

    def wait_in_line(self, waiting: int) -> None:
        async def fill() -> None:
            for start in range(0, waiting, 20):
                jobs = (_message(f"waits-{number}") for number in range(start, min(start + 20, waiting)))
                await asyncio.gather(*(self.stage.engine.jobs.accept(job, "f") for job in jobs))

        asyncio.run(fill())

    @contextmanager
    def connected(self) -> Iterator[None]:
        with self.gateway.connection() as (self.socket, connection_id):
            now = time.time() - 60
            put = self.stage.engine.connections.put
            run(lambda: put(Connection(CLIENT, connection_id, "b", "api.example", now)))
            yield

    def post(self, name: str, count: int) -> Calls:
        calls = Calls(jobs=count)
        self.counted = calls.by_call
        for number in range(count):
            body = {"job_id": f"{name}-{number}", "client_id": CLIENT, "pacs": IMAGE}
            answer = call(self.api, "POST", f"/process/{ALGO}", body, x_api_key=KEY)
            assert answer.status == 202, answer.text
        self.counted = None
        return calls

    def one_after_the_other(self, count: int) -> tuple[Calls, Calls]:
        """Each job is sent when the one before has come back: nothing goes in batches."""
        posted, delivered = Calls(jobs=count), Calls(jobs=count)
        for number in range(count):
            posted.by_call += self.post(f"measured-{number}", 1).by_call
            delivered.by_call += self.deliver(1).by_call
        return posted, delivered

    def deliver(self, count: int) -> Calls:
        """Until that many results were pushed. What Lambda's own poller asks of SQS isn't the platform's call."""
        calls, pushed = Calls(jobs=count), 0
        end = time.monotonic() + _DEADLINE_S
        results = self.stage.environment["MIP_RESULTS_QUEUE_URL"]
        while pushed < count:
            assert time.monotonic() < end, f"{pushed} of {count} results came"
            event = queue_event(self.sqs, results)
            for start in range(0, len(event["Records"]), 10):
                records = event["Records"][start : start + 10]
                self.counted = calls.by_call
                answer = invoke(self.deliveries, {"Records": records})
                self.counted = None
                assert answer == {"batchItemFailures": []}, answer
                entries = [{"Id": str(n), "ReceiptHandle": r["receiptHandle"]} for n, r in enumerate(records)]
                self.sqs.delete_message_batch(QueueUrl=results, Entries=entries)
                for _ in records:
                    self.socket.recv(timeout=30)
                pushed += len(records)
        return calls

    @contextmanager
    def worker(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder, _pacs(Path(folder)) as pacs, self._proxy() as proxy:
            environment: dict[str, str] = {
                **self.stage.account.environment,
                "AWS_ENDPOINT_URL": proxy,
                "AWS_ENDPOINT_URL_S3": proxy,
                "QUEUE_URL": self.queue_url,
                "RESULT_QUEUE": self.stage.environment["MIP_RESULTS_QUEUE_URL"],
                "OUTPUT_BUCKET": self.stage.bucket,
                "ALGO_ID": ALGO,
                "PACS_API_BASE": pacs,
                "PACS_API_KEY": PACS_KEY,
            }
            command = [sys.executable, "-P", "-m", "medical_image_processing.worker"]
            with (Path(folder) / "log").open("wb") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)

    @contextmanager
    def counting_worker(self) -> Iterator[Calls]:
        calls = Calls()
        self._proxied = calls.by_call
        yield calls

    @contextmanager
    def _proxy(self) -> Iterator[str]:
        bench, target = self, self.stage.account.endpoint
        with httpx.Client(timeout=60, trust_env=False) as upstream:

            class Handler(BaseHTTPRequestHandler):
                protocol_version = "HTTP/1.1"

                def do_POST(self) -> None:
                    body = self.rfile.read(int(self.headers.get("content-length", 0)))
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    answer = upstream.request(self.command, f"{target}{self.path}", content=body, headers=headers)
                    bench.note(self.command, self.headers.get("x-amz-target", ""), answer.content)
                    self.send_response(answer.status_code)
                    for name in ("content-type", "etag", "x-amzn-requestid"):
                        if name in answer.headers:
                            self.send_header(name, answer.headers[name])
                    self.send_header("content-length", str(len(answer.content)))
                    self.end_headers()
                    self.wfile.write(answer.content)

                do_PUT = do_GET = do_HEAD = do_DELETE = do_POST

                def log_message(self, *_: object) -> None:
                    pass

            server = _Quiet(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()

    def note(self, method: str, target: str, answer: bytes) -> None:
        """A call of the worker. One that asked for jobs and got none is a waiting worker's, and no job's."""
        operation = target.rpartition(".")[2]
        if operation == "ReceiveMessage" and b'"Messages"' not in answer:
            return
        self._proxied[f"SQS {operation}" if operation else f"S3 {method}"] += 1


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A long poll that was under way when the bench was over."""


@contextmanager
def _pacs(folder: Path) -> Iterator[str]:
    """A PACS API with the image."""
    image = folder / "pacs/study-1/series-1/image-1.dcm"
    image.parent.mkdir(parents=True)
    image.write_bytes(samples.ct_small().read_bytes())
    index = FolderIndex(folder / "pacs")
    index.start()

    async def forget(*_: Any) -> None:
        pass

    keys = HashedKeys({digest(PACS_KEY): ALGO})
    config = uvicorn.Config(
        create_pacs_app(index, keys, LinkSigner(), forget), port=0, lifespan="off", log_level="error"
    )
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    thread = threading.Thread(target=lambda: server.run([listening]), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        index.close()


async def _register(engine: AwsEngine, algo_id: str) -> None:
    spec = AlgorithmSpec.model_validate(
        {"algo_id": algo_id, "image_uri": "r/a:1", "cpu": 1024, "memory": 2048, "command": ["/app/worker.sh"]}
    )
    record = await engine.registry.create(spec, actor="bench")
    await engine.registry.set_status(
        algo_id,
        revision=record.revision,
        status=AlgorithmStatus.ACTIVE,
        reason=None,
        resources=ResourceStatus(),
    )


def _message(job_id: str) -> JobMessage:
    return JobMessage(job_id=job_id, client_id=CLIENT, algo_id=ALGO, pacs=PacsRef.model_validate(IMAGE))


def table(found: Sequence[dict[str, float]], cases: Sequence[tuple[int, int]]) -> str:
    """A line a call, a column a case."""
    names = sorted({name for case in found for name in case}, key=lambda n: ("Pwd".index(n[0]), n))
    heading = ["call", *(f"{a} algorithm{'s' if a > 1 else ''}, {w} waiting" for a, w in cases)]
    rows = [[name, *(f"{case.get(name, 0):.2f}" for case in found)] for name in names]
    rows.append(["**together**", *(f"**{sum(case.values()):.2f}**" for case in found)])
    return markdown_table(heading, rows)


def main(arguments: Sequence[str]) -> int:
    """Print the table; status 1 when a case is over the aim. ``--short``: fewer algorithms and jobs."""
    cases, measured = (SHORT, MEASURED_SHORT) if "--short" in arguments else (CASES, MEASURED)
    with running_emulator(samples.default_cache()) as emulator:
        found = []
        for algorithms, waiting in cases:
            began = time.monotonic()
            found.append(measure(emulator, algorithms, waiting, measured))
            print(f"    {algorithms} algorithms, {waiting} waiting: {time.monotonic() - began:.0f} s", flush=True)
    print(table(found, cases))
    if "--write" in arguments:
        replace_part(PAGES / "costs.md", "calls", table(found, cases))
    return 0 if max(sum(case.values()) - case.get(DEPTH, 0) for case in found) <= AIM else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
