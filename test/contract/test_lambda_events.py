"""The Lambdas that AWS starts by itself: results, dead letters, changes of the registry, changes of tasks."""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stdout
from typing import Any

import pytest
from aws_workplace import Workplace

from api_calls import SEED_BODY
from aws_emulator import AwsEmulator
from aws_stage import AwsStage
from aws_tables import ALGORITHMS, KEYS, table
from lambda_events import invoke, queue_event, run, stream_record
from medical_image_processing import naming
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.senders import TaskRoles
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.entrypoints.lambdas import dead_letters, delivery, provisioner, scaler
from medical_image_processing.errors import Unavailable
from medical_image_processing.model.algorithm import AlgorithmPatch, AlgorithmSpec, AlgorithmStatus
from medical_image_processing.model.job import Job, JobMessage, JobStatus, PacsRef
from medical_image_processing.ports.resources import Observed

ALGO = "algo_1"
RESULTS = naming.RESULTS_QUEUE


def metric(output: str, name: str) -> list[float]:
    """The values of a metric in what was written, as CloudWatch finds them."""
    values = []
    for line in map(json.loads, output.splitlines()):
        for definition in line.get("_aws", {}).get("CloudWatchMetrics", []):
            if name in [one["Name"] for one in definition["Metrics"]]:
                assert definition["Namespace"] == "Mip" and definition["Dimensions"] == [[]]
                values.append(line[name])
    return values


class Place:
    """An account with the algorithm's queues, for what happens to jobs."""

    def __init__(self, emulator: AwsEmulator) -> None:
        self.stage = AwsStage(emulator, MIP_WS_ENDPOINT=f"{emulator.endpoint}/_aws/execute-api/none/prod")
        self.engine = self.stage.engine
        self.sqs = self.stage.boto("sqs")
        for queue in (naming.queue(ALGO), naming.dead_letter_queue(ALGO)):
            self.sqs.create_queue(QueueName=queue, Attributes={"FifoQueue": "true"})
        run(lambda: self.engine.registry.create(spec(ALGO), actor="root"))
        self.deliver = delivery.create(self.engine)

    def submit(self, job_id: str) -> None:
        message = JobMessage(
            job_id=job_id, client_id="ana", algo_id=ALGO, pacs=PacsRef(study_id="s", scope="study")
        )
        run(lambda: self.engine.jobs.accept(message, "fingerprint"))

    def report(self, body: Any, *, group: str | None = None) -> None:
        """A message on the results queue, as a worker sends it."""
        text = body if isinstance(body, str) else json.dumps(body)
        self.sqs.send_message(
            QueueUrl=self.engine.queues.url(RESULTS),
            MessageBody=text,
            MessageGroupId=group or body["job_id"],
            MessageDeduplicationId=f"{time.time_ns()}",
        )

    def waiting(self) -> dict[str, Any]:
        return queue_event(self.sqs, self.engine.queues.url(RESULTS))

    def job(self, job_id: str) -> Job:
        job = run(lambda: self.engine.jobs.get(job_id))
        assert job is not None
        return job  # type: ignore[no-any-return]

    def result(self, job_id: str, **changes: Any) -> dict[str, Any]:
        dicom = {"bucket": self.stage.bucket, "key": f"{ALGO}/s/{job_id}.dcm"}
        return {"job_id": job_id, "algo_id": ALGO, "client_id": "ana", "dicom": dicom, **changes}


def spec(algo_id: str, **changes: Any) -> AlgorithmSpec:
    return AlgorithmSpec(algo_id=algo_id, **{**SEED_BODY, **changes})


@pytest.fixture(scope="module")
def place(aws_emulator: AwsEmulator) -> Place:
    return Place(aws_emulator)


def test_a_batch_of_results_moves_each_job(place: Place) -> None:
    for job_id in ("ok", "refused", "runs"):
        place.submit(job_id)
    place.report(place.result("ok"))
    place.report(
        {**place.result("refused", status="FAILED"), "error": {"code": "BAD", "message": "no pixels in it"}}
    )
    place.report({"job_id": "runs", "algo_id": ALGO, "status": "RUNNING", "progress": 0.5})

    assert invoke(place.deliver, place.waiting()) == {"batchItemFailures": []}
    assert place.job("ok").status is JobStatus.SUCCEEDED
    assert place.job("refused").status is JobStatus.FAILED
    assert (place.job("runs").status, place.job("runs").progress) == (JobStatus.RUNNING, 0.5)


