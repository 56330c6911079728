"""The SQS endpoint, proven by boto3, the aws command and plain HTTP."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from botocore.exceptions import ClientError
from wire_server import REGION, WireServer

from medical_image_processing import naming
from medical_image_processing.engines.embedded.credentials import Credential

LIVER, LUNG, RESULTS = naming.queue("liver"), naming.queue("lung"), naming.RESULTS_QUEUE
_EARLIER = "AWS.SimpleQueueService."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireServer]:
    with WireServer(tmp_path_factory.mktemp("sqs")) as running:
        yield running


@pytest.fixture(scope="module")
def operator(server: WireServer) -> Any:
    return server.client("sqs", server.operator)


@pytest.fixture(scope="module")
def worker(server: WireServer) -> Any:
    return server.client("sqs", server.liver)


@pytest.fixture
def queue(server: WireServer, request: pytest.FixtureRequest) -> str:
    """The URL of a queue of the test's own."""
    name = f"{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}.fifo"
    dead = f"dead-{name}"
    server.on_loop(server.queues.create(dead, redrive_to=None))
    server.on_loop(server.queues.create(name, redrive_to=dead, max_receives=2))
    return server.url_of(name)


def send(client: Any, queue: str, *names: str, group: str | None = None) -> None:
    for name in names:
        client.send_message(
            QueueUrl=queue, MessageBody=name, MessageGroupId=group or name, MessageDeduplicationId=name
        )


def received(client: Any, queue: str, **given: Any) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = client.receive_message(QueueUrl=queue, **given).get("Messages", [])
    return answer


def refused(code: str, call: Callable[..., Any], *arguments: Any, **given: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **given)
    assert caught.value.response["Error"]["Code"] == code
    return caught.value


def signed_post(server: WireServer, credential: Credential, target: str, body: bytes) -> http.client.HTTPResponse:
    """A request that no SDK would make."""
    keys = BotoCredentials(credential.access_key_id, credential.secret_access_key)
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.0"}
    request = AWSRequest("POST", f"{server.url}/", data=body, headers=headers)
    SigV4Auth(keys, "sqs", REGION).add_auth(request)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/", body, dict(request.headers))
    return connection.getresponse()


def test_a_message_goes_through_with_all_that_is_said_about_it(
    operator: Any, worker: Any, server: WireServer
) -> None:
    url = worker.get_queue_url(QueueName=LIVER)["QueueUrl"]
    assert url == server.url_of(LIVER)
    attributes = {
        "Name": {"DataType": "String", "StringValue": "Café"},
        "raw.one": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        "raw.two": {"DataType": "Number.int", "StringValue": "7"},
    }
    before = time.time()
    sent = operator.send_message(
        QueueUrl=url,
        MessageBody="körper <&> 🫀",
        MessageGroupId="g",
        MessageDeduplicationId="d",
        MessageAttributes=attributes,
    )
    assert sent["MD5OfMessageBody"] == hashlib.md5("körper <&> 🫀".encode()).hexdigest()
    names = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]}
    [message] = received(worker, url, VisibilityTimeout=0, **names)
    assert message["Body"] == "körper <&> 🫀"
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"]
    assert message["MessageId"] == sent["MessageId"]
    assert message["MessageAttributes"] == attributes
    assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    system = message["Attributes"]
    assert (system["MessageGroupId"], system["MessageDeduplicationId"]) == ("g", "d")
    assert (system["SequenceNumber"], system["ApproximateReceiveCount"]) == (sent["SequenceNumber"], "1")
    assert (
        before - 1 < int(system["SentTimestamp"]) / 1000 <= int(system["ApproximateFirstReceiveTimestamp"]) / 1000
    )
    [again] = received(worker, url, AttributeNames=["ApproximateReceiveCount"], MessageAttributeNames=["raw.*"])
    assert again["Attributes"] == {"ApproximateReceiveCount": "2"}
    assert set(again["MessageAttributes"]) == {"raw.one", "raw.two"}
    worker.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    worker.delete_message(QueueUrl=url, ReceiptHandle=again["ReceiptHandle"])
    assert received(worker, url) == []


def test_the_digest_of_attributes_is_the_documented_one(operator: Any, queue: str) -> None:
    """Length, name, length, type, transport type, length, value; by the definition, not by our code."""
    answer = operator.send_message(
        QueueUrl=queue,
        MessageBody="x",
        MessageGroupId="g",
        MessageDeduplicationId="d",
        MessageAttributes={
            "b": {"DataType": "Binary", "BinaryValue": b"\x01"},
            "a": {"DataType": "String", "StringValue": "v"},
        },
    )
    text = b"\0\0\0\x01a\0\0\0\x06String\x01\0\0\0\x01v" + b"\0\0\0\x01b\0\0\0\x06Binary\x02\0\0\0\x01\x01"
    assert answer["MD5OfMessageAttributes"] == hashlib.md5(text).hexdigest()


