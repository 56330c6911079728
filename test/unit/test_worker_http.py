"""The worker's HTTP client, against sockets that answer byte for byte what each test says."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medical_image_processing.errors import InputRejected, TransientError
from medical_image_processing.worker.http import HttpClient, Origin, origin_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def server(*connections: Callable[[socket.socket], None]) -> Iterator[Origin]:
    """Answers its first connection with the first function, and so on."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(10)

    def serve() -> None:
        for handle in connections:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                handle(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Origin("http", "127.0.0.1", listening.getsockname()[1])
    finally:
        listening.close()
        thread.join(10)


def request_of(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    return received


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        for answer in answers:
            request_of(connection)
            connection.sendall(answer)

    return handle


def get(client: HttpClient, origin: Origin, **limits: float) -> tuple[int, bytes]:
    response = client.request("GET", origin, "/x", {}, **limits)  # type: ignore[arg-type]
    return response.status, response.body


def test_it_sends_headers_and_body_and_reads_the_answer() -> None:
    seen = []

    def handle(connection: socket.socket) -> None:
        seen.append(request_of(connection))
        connection.sendall(b"HTTP/1.1 201 Created\r\nX-Thing:  a b \r\nContent-Length: 0\r\n\r\n")

    with server(handle) as origin:
        response = HttpClient().request("PUT", origin, "/a%20b?c=d", {"x-key": "v"}, b"body")
    assert (response.status, response.headers["x-thing"], response.body) == (201, "a b", b"")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"PUT /a%20b?c=d HTTP/1.1",
        f"host: 127.0.0.1:{origin.port}".encode(),
        b"x-key: v",
        b"content-length: 4",
    ]
    assert body == b"body"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: t\r\n\r\n",
    ],
    ids=["length", "continue", "chunked"],
)
def test_a_connection_is_used_again(answer: bytes) -> None:
    with server(answering(answer, OK)) as origin:
        client = HttpClient()
        assert get(client, origin) == (200, b"ok")
        assert get(client, origin) == (200, b"ok")


def test_a_body_may_end_with_the_connection() -> None:
    with server(answering(b"HTTP/1.0 200 OK\r\n\r\nall of it"), answering(OK)) as origin:
        client = HttpClient()
        assert get(client, origin) == (200, b"all of it")
        assert get(client, origin) == (200, b"ok")


def test_a_connection_closed_meanwhile_is_replaced() -> None:
    def close_at_second_request(connection: socket.socket) -> None:
        answering(OK)(connection)
        request_of(connection)

    with server(close_at_second_request, answering(OK)) as origin:
        client = HttpClient()
        assert get(client, origin) == (200, b"ok")
        assert get(client, origin) == (200, b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    ],
    ids=[
        "closed",
        "not http",
        "cut short",
        "bad length",
        "negative length",
        "bad header",
        "bad chunk",
        "endless headers",
    ],
)
def test_a_broken_answer_is_a_transient_error(answer: bytes) -> None:
    with server(answering(answer)) as origin, pytest.raises(TransientError, match="does not answer"):
        get(HttpClient(), origin)


def test_nobody_listening_is_a_transient_error() -> None:
    with server() as origin:
        pass
    with pytest.raises(TransientError, match="NO_ANSWER"):
        get(HttpClient(), origin)


def test_silence_ends_at_the_timeout() -> None:
    released = threading.Event()

    def silent(connection: socket.socket) -> None:
        released.wait(10)

    with server(silent) as origin:
        with pytest.raises(TransientError, match="takes too long"):
            get(HttpClient(read_timeout_s=0.1), origin)
        released.set()


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nx: ",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: ",
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
    ids=["length", "status", "header", "chunk size", "trailer", "until closed"],
)
def test_a_trickle_ends_at_the_total_limit(start: bytes) -> None:
    def trickle(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(start)
        try:
            while True:
                connection.sendall(b"x")
                threading.Event().wait(0.01)
        except OSError:
            pass

    with server(trickle) as origin, pytest.raises(TransientError, match="takes too long"):
        get(HttpClient(), origin, total_s=0.2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n1234567\r\n7\r\n1234567\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100,
    ],
    ids=["length", "chunked", "until closed"],
)
def test_an_answer_beyond_the_limit_is_refused(answer: bytes) -> None:
    with server(answering(answer)) as origin, pytest.raises(InputRejected, match="TOO_LARGE"):
        get(HttpClient(), origin, max_bytes=10)


def test_hanging_up_ends_a_request_but_keeps_an_answer_that_is_on_its_way() -> None:
    asked, hung_up = threading.Event(), threading.Event()

    def answer_late(connection: socket.socket) -> None:
        request_of(connection)
        asked.set()
        hung_up.wait(10)
        assert connection.recv(1) == b""
        connection.sendall(OK)

    with server(answer_late) as origin:
        client = HttpClient()
        results: list[tuple[int, bytes]] = []
        thread = threading.Thread(target=lambda: results.append(get(client, origin)))
        thread.start()
        assert asked.wait(10)
        client.hang_up()
        hung_up.set()
        thread.join(10)
        assert results == [(200, b"ok")]
        with pytest.raises(TransientError):
            get(client, origin)


@pytest.mark.needs("openssl")
def test_https_is_spoken_with_authorities_that_the_system_trusts(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
        "-addext",
    ]
    command += ["subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def over_tls(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                answering(OK)(secure)
        except OSError:
            pass  # the client that does not trust us leaves

    script = (
        "import sys\n"
        "from medical_image_processing.errors import TransientError\n"
        "from medical_image_processing.worker.http import HttpClient, origin_of\n"
        "try:\n"
        "    print(HttpClient().request('GET', origin_of(sys.argv[1]), '/', {}).body)\n"
        "except TransientError as error:\n"
        "    print(error)\n"
    )
    with server(over_tls, over_tls) as origin:
        said = [
            subprocess.run(
                [sys.executable, "-c", script, f"https://localhost:{origin.port}"],
                env=env,
                check=True,
                capture_output=True,
                text=True,
                timeout=30,
            ).stdout
            for env in ({"SSL_CERT_FILE": str(certificate)}, {})
        ]
    assert said[0] == "b'ok'\n"
    assert "TLS failed (CERTIFICATE_VERIFY_FAILED)" in said[1]


@pytest.mark.parametrize("text", ["", "ftp://host/", "http://", "host:80", "//host"])
def test_what_is_no_http_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        origin_of(text)


def test_the_host_header_leaves_out_the_default_port() -> None:
    assert origin_of("https://sqs.us-east-1.amazonaws.com/1/q.fifo").netloc == "sqs.us-east-1.amazonaws.com"
    assert origin_of("http://[::1]:8080/").netloc == "[::1]:8080"