def test_the_messages_of_a_job_count_in_their_order(place: Place) -> None:
    place.submit("ordered")
    place.report({"job_id": "ordered", "algo_id": ALGO, "status": "RUNNING", "progress": 0.9})
    place.report(place.result("ordered"))

    invoke(place.deliver, place.waiting())

    assert place.job("ordered").status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    "body",
    ["", "nonsense", "null", "[" * 50_000, '{"job_id": "\\ud800"}', '{"job_id": 1e999}', "{}", "\x00" * 10],
    ids=["empty", "text", "null", "deep", "surrogate", "infinite", "object", "nul"],
)
def test_no_message_can_fail_the_batch_it_came_in(place: Place, body: str) -> None:
    job_id = f"beside-{abs(hash(body))}"
    place.submit(job_id)
    place.report(place.result(job_id))
    event = place.waiting()
    hostile = {**event["Records"][0], "messageId": "hostile", "body": body}
    hostile["attributes"] = {**hostile["attributes"], "MessageGroupId": "hostile"}

    answer = invoke(place.deliver, {"Records": [hostile, *event["Records"]]})

    assert answer == {"batchItemFailures": []}
    assert place.job(job_id).status is JobStatus.SUCCEEDED


def test_what_can_not_be_written_now_comes_again_with_what_is_behind_it(place: Place) -> None:
    place.submit("fails")
    place.submit("works")
    place.report({"job_id": "fails", "algo_id": ALGO, "status": "RUNNING"})
    place.report(place.result("fails"))
    place.report(place.result("works"))
    event = place.waiting()
    without = {name: text for name, text in event["Records"][0]["attributes"].items() if name != "SentTimestamp"}
    of_fails = [record for record in event["Records"] if "fails" in record["body"]]
    of_fails[0]["attributes"] = without  # whatever goes wrong with the first

    answer = invoke(place.deliver, event)

    assert [one["itemIdentifier"] for one in answer["batchItemFailures"]] == [one["messageId"] for one in of_fails]
    assert place.job("works").status is JobStatus.SUCCEEDED
    assert place.job("fails").status is JobStatus.QUEUED


def test_an_algorithms_role_speaks_for_its_own_jobs_only(place: Place) -> None:
    for role_id, algo_id in (("AROAITSELF", ALGO), ("AROAOTHER", "other")):
        run(lambda: place.engine.task_roles.keep(role_id, algo_id))  # noqa: B023 - of this round
    refused = {}
    for job_id, sender in (
        ("by-itself", "AROAITSELF:0123456789abcdef"),
        ("by-other", "AROAOTHER:0123456789abcdef"),
        ("by-nobody", "AROANOBODY:0123456789abcdef"),
        ("by-operator", "AIDAOPERATOR"),
    ):
        place.submit(job_id)
        place.report(place.result(job_id))
        event = place.waiting()
        event["Records"][0]["attributes"]["SenderId"] = sender
        with redirect_stdout(io.StringIO()) as told:
            assert invoke(place.deliver, event) == {"batchItemFailures": []}
        refused[job_id] = (place.job(job_id).status is JobStatus.QUEUED, metric(told.getvalue(), "UnknownSenders"))

    assert refused == {
        "by-itself": (False, []),
        "by-other": (True, []),
        "by-nobody": (True, [1]),
        "by-operator": (False, []),
    }


def test_a_role_that_is_new_is_known_moments_later_and_for_ever(place: Place) -> None:
    now = [0.0]
    asked: list[str] = []
    place.stage.boto("dynamodb").meta.events.register(
        "before-call.dynamodb.GetItem", lambda **_: asked.append("get")
    )
    roles = TaskRoles(table(place.stage.clients, KEYS), clock=lambda: now[0])
    makers = TaskRoles(table(place.stage.clients, KEYS))
    assert run(lambda: roles.algo_of("AROALATE")) is None
    run(lambda: makers.keep("AROALATE", "late"))
    assert run(lambda: roles.algo_of("AROALATE")) is None
    now[0] = 6.0
    assert run(lambda: roles.algo_of("AROALATE")) == "late"
    run(lambda: makers.keep("AROALATE", "other"))
    for looking in (roles, makers):
        assert run(lambda: looking.algo_of("AROALATE")) == "late"  # noqa: B023 - of this round
    assert len(asked) == 3