def test_batches_answer_for_each_entry(operator: Any, queue: str) -> None:
    entries = [{"Id": n, "MessageBody": n, "MessageGroupId": n, "MessageDeduplicationId": n} for n in "abc"]
    entries[1]["MessageBody"] = "\x01"
    answer = operator.send_message_batch(QueueUrl=queue, Entries=entries)
    assert [one["Id"] for one in answer["Successful"]] == ["a", "c"]
    assert [(one["Id"], one["Code"], one["SenderFault"]) for one in answer["Failed"]] == [
        ("b", "InvalidMessageContents", True)
    ]
    messages = received(operator, queue, MaxNumberOfMessages=10)
    assert [message["Body"] for message in messages] == ["a", "c"]
    changes = [{"Id": m["Body"], "ReceiptHandle": m["ReceiptHandle"], "VisibilityTimeout": 60} for m in messages]
    changes.append({"Id": "old", "ReceiptHandle": messages[0]["ReceiptHandle"][:-1] + "~", "VisibilityTimeout": 1})
    answer = operator.change_message_visibility_batch(QueueUrl=queue, Entries=changes)
    assert [one["Id"] for one in answer["Successful"]] == ["a", "c"]
    assert [(one["Id"], one["Code"]) for one in answer["Failed"]] == [("old", "ReceiptHandleIsInvalid")]
    deletes = [{"Id": m["Body"], "ReceiptHandle": m["ReceiptHandle"]} for m in messages]
    answer = operator.delete_message_batch(QueueUrl=queue, Entries=deletes)
    assert [one["Id"] for one in answer["Successful"]] == ["a", "c"]
    counts = operator.get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])
    assert counts["Attributes"] == {"ApproximateNumberOfMessages": "0"}


def test_queue_attributes(operator: Any, queue: str) -> None:
    send(operator, queue, "a", "b", "c")
    received(operator, queue)
    found = operator.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    name = queue.rpartition("/")[2]
    assert found["QueueArn"] == f"arn:aws:sqs:{REGION}:000000000000:{name}"
    assert (found["ApproximateNumberOfMessages"], found["ApproximateNumberOfMessagesNotVisible"]) == (
        "2",
        "1",
    )
    assert (found["FifoQueue"], found["VisibilityTimeout"]) == ("true", "30")
    redrive = json.loads(found["RedrivePolicy"])
    assert redrive == {
        "deadLetterTargetArn": f"arn:aws:sqs:{REGION}:000000000000:dead-{name}",
        "maxReceiveCount": 2,
    }
    assert "Attributes" not in operator.get_queue_attributes(QueueUrl=queue)
    refused("InvalidAttributeName", operator.get_queue_attributes, QueueUrl=queue, AttributeNames=["Nonsense"])


def test_messages_of_a_group_come_in_order_and_one_at_a_time_in_flight(operator: Any, queue: str) -> None:
    send(operator, queue, "1", "2", "3", group="g")
    send(operator, queue, "x", group="h")
    first = received(operator, queue, MaxNumberOfMessages=3)
    assert [message["Body"] for message in first] == ["1", "2", "x"]
    assert received(operator, queue, MaxNumberOfMessages=10) == []
    for message in first:
        operator.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    assert [message["Body"] for message in received(operator, queue)] == ["3"]


