"""What signing and HTTP cost a worker, in µs of CPU a call: our client against botocore and urllib3.

.venv/bin/python bench/bench_signing.py [CALLS]
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import statistics
import sys
import threading
import time
from collections.abc import Callable

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import urllib3

from medical_image_processing.worker.http import HttpClient, Origin
from medical_image_processing.worker.sigv4 import AwsCredentials, Signer

BODY = b'{"QueueUrl": "http://127.0.0.1/000000000000/mip-processing_1.fifo"}'
HEADERS = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.ReceiveMessage"}
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}"
ROUNDS = 7


def cost_us(call: Callable[[], object], calls: int) -> str:
    """Median, least and most of several rounds."""
    for _ in range(50):
        call()
    rounds = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(calls):
            call()
        rounds.append((time.thread_time() - begun) / calls * 1e6)
    return f"{statistics.median(rounds):7.1f} µs  ({min(rounds):.1f} to {max(rounds):.1f})"


def serve() -> Origin:
    """A server that answers every request that arrives in one piece."""

    class Answers(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            # http.client sends head and body apart; only the piece that has a head is answered.
            if b"HTTP/1.1\r\n" in data:
                assert isinstance(self.transport, asyncio.Transport)
                self.transport.write(ANSWER)

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Answers, "127.0.0.1", 0))
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1])


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    ours = Signer(lambda: AwsCredentials("AKID", "secret", None), region="us-east-1", service="sqs")
    theirs = botocore.auth.SigV4Auth(botocore.credentials.Credentials("AKID", "secret"), "sqs", "us-east-1")

    def sign_with_botocore() -> None:
        url = "http://127.0.0.1:1/"
        theirs.add_auth(botocore.awsrequest.AWSRequest("POST", url, data=BODY, headers=HEADERS))

    def sign() -> None:
        ours.sign("POST", "127.0.0.1:1", "/", HEADERS, hashlib.sha256(BODY).hexdigest())

    image = bytes(280_000)
    print("signing one SQS call")
    print("  worker/sigv4.py  ", cost_us(sign, calls))
    print("  botocore         ", cost_us(sign_with_botocore, calls))
    print("  SHA-256 of 280 KB", cost_us(lambda: hashlib.sha256(image).hexdigest(), calls // 10))

    origin = serve()
    client, pool = HttpClient(), urllib3.PoolManager()
    connection = http.client.HTTPConnection(origin.host, origin.port)

    def with_http_client() -> None:
        connection.request("POST", "/", BODY, HEADERS)
        connection.getresponse().read()

    print("one small POST on an open connection")
    print("  worker/http.py   ", cost_us(lambda: client.request("POST", origin, "/", HEADERS, BODY), calls))
    print("  http.client      ", cost_us(with_http_client, calls))
    address = f"http://{origin.netloc}/"
    print(
        "  urllib3          ",
        cost_us(lambda: pool.request("POST", address, body=BODY, headers=HEADERS), calls),
    )


if __name__ == "__main__":
    main()