def test_dead_letters_end_their_jobs_and_are_counted(place: Place) -> None:
    place.submit("dead")
    url = place.engine.queues.url(naming.queue(ALGO))
    while messages := place.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            if "dead" in message["Body"]:
                place.sqs.send_message(
                    QueueUrl=place.engine.queues.url(naming.dead_letter_queue(ALGO)),
                    MessageBody=message["Body"],
                    MessageGroupId="dead",
                    MessageDeduplicationId="dead",
                )
    work = dead_letters.create(place.engine)
    with redirect_stdout(io.StringIO()) as first:
        invoke(work, {"source": "aws.events"})
    with redirect_stdout(io.StringIO()) as second:
        invoke(work, {"source": "aws.events"})

    job = place.job("dead")
    assert job.error is not None and job.error.code == "DEAD_LETTERED"
    assert metric(first.getvalue(), "DeadLetters") == [1]
    assert metric(second.getvalue(), "DeadLetters") == [0]
    [age] = metric(second.getvalue(), "OldestJobAge")
    assert 0 <= age < 120


class Bench:
    """An account with all that algorithms' resources need; no container runs in it."""

    def __init__(self, emulator: AwsEmulator) -> None:
        self.workplace = Workplace.prepare(emulator)
        endpoint = f"{emulator.endpoint}/_aws/execute-api/none/prod"
        values = {
            **self.workplace.settings.values,
            "MIP_CONNECTIONS_TABLE": "mip-connections",
            "MIP_WS_ENDPOINT": endpoint,
        }
        self.engine = AwsEngine(AwsSettings.from_environment(values), self.workplace.account.clients())
        self.work = provisioner.create(self.engine)
        self.records = self.workplace.boto("dynamodb")

    def register(self, algo_id: str, **changes: Any) -> None:
        run(lambda: self.engine.registry.create(spec(algo_id, **IMAGE, **changes), actor="root"))

    def item(self, algo_id: str) -> dict[str, Any]:
        """The record as the table has it."""
        found = self.records.get_item(TableName=ALGORITHMS, Key={"algorithm_id": {"S": algo_id}})["Item"]
        return {name: next(iter(value.values())) for name, value in found.items()}

    def status(self, algo_id: str) -> str:
        record = run(lambda: self.engine.registry.get(algo_id))
        return str(record.status) if record else "gone"

    def observed(self, algo_id: str) -> Observed:
        found: Observed = run(lambda: self.engine.resources.observe(algo_id))
        return found


IMAGE = {"image_uri": f"127.0.0.1:1/nobody@sha256:{'0' * 64}"}


@pytest.fixture(scope="module")
def bench(aws_emulator: AwsEmulator) -> Bench:
    return Bench(aws_emulator)


def test_a_registered_algorithm_is_provisioned_by_its_streams_record(bench: Bench) -> None:
    bench.register("fresh")

    assert invoke(bench.work, {"Records": [stream_record(1, bench.item("fresh"))]}) == {"batchItemFailures": []}
    observed = bench.observed("fresh")
    assert observed.queue_url and observed.service and observed.log_group and observed.task_definitions


def test_a_status_that_was_written_starts_nothing(bench: Bench) -> None:
    bench.register("quiet")
    item = bench.item("quiet")

    invoke(
        bench.work,
        {"Records": [stream_record(1, {**item, "status": "FAILED"}, item), stream_record(2, None, item)]},
    )

    assert bench.observed("quiet").is_empty


def test_one_that_fails_for_good_is_on_record_counted_and_holds_up_nobody(bench: Bench) -> None:
    bench.register("good")
    bench.register("bad")
    run(lambda: _change(bench, "bad", image_uri="no-digest-and-no-ecr:latest"))
    records = [stream_record(1, bench.item("bad")), stream_record(2, bench.item("good"))]

    with redirect_stdout(io.StringIO()) as said:
        assert invoke(bench.work, {"Records": records}) == {"batchItemFailures": []}

    assert bench.status("bad") == "FAILED" and bench.observed("good").service
    assert metric(said.getvalue(), "ProvisioningFailures") == [1]


