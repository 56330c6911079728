"""How many calls of AWS a job makes, from POST to push, by call: with few and many algorithms, without and with
jobs that wait.

The Lambdas' own code and the PACS API over a bucket run here against an emulator, a real worker beside them. The
Lambdas' calls are counted by botocore's event ``before-send``, so that a try that is repeated counts; those of the
PACS API and of the worker, which signs its requests itself and follows links, by a proxy before the emulator.
``--write`` puts the table into docs/costs.md.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import uvicorn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from aws_emulator import REGION, AwsEmulator, running_emulator  # noqa: E402
from aws_stage import AwsStage  # noqa: E402
from lambda_events import call, invoke, queue_event, run  # noqa: E402
from medical_image_processing import naming, samples  # noqa: E402
from medical_image_processing.engines.aws.clients import AwsClients  # noqa: E402
from medical_image_processing.engines.aws.connections import Connection  # noqa: E402
from medical_image_processing.engines.aws.engine import AwsEngine  # noqa: E402
from medical_image_processing.entrypoints.lambdas import delivery, processing  # noqa: E402
from medical_image_processing.entrypoints.lambdas.runtime import adapted  # noqa: E402
from medical_image_processing.entrypoints.pacs_service import create_service  # noqa: E402
from medical_image_processing.model.algorithm import AlgorithmSpec, AlgorithmStatus, ResourceStatus  # noqa: E402
from medical_image_processing.model.job import JobMessage, PacsRef  # noqa: E402
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
"""From POST to push, through queues and tables."""
DEPTH = "POST: SQS GetQueueAttributes"
"""Not counted against the aim: at most once in five seconds, however many jobs come."""
PACS = "PACS"
"""What fetching the image adds to that: the PACS API's calls, and the worker's, which opens the link."""
LINK = f"{PACS}: S3 GET, by the worker"
PACS_ALLOWED = 3.0
"""Look for the image, write who reads it down, open the link."""
PACS_KEY_LOOK = f"{PACS}: DynamoDB GetItem"
"""Not counted against that: the PACS API looks an algorithm's key up once a minute."""
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
    of_lambdas = {
        f"{who}: {name}": count
        for who, calls in (("POST", posted), ("delivery", delivered))
        for name, count in calls.each().items()
    }
    return of_lambdas | worked.each()


class _Bench:
    def __init__(self, emulator: AwsEmulator) -> None:
        place = AwsStage(emulator)
        self.gateway = Gateway(place)
        self.stage = place
        self.counted: Counter[str] | None = None
        self._proxied: Counter[str] = Counter()
        account = place.account
        keys = {"aws_access_key_id": account.account, "aws_secret_access_key": account.secret}
        session = boto3.Session(**keys, region_name=REGION)  # not the shared one: the events are the session's
        session.events.register("before-send", self._count)
        clients = AwsClients(session=session, endpoint_url=account.endpoint)
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
                ends = [record for record in records if json.loads(record["body"])["status"] != "RUNNING"]
                for _ in ends:
                    self.socket.recv(timeout=30)
                pushed += len(ends)
        return calls

    @contextmanager
    def worker(self) -> Iterator[None]:
        with (
            tempfile.TemporaryDirectory() as folder,
            self._proxy() as proxy,
            _pacs(self.stage, proxy) as pacs,
        ):
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
                    # With the host, which a link's signature covers.
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    answer = upstream.request(self.command, f"{target}{self.path}", content=body, headers=headers)
                    bench.note(self.command, headers, answer.content)
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

    def note(self, method: str, headers: Mapping[str, str], answer: bytes) -> None:
        """A call that came through the proxy: of the PACS API, which has boto3, or else of the worker."""
        service, _, operation = headers.get("x-amz-target", "").rpartition(".")
        if operation == "ReceiveMessage" and b'"Messages"' not in answer:
            return  # a waiting worker's, and no job's
        if not operation:
            name = f"S3 {method}"
        else:
            name = f"{'DynamoDB' if service.startswith('DynamoDB') else 'SQS'} {operation}"
        who = PACS if headers.get("user-agent", "").startswith("Boto3") else "worker"
        link = who == "worker" and name == "S3 GET"
        self._proxied[LINK if link else f"{who}: {name}"] += 1


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A long poll that was under way when the bench was over."""


@contextmanager
def _pacs(place: AwsStage, endpoint: str) -> Iterator[str]:
    """The PACS API over a bucket with the image, whose calls and links go through ``endpoint``."""
    bucket = f"mip-pacs-{place.account.account}"
    s3 = place.boto("s3")
    s3.create_bucket(Bucket=bucket)
    key = f"{IMAGE['study_id']}/{IMAGE['series_id']}/{IMAGE['image_id']}"
    s3.put_object(Bucket=bucket, Key=key, Body=samples.ct_small().read_bytes())
    run(lambda: place.engine.pacs_keys.let_in(digest(PACS_KEY), ALGO))
    clients = place.account.clients(endpoint_url=endpoint)
    service = create_service({**place.environment, "MIP_PACS_BUCKET": bucket}, clients)
    config = uvicorn.Config(service.app, interface="asgi3", port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    thread = threading.Thread(target=lambda: server.run([listening]), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        clients.close()


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
    whose = ("POST", "worker", "delivery", PACS)
    names = sorted({name for case in found for name in case}, key=lambda n: (whose.index(n.partition(":")[0]), n))
    heading = ["call", *(f"{a} algorithm{'s' if a > 1 else ''}, {w} waiting" for a, w in cases)]
    rows = [[name, *(f"{case.get(name, 0):.2f}" for case in found)] for name in names]
    sums = [_sums(case) for case in found]
    rows.append(["**POST to push**", *(f"**{sum_:.2f}**" for sum_, _ in sums)])
    rows.append(["**PACS**", *(f"**{sum_:.2f}**" for _, sum_ in sums)])
    return markdown_table(heading, rows)


def _sums(case: Mapping[str, float]) -> tuple[float, float]:
    """From POST to push; and of the PACS."""
    pacs = sum(count for name, count in case.items() if name.startswith(PACS))
    return sum(case.values()) - pacs, pacs


def _is_within(case: Mapping[str, float]) -> bool:
    """Whether both are no more than they may be."""
    job, pacs = _sums(case)
    over = job - case.get(DEPTH, 0) - AIM, pacs - case.get(PACS_KEY_LOOK, 0) - PACS_ALLOWED
    return max(over) < 1e-6


def main(arguments: Sequence[str]) -> int:
    """Print the table; status 1 when a case makes more than it may. ``--short``: fewer algorithms and jobs."""
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
    return 0 if all(map(_is_within, found)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