def test_a_message_received_too_often_goes_to_the_dead_letter_queue(
    operator: Any, queue: str, server: WireServer
) -> None:
    send(operator, queue, "bad")
    for _ in range(2):
        [message] = received(operator, queue)
        operator.change_message_visibility(
            QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    assert received(operator, queue) == []
    dead = server.url_of(f"dead-{queue.rpartition('/')[2]}")
    assert [message["Body"] for message in received(operator, dead)] == ["bad"]


def test_an_old_handle_renews_nothing(operator: Any, queue: str) -> None:
    send(operator, queue, "a")
    [old] = received(operator, queue, VisibilityTimeout=0)
    [new] = received(operator, queue)
    change = operator.change_message_visibility
    refused(
        f"{_EARLIER}MessageNotInflight",
        change,
        QueueUrl=queue,
        ReceiptHandle=old["ReceiptHandle"],
        VisibilityTimeout=9,
    )
    operator.delete_message(QueueUrl=queue, ReceiptHandle=new["ReceiptHandle"])
    with pytest.raises(operator.exceptions.MessageNotInflight):
        change(QueueUrl=queue, ReceiptHandle=new["ReceiptHandle"], VisibilityTimeout=9)


def test_a_long_poll_is_woken_by_a_message_and_ends_on_time(
    operator: Any, worker: Any, server: WireServer
) -> None:
    url = server.url_of(LIVER)
    began = time.monotonic()
    assert received(worker, url, WaitTimeSeconds=1) == []
    assert 0.9 < time.monotonic() - began < 15, "it went on for the longest time that there is"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(received, worker, url, WaitTimeSeconds=20)
        time.sleep(0.2)  # so that it does wait; without it the test would pass too
        sent = time.monotonic()
        send(operator, url, "woken")
        [message] = waiting.result(15)
    assert message["Body"] == "woken"
    assert time.monotonic() - sent < 15, "it was not woken: it came when its time was over"
    worker.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def test_a_client_that_left_while_polling_takes_nothing_with_it(
    operator: Any, queue: str, server: WireServer
) -> None:
    keys = BotoCredentials(server.operator.access_key_id, server.operator.secret_access_key)
    body = json.dumps({"QueueUrl": queue, "WaitTimeSeconds": 20}).encode()
    request = AWSRequest("POST", f"{server.url}/", data=body, headers={"X-Amz-Target": "AmazonSQS.ReceiveMessage"})
    SigV4Auth(keys, "sqs", REGION).add_auth(request)
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", "/", body, dict(request.headers))
        time.sleep(0.05)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
    send(operator, queue, "kept")
    [message] = received(operator, queue, WaitTimeSeconds=5, AttributeNames=["ApproximateReceiveCount"])
    assert (message["Body"], message["Attributes"]) == ("kept", {"ApproximateReceiveCount": "1"})


def test_long_polls_end_when_the_platform_stops(tmp_path: Path) -> None:
    with WireServer(tmp_path) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        client = server.client("sqs", server.liver)
        waiting = pool.submit(received, client, server.url_of(LIVER), WaitTimeSeconds=20)
        time.sleep(0.2)
        server.loop.call_soon_threadsafe(server.queues.close)
        assert waiting.result(15) == []


def test_what_is_wrong_with_a_request_is_said_in_the_words_of_aws(operator: Any, queue: str) -> None:
    message = {"QueueUrl": queue, "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d"}

    def without(name: str) -> dict[str, str]:
        return {key: value for key, value in message.items() if key != name}

    attribute = {"DataType": "String", "StringValue": "v"}
    for code, given in (
        ("MissingParameter", without("MessageGroupId")),
        ("InvalidParameterValue", without("MessageDeduplicationId")),
        ("InvalidParameterValue", {**message, "DelaySeconds": 5}),
        ("InvalidParameterValue", {**message, "MessageGroupId": "a b"}),
        ("InvalidParameterValue", {**message, "MessageGroupId": "g" * 129}),
        ("InvalidParameterValue", {**message, "MessageBody": "x" * 262_145}),
        ("InvalidParameterValue", {**message, "MessageBody": "ü" * 131_073}),
        ("InvalidMessageContents", {**message, "MessageBody": "\x00"}),
        ("MissingParameter", {**message, "MessageBody": ""}),
        ("InvalidParameterValue", {**message, "MessageAttributes": {"AWS.x": attribute}}),
        ("InvalidParameterValue", {**message, "MessageAttributes": {"a": {"DataType": "Nonsense"}}}),
        ("InvalidParameterValue", {**message, "MessageAttributes": {"a": {"DataType": "String"}}}),
        ("InvalidParameterValue", {**message, "MessageAttributes": {f"a{n}": attribute for n in range(11)}}),
    ):
        refused(code, operator.send_message, **given)
    for given in ({"MaxNumberOfMessages": 11}, {"MaxNumberOfMessages": 0}, {"WaitTimeSeconds": 21}):
        refused("InvalidParameterValue", operator.receive_message, QueueUrl=queue, **given)
    refused("InvalidParameterValue", operator.receive_message, QueueUrl=queue, VisibilityTimeout=43_201)
    refused("InvalidAttributeName", operator.receive_message, QueueUrl=queue, AttributeNames=["Nonsense"])
    refused("ReceiptHandleIsInvalid", operator.delete_message, QueueUrl=queue, ReceiptHandle="nonsense")
    with pytest.raises(operator.exceptions.ReceiptHandleIsInvalid):
        operator.change_message_visibility(QueueUrl=queue, ReceiptHandle="nonsense", VisibilityTimeout=1)


def test_what_is_wrong_with_a_batch(operator: Any, queue: str) -> None:
    def entry(name: str, body: str = "x") -> dict[str, str]:
        return {"Id": name, "MessageBody": body, "MessageGroupId": "g", "MessageDeduplicationId": name}

    def sending(*entries: dict[str, str]) -> Callable[[], Any]:
        return lambda: operator.send_message_batch(QueueUrl=queue, Entries=list(entries))

    refused(f"{_EARLIER}EmptyBatchRequest", sending())
    refused(f"{_EARLIER}TooManyEntriesInBatchRequest", sending(*(entry(f"e{n}") for n in range(11))))
    refused(f"{_EARLIER}BatchEntryIdsNotDistinct", sending(entry("a"), entry("a")))
    refused(f"{_EARLIER}InvalidBatchEntryId", sending(entry("a b")))
    refused(f"{_EARLIER}BatchRequestTooLong", sending(*(entry(f"e{n}", "x" * 140_000) for n in range(2))))
    with pytest.raises(operator.exceptions.EmptyBatchRequest):
        operator.delete_message_batch(QueueUrl=queue, Entries=[])


def test_a_queue_that_is_not_there(operator: Any, server: WireServer) -> None:
    for call, given in (
        (operator.get_queue_url, {"QueueName": "nope.fifo"}),
        (operator.receive_message, {"QueueUrl": server.url_of("nope.fifo")}),
        (
            operator.get_queue_attributes,
            {"QueueUrl": server.url_of("no such name"), "AttributeNames": ["All"]},
        ),
    ):
        with pytest.raises(operator.exceptions.QueueDoesNotExist) as caught:
            call(**given)
        assert caught.value.response["Error"]["Code"] == f"{_EARLIER}NonExistentQueue"


def test_operations_that_are_not_offered(operator: Any) -> None:
    refused(f"{_EARLIER}UnsupportedOperation", operator.create_queue, QueueName="mine.fifo")
    refused(f"{_EARLIER}UnsupportedOperation", operator.list_queues)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"QueueUrl": 5}', b'{"QueueUrl": "\\ud800"}']
)
def test_a_body_that_is_no_request_is_the_senders_fault(server: WireServer, body: bytes) -> None:
    for target in (
        "AmazonSQS.ReceiveMessage",
        "AmazonSQS.SendMessageBatch",
        "AmazonSQS.Nonsense",
        "Nonsense",
    ):
        answer = signed_post(server, server.operator, target, body)
        assert answer.status == 400
        assert "__type" in json.loads(answer.read())