async def _change(bench: Bench, algo_id: str, **changes: Any) -> None:
    record = await bench.engine.registry.get(algo_id)
    assert record is not None
    await bench.engine.registry.update(
        AlgorithmPatch(**changes).apply_to(record.spec()),
        status=AlgorithmStatus.PENDING,
        based_on=record.revision,
        actor="root",
        action="update",
    )


def test_a_hard_delete_takes_everything_along(bench: Bench) -> None:
    bench.register("leaving")
    invoke(bench.work, {"Records": [stream_record(1, bench.item("leaving"))]})
    before = bench.item("leaving")

    async def delete() -> None:
        record = await bench.engine.registry.get("leaving")
        assert record is not None
        await bench.engine.registry.update(
            record.spec(), status=AlgorithmStatus.DELETING, based_on=record.revision, actor="root", action="delete"
        )

    run(delete)
    invoke(bench.work, {"Records": [stream_record(2, bench.item("leaving"), before)]})
    for _ in range(5):
        if bench.status("leaving") == "gone":
            break
        invoke(bench.work, {"source": "aws.events"}, left_s=120)

    assert bench.status("leaving") == "gone"
    assert bench.observed("leaving").is_empty


def test_the_sweep_repairs_what_was_removed_by_hand(bench: Bench) -> None:
    bench.register("swept")
    invoke(bench.work, {"Records": [stream_record(1, bench.item("swept"))]})
    bench.workplace.boto("logs").delete_log_group(logGroupName=naming.log_group("swept"))

    invoke(bench.work, {"source": "aws.events", "detail-type": "Scheduled Event"}, left_s=120)

    assert bench.observed("swept").log_group


def test_a_sweep_without_time_begins_nothing(bench: Bench) -> None:
    bench.register("late")

    invoke(bench.work, {"source": "aws.events"}, left_s=10)

    assert bench.observed("late").is_empty


@pytest.mark.parametrize("event", ["task", "deployment"])
def test_a_change_of_tasks_is_looked_at(bench: Bench, event: str) -> None:
    algo_id = f"of-{event}"
    bench.register(algo_id)
    of_task = {"detail-type": "ECS Task State Change", "detail": {"group": f"service:{naming.service(algo_id)}"}}
    arn = f"arn:aws:ecs:us-east-1:0:service/mip/{naming.service(algo_id)}"
    of_deployment = {"detail-type": "ECS Deployment State Change", "detail": {}, "resources": [arn]}
    told = {"source": "aws.ecs", **(of_task if event == "task" else of_deployment)}

    invoke(bench.work, told)

    assert bench.observed(algo_id).service


@pytest.mark.parametrize("group", ["family:mip-fresh", "service:pacs-api", "service:mip-", "service:mip-../x", ""])
def test_tasks_of_others_are_nobodys(bench: Bench, group: str) -> None:
    invoke(bench.work, {"source": "aws.ecs", "detail": {"group": group}, "resources": [":service/mip/other"]})


def test_what_may_pass_comes_again(bench: Bench, aws_emulator: AwsEmulator) -> None:
    bench.register("busy")
    dead = bench.workplace.account.clients(endpoint_url="http://127.0.0.1:9")
    work = provisioner.create(AwsEngine(bench.engine.settings, dead))

    with redirect_stdout(io.StringIO()):
        answer = invoke(work, {"Records": [stream_record(7, bench.item("busy"))]})
        with pytest.raises(Unavailable, match="PROVISIONING_FAILED"):
            invoke(work, {"source": "aws.ecs", "detail": {"group": f"service:{naming.service('busy')}"}})

    assert answer == {"batchItemFailures": [{"itemIdentifier": "7"}]}


def test_the_scaler_looks_at_all_that_may_be_scaled(bench: Bench) -> None:
    bench.register("scaled", min_count=0, max_count=3)
    invoke(bench.work, {"Records": [stream_record(1, bench.item("scaled"))]})

    invoke(scaler.create(bench.engine), {"source": "aws.events"})