def test_a_body_over_every_limit_is_refused_while_it_is_read(server: WireServer) -> None:
    answer = signed_post(server, server.operator, "AmazonSQS.SendMessage", b" " * (3 << 20))
    assert answer.status == 413


# Law A1: what an algorithm's credentials do not open. Each denied path, once.
SEND = {"MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d"}
HANDLE = {"ReceiptHandle": "x"}
CHANGE = {**HANDLE, "VisibilityTimeout": 1}
DENIED: list[tuple[str, str, dict[str, Any]]] = [
    ("send_message", LIVER, SEND),
    ("send_message_batch", LIVER, {"Entries": [{"Id": "a", **SEND}]}),
    ("receive_message", RESULTS, {}),
    ("delete_message", RESULTS, HANDLE),
    ("delete_message_batch", RESULTS, {"Entries": [{"Id": "a", **HANDLE}]}),
    ("change_message_visibility", RESULTS, CHANGE),
    ("change_message_visibility_batch", RESULTS, {"Entries": [{"Id": "a", **CHANGE}]}),
    ("receive_message", naming.dead_letter_queue("liver"), {}),
    ("receive_message", "nope.fifo", {}),
    ("get_queue_attributes", LUNG, {"AttributeNames": ["All"]}),
    ("send_message", LUNG, SEND),
    ("send_message_batch", LUNG, {"Entries": [{"Id": "a", **SEND}]}),
    ("receive_message", LUNG, {}),
    ("delete_message", LUNG, HANDLE),
    ("delete_message_batch", LUNG, {"Entries": [{"Id": "a", **HANDLE}]}),
    ("change_message_visibility", LUNG, CHANGE),
    ("change_message_visibility_batch", LUNG, {"Entries": [{"Id": "a", **CHANGE}]}),
]


@pytest.mark.parametrize(("action", "queue", "given"), DENIED, ids=lambda value: str(value)[:40])
def test_an_algorithm_is_denied(
    server: WireServer, worker: Any, action: str, queue: str, given: dict[str, Any]
) -> None:
    error = refused("AccessDenied", getattr(worker, action), QueueUrl=server.url_of(queue), **given)
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_an_algorithm_does_not_learn_which_queues_there_are(worker: Any) -> None:
    for name in (LUNG, "nope.fifo"):
        refused("AccessDenied", worker.get_queue_url, QueueName=name)


def test_an_algorithm_uses_its_queue_and_the_results_queue(server: WireServer, worker: Any, operator: Any) -> None:
    send(operator, server.url_of(LIVER), "job")
    [message] = received(worker, server.url_of(LIVER))
    worker.change_message_visibility(
        QueueUrl=server.url_of(LIVER), ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=60
    )
    for queue in (LIVER, RESULTS):
        worker.get_queue_url(QueueName=queue)
        worker.get_queue_attributes(QueueUrl=server.url_of(queue), AttributeNames=["All"])
    send(worker, server.url_of(RESULTS), "result")
    worker.delete_message(QueueUrl=server.url_of(LIVER), ReceiptHandle=message["ReceiptHandle"])
    [result] = received(operator, server.url_of(RESULTS), AttributeNames=["SenderId"])
    assert (result["Body"], result["Attributes"]["SenderId"]) == ("result", "liver")


def test_keys_that_are_wrong_unknown_revoked_or_missing(server: WireServer) -> None:
    url = server.url_of(LIVER)
    wrong = Credential(server.liver.access_key_id, "wrong", server.liver.principal)
    refused("SignatureDoesNotMatch", received, server.client("sqs", wrong), url)
    unknown = Credential("MIPANOBODYNOBODYNOBO", "wrong", server.liver.principal)
    refused("InvalidClientTokenId", received, server.client("sqs", unknown), url)
    leaving = server.credentials.issue("liver")
    client = server.client("sqs", leaving)
    assert received(client, url) == []
    server.credentials.revoke(leaving.access_key_id)
    refused("InvalidClientTokenId", received, client, url)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/", b"{}", {"X-Amz-Target": "AmazonSQS.ReceiveMessage"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["__type"]) == (
        403,
        "com.amazonaws.sqs#MissingAuthenticationToken",
    )


def test_a_signature_for_another_service_or_another_body_is_refused(server: WireServer) -> None:
    keys = BotoCredentials(server.liver.access_key_id, server.liver.secret_access_key)
    target = {"X-Amz-Target": "AmazonSQS.ReceiveMessage"}
    for service, body in (("s3", b"{}"), ("sqs", b"{ }")):
        request = AWSRequest("POST", f"{server.url}/", data=b"{}", headers=target)
        SigV4Auth(keys, service, REGION).add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("POST", "/", body, dict(request.headers))
        assert "SignatureDoesNotMatch" in json.loads(connection.getresponse().read())["__type"]


def test_the_aws_command(server: WireServer) -> None:
    def sqs(credential: Credential, action: str, **given: str) -> Any:
        options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
        done = server.aws(credential, "sqs", action, *options, "--output", "json")
        return json.loads(done.stdout or "{}")

    operator, worker = server.operator, server.lung
    url = sqs(worker, "get-queue-url", queue_name=LUNG)["QueueUrl"]
    entries = [{"Id": n, "MessageBody": n, "MessageGroupId": n, "MessageDeduplicationId": n} for n in "bc"]
    one = {"message_body": "a", "message_group_id": "a", "message_deduplication_id": "a"}
    sqs(operator, "send-message", queue_url=url, **one)
    sqs(operator, "send-message-batch", queue_url=url, entries=json.dumps(entries))
    messages = sqs(worker, "receive-message", queue_url=url, max_number_of_messages="10")["Messages"]
    assert [message["Body"] for message in messages] == ["a", "b", "c"]
    handles = [message["ReceiptHandle"] for message in messages]
    first = {"queue_url": url, "receipt_handle": handles[0]}
    both = [{"Id": n, "ReceiptHandle": h} for n, h in zip("bc", handles[1:], strict=True)]
    changes = json.dumps([{**entry, "VisibilityTimeout": 99} for entry in both])
    sqs(worker, "change-message-visibility", **first, visibility_timeout="99")
    sqs(worker, "change-message-visibility-batch", queue_url=url, entries=changes)
    sqs(worker, "delete-message", **first)
    sqs(worker, "delete-message-batch", queue_url=url, entries=json.dumps(both))
    found = sqs(worker, "get-queue-attributes", queue_url=url, attribute_names="All")["Attributes"]
    assert (found["ApproximateNumberOfMessages"], found["ApproximateNumberOfMessagesNotVisible"]) == (
        "0",
        "0",
    )
    denied = server.aws(worker, "sqs", "receive-message", "--queue-url", server.url_of(LIVER), check=False)
    assert denied.returncode != 0
    assert "AccessDenied" in denied.stderr
