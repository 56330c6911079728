"""The admin and the processing Lambda: API Gateway's events in, the contract's answers out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from api_calls import IMAGE, SEED_BODY
from aws_emulator import AwsEmulator
from aws_stage import CLUSTER, AwsStage
from aws_tables import JOBS
from lambda_events import call, run
from medical_image_processing import naming
from medical_image_processing.api.limits import MAX_BODY_BYTES
from medical_image_processing.engines.aws.engine import AwsEngine
from medical_image_processing.engines.aws.settings import AwsSettings
from medical_image_processing.engines.aws.worker_counts import KNOWN_S, EcsWorkerCounts
from medical_image_processing.entrypoints.lambdas import admin, processing
from medical_image_processing.entrypoints.lambdas.runtime import LambdaHandler, adapted
from medical_image_processing.model.algorithm import AlgorithmStatus, ResourceStatus
from medical_image_processing.ports.keys import KeyRole, digest
from oidc_issuer import AUDIENCE, Issuer

ORIGIN = "https://app.example"

CHECKED_OTHERWISE = {
    "N1": "AWS does not de-identify, and says so at registration (here).",
    "N2": "The same.",
    "N3": "The same.",
    "V1": "The same.",
    "V2": "The same.",
}


class Apis:
    """Both Lambdas over one stage."""

    def __init__(self, stage: AwsStage) -> None:
        self.stage = stage
        self.admin: LambdaHandler = adapted(admin.create(stage.engine))
        self.processing: LambdaHandler = adapted(processing.create(stage.engine))
        self.key = {"x_admin_key": stage.admin_key}

    def make_active(self, algo_id: str) -> None:
        """As the provisioner would."""
        answer = call(self.admin, "POST", "/admin/algorithms", {"algo_id": algo_id, **SEED_BODY}, **self.key)
        assert answer.status in (200, 201), answer.text
        self.stage.boto("sqs").create_queue(QueueName=naming.queue(algo_id), Attributes={"FifoQueue": "true"})
        run(
            lambda: self.stage.engine.registry.set_status(
                algo_id, revision=1, status=AlgorithmStatus.ACTIVE, reason=None, resources=ResourceStatus()
            )
        )

    def client_key(self, name: str, *client_ids: str) -> dict[str, str]:
        body = {"name": name, "client_ids": list(client_ids)}
        answer = call(self.admin, "POST", "/admin/keys", body, **self.key)
        assert answer.status == 201, answer.text
        return {"x_api_key": answer.json["key"]}


@pytest.fixture(scope="module")
def apis(aws_emulator: AwsEmulator) -> Apis:
    stage = AwsStage(aws_emulator, MIP_WS_ENDPOINT=aws_emulator.endpoint, MIP_ALLOW_ORIGINS=ORIGIN)
    stage.boto("ecs").create_cluster(clusterName=CLUSTER)
    return Apis(stage)


def test_what_can_not_be_stored_is_refused_and_not_ignored(apis: Apis) -> None:
    path, body = "/admin/algorithms", {"algo_id": "storing", **SEED_BODY}
    refused = call(apis.admin, "POST", path, {**body, "store_results": True}, **apis.key)
    assert (refused.status, refused.json["error"]["code"]) == (422, "STORE_NOT_AVAILABLE")
    assert "DICOMweb" in refused.json["error"]["message"]
    apis.make_active("storing")
    refused = call(apis.admin, "PATCH", f"{path}/storing", {"store_results": True}, **apis.key)
    assert (refused.status, refused.json["error"]["code"]) == (422, "STORE_NOT_AVAILABLE")
    key = apis.client_key("storing", "storing-1")
    job = {"pacs": IMAGE, "client_id": "storing-1"}
    refused = call(apis.processing, "POST", "/process/storing", {**job, "store": True}, **key)
    assert (refused.status, refused.json["error"]["code"]) == (422, "STORE_NOT_AVAILABLE")


def test_over_a_dicomweb_server_jobs_and_records_may_ask_for_it(aws_emulator: AwsEmulator) -> None:
    stage = AwsStage(aws_emulator, MIP_WS_ENDPOINT=aws_emulator.endpoint, MIP_CAN_STORE="true")
    apis = Apis(stage)
    apis.make_active("storing")
    changed = call(apis.admin, "PATCH", "/admin/algorithms/storing", {"store_results": True}, **apis.key)
    assert changed.status == 200 and changed.json["store_results"] is True
    key = apis.client_key("storing", "storing-1")
    job = {"pacs": IMAGE, "client_id": "storing-1", "job_id": "stored-1"}
    assert call(apis.processing, "POST", "/process/storing", job, **key).status == 202
    item = stage.boto("dynamodb").get_item(TableName=JOBS, Key={"job_id": {"S": "stored-1"}})["Item"]
    assert "to_store" in item
    # The same record, after a deployment whose images are in a bucket.
    bucket = AwsSettings.from_environment({**stage.environment, "MIP_CAN_STORE": ""})
    later = adapted(processing.create(AwsEngine(bucket, stage.clients)))
    assert call(later, "POST", "/process/storing", job, **key).status in (200, 202), "a job that was accepted"
    refused = call(later, "POST", "/process/storing", {**job, "job_id": "stored-2"}, **key)
    assert (refused.status, refused.json["error"]["code"]) == (422, "STORE_NOT_AVAILABLE")
    assert call(later, "POST", "/process/storing", {**job, "job_id": "j", "store": False}, **key).status == 202


def test_a4_who_read_what_is_told_to_the_admin_alone(apis: Apis) -> None:
    images = [("1.2", "1.2.3", f"1.2.3.{number}") for number in range(3, 5)]
    run(lambda: apis.stage.engine.access_record.note("liver", images, "job-9"))
    path = "/admin/accesses"
    asked = f"{path}?study=1.2&job=job-9&limit=1"
    answer = call(apis.admin, "GET", asked, **apis.key)
    assert answer.status == 200, answer.text
    (access,) = answer.json["accesses"]
    del access["at"]
    assert access == {
        "algo_id": "liver",
        "job_id": "job-9",
        "study_uid": "1.2",
        "series_uid": "1.2.3",
        "image_uid": "1.2.3.4",
    }
    rest = call(apis.admin, "GET", f"{asked}&cursor={answer.json['next_cursor']}", **apis.key).json
    assert [one["image_uid"] for one in rest["accesses"]] == ["1.2.3.3"] and rest["next_cursor"] is None
    assert call(apis.admin, "GET", f"{path}?study=1.2").status == 401
    refused = call(apis.admin, "GET", path, **apis.key)
    assert (refused.status, refused.json["error"]["code"]) == (422, "FILTER_NEEDED")


def test_an_algorithm_is_registered_read_changed_and_listed(apis: Apis) -> None:
    body = {"algo_id": "listed", **SEED_BODY}
    made = call(apis.admin, "POST", "/admin/algorithms", body, **apis.key)
    again = call(apis.admin, "POST", "/admin/algorithms", body, **apis.key)
    changed = call(apis.admin, "PATCH", "/admin/algorithms/listed", {"memory": 4096}, **apis.key, if_match='"1"')
    stale = call(apis.admin, "PATCH", "/admin/algorithms/listed", {"memory": 8192}, **apis.key, if_match='"1"')
    listed = call(apis.admin, "GET", "/admin/algorithms?limit=100", **apis.key)

    assert (made.status, again.status, changed.status, stale.status) == (201, 200, 200, 412)
    assert made.json["status"] == "PENDING" and made.headers["etag"] == '"1"'
    assert changed.json["revision"] == 2
    assert "listed" in [record["algorithm_id"] for record in listed.json["algorithms"]]


def test_a4_no_algorithm_is_called_as_who_reads_with_the_operators_key(apis: Apis) -> None:
    answer = call(apis.admin, "POST", "/admin/algorithms", {"algo_id": "operator", **SEED_BODY}, **apis.key)
    assert (answer.status, answer.code) == (422, "RESERVED_NAME")
    assert call(apis.admin, "GET", "/admin/algorithms/operator", **apis.key).status == 404


def test_an_algorithm_that_may_not_know_the_patient_is_refused(apis: Apis) -> None:
    body = {"algo_id": "unknowing", **SEED_BODY, "deidentify": True}
    answer = call(apis.admin, "POST", "/admin/algorithms", body, **apis.key)
    assert (answer.status, answer.code) == (422, "DEIDENTIFY_UNSUPPORTED")
    assert call(apis.admin, "GET", "/admin/algorithms/unknowing", **apis.key).status == 404
    call(apis.admin, "POST", "/admin/algorithms", {"algo_id": "knowing", **SEED_BODY}, **apis.key)
    changed = call(apis.admin, "PATCH", "/admin/algorithms/knowing", {"deidentify": True}, **apis.key)
    assert (changed.status, changed.code) == (409, "DEIDENTIFY_FIXED")


def test_each_lambda_has_its_own_routes_only(apis: Apis) -> None:
    assert call(apis.admin, "POST", "/provision", {}).status == 404
    assert call(apis.processing, "GET", "/admin/algorithms", **apis.key).code == "NO_SUCH_ROUTE"
    assert call(apis.processing, "GET", "/health").json["status"] == "ok"


@pytest.mark.parametrize("key", [None, "wrong", "dev-admin"])
def test_without_the_admin_key_nothing_is_told(apis: Apis, key: str | None) -> None:
    headers = {} if key is None else {"x_admin_key": key}

    answer = call(apis.admin, "GET", "/admin/algorithms", **headers)

    assert (answer.status, answer.code) == (401, "ADMIN_KEY_REQUIRED")


def test_a_job_is_taken_in_once_and_only_its_owner_sees_it(apis: Apis) -> None:
    apis.make_active("algo_a")
    owner, other = apis.client_key("owner", "ward-1"), apis.client_key("other", "ward-2")
    body = {"job_id": "job-a1", "client_id": "ward-1", "pacs": IMAGE}

    accepted = call(apis.processing, "POST", "/process/algo_a", body, **owner)
    again = call(apis.processing, "POST", "/process/algo_a", body, **owner)
    changed = call(apis.processing, "POST", "/process/algo_a", {**body, "parameters": {"a": 1}}, **owner)
    foreign = call(apis.processing, "POST", "/process/algo_a", {**body, "job_id": "job-a2"}, **other)

    assert (accepted.status, again.status) == (202, 202)
    assert accepted.json == again.json
    assert set(accepted.json) == {"message", "job_id", "client_id", "status", "sqs_message_id"}
    assert (changed.status, changed.code) == (409, "JOB_ID_TAKEN")
    assert (foreign.status, foreign.code) == (403, "NOT_YOUR_CLIENT_ID")
    assert call(apis.processing, "GET", "/jobs/job-a1", **owner).json["status"] == "QUEUED"
    assert call(apis.processing, "GET", "/jobs/job-a1", **other).status == 404
    assert call(apis.processing, "GET", "/jobs/job-a1").status == 401
    sent = apis.stage.boto("sqs").receive_message(
        QueueUrl=apis.stage.engine.queues.url(naming.queue("algo_a")), MaxNumberOfMessages=10
    )
    assert [json.loads(message["Body"])["job_id"] for message in sent["Messages"]] == ["job-a1"]


def test_b9_a_job_that_waits_is_cancelled_by_its_owner_alone(apis: Apis) -> None:
    apis.make_active("algo_q")
    owner, other = apis.client_key("canceller", "ward-5"), apis.client_key("bystander", "ward-6")
    body = {"job_id": "job-q1", "client_id": "ward-5", "pacs": IMAGE}
    assert call(apis.processing, "POST", "/process/algo_q", body, **owner).status == 202

    foreign = call(apis.processing, "POST", "/jobs/job-q1/cancel", **other)
    before = call(apis.processing, "GET", "/jobs/job-q1", **owner).json["status"]
    first, again = (call(apis.processing, "POST", "/jobs/job-q1/cancel", **owner) for _ in range(2))

    assert (foreign.status, foreign.code, before) == (404, "UNKNOWN_JOB", "QUEUED")
    assert (first.status, again.status, first.json["status"]) == (200, 200, "CANCELLED")
    assert first.json == again.json


def test_a_client_sees_the_algorithms_and_how_busy_they_are(apis: Apis) -> None:
    apis.make_active("algo_l")
    key = apis.client_key("looker", "ward-7")
    about = {
        "description": "Looks",
        "parameters": {"type": "object", "properties": {"level": {"type": "integer"}}},
    }
    assert call(apis.admin, "PATCH", "/admin/algorithms/algo_l", about, **apis.key).status == 200
    ecs = apis.stage.boto("ecs")
    family = naming.service("algo_l")
    ecs.register_task_definition(
        family=family, containerDefinitions=[{"name": "worker", "image": "x", "memory": 64}]
    )
    ecs.create_service(cluster=CLUSTER, serviceName=family, taskDefinition=family, desiredCount=0)
    wrong = {"pacs": IMAGE, "client_id": "ward-7", "parameters": {"level": "x"}}
    refused = call(apis.processing, "POST", "/process/algo_l", wrong, **key)
    body = {"pacs": IMAGE, "client_id": "ward-7", "parameters": {"level": 1}}
    assert call(apis.processing, "POST", "/process/algo_l", body, **key).status == 202

    # Another instance of the Lambda: this one knows a depth for five seconds.
    other = adapted(processing.create(AwsEngine(apis.stage.engine.settings, apis.stage.clients)))
    listed = call(other, "GET", "/algorithms", **key)

    assert (refused.status, refused.code) == (422, "INVALID_PARAMETERS")
    [found] = [one for one in listed.json["algorithms"] if one["algo_id"] == "algo_l"]
    assert found == {
        **about,
        "algo_id": "algo_l",
        "status": "ACTIVE",
        "takes_jobs": True,
        "outputs": ["SC"],
        "queue_depth": 1,
        "workers": 0,
    }
    assert call(apis.processing, "GET", "/algorithms").status == 401


def test_how_many_workers_there_are_is_asked_of_ecs_once_in_ten_seconds_however_many_look(
    aws_emulator: AwsEmulator,
) -> None:
    stage, now = AwsStage(aws_emulator), [0.0]
    ecs = stage.boto("ecs")
    ecs.create_cluster(clusterName=CLUSTER)
    family = naming.service("algo_l")
    ecs.register_task_definition(
        family=family, containerDefinitions=[{"name": "worker", "image": "x", "memory": 64}]
    )
    counts = EcsWorkerCounts(stage.clients, CLUSTER, clock=lambda: now[0])

    def look(*algo_ids: str) -> dict[str, int]:
        return asyncio.run(counts.worker_counts(algo_ids))

    assert look("algo_l") == look() == {}
    ecs.create_service(cluster=CLUSTER, serviceName=family, taskDefinition=family, desiredCount=0)
    assert look("algo_l", "nobody") == {}, "known for ten seconds"
    now[0] += KNOWN_S
    assert look("algo_l", "nobody") == {"algo_l": 0}
    others = [f"other-{number}" for number in range(11)]
    assert look(*others, "algo_l") == {"algo_l": 0}, "more than one call takes"


def test_an_admin_sees_how_an_algorithm_does(apis: Apis) -> None:
    apis.make_active("algo_s")
    body = {"pacs": IMAGE, "client_id": "ward-8", "job_id": "job-s1"}
    key = apis.client_key("stats", "ward-8")
    for job_id in ("job-s1", "job-s2"):
        assert call(apis.processing, "POST", "/process/algo_s", {**body, "job_id": job_id}, **key).status == 202
    assert call(apis.processing, "POST", "/jobs/job-s1/cancel", **key).status == 200

    found = call(apis.admin, "GET", "/admin/algorithms/algo_s/statistics?hours=2", **apis.key)

    assert found.status == 200, found.text
    assert (found.json["waiting"], found.json["running"], found.json["workers"]) == (1, 0, 0)
    assert sum(bucket["cancelled"] for bucket in found.json["buckets"]) == 1
    assert found.json["durations"] is None and found.json["oldest_wait_s"] >= 0


def test_jobs_are_listed_page_by_page(apis: Apis) -> None:
    apis.make_active("algo_b")
    key = apis.client_key("pages", "ward-9")
    for number in range(5):
        body = {"job_id": f"job-b{number}", "client_id": "ward-9", "pacs": IMAGE}
        assert call(apis.processing, "POST", "/process/algo_b", body, **key).status == 202

    found: list[str] = []
    cursor = ""
    while True:
        page = call(apis.processing, "GET", f"/jobs?limit=2{cursor}", **key).json
        found += [job["job_id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor'].replace('#', '%23')}"

    assert found == [f"job-b{number}" for number in reversed(range(5))]


def test_a_key_gets_a_client_id_that_nobody_can_guess(apis: Apis) -> None:
    apis.make_active("algo_c")
    key = apis.client_key("fresh")

    made = call(apis.processing, "POST", "/provision", {}, **key).json["client_id"]
    body = {"client_id": made, "pacs": IMAGE}

    assert len(made) > 25
    assert call(apis.processing, "POST", "/process/algo_c", body, **key).status == 202


def test_what_is_refused_is_told_in_the_contracts_shape(apis: Apis) -> None:
    key = apis.client_key("refused")

    def post(body: Any, algo_id: str = "none") -> tuple[int, str]:
        answer = call(apis.processing, "POST", f"/process/{algo_id}", body, **key)
        return answer.status, answer.code

    assert post({"pacs": IMAGE}) == (404, "UNKNOWN_ALGORITHM")
    assert post('{"pacs": ') == (400, "INVALID_JSON")
    assert post({"pacs": {}}) == (422, "INVALID_REQUEST")
    assert post(json.dumps({"pacs": IMAGE, "x": "y" * MAX_BODY_BYTES})) == (413, "BODY_TOO_LARGE")


def test_pages_of_the_allowed_origin_may_call(apis: Apis) -> None:
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization,x-api-key"}
    allowed = call(apis.processing, "OPTIONS", "/provision", origin=ORIGIN, **asked)
    other = call(apis.processing, "OPTIONS", "/provision", origin="https://evil.example", **asked)

    assert allowed.status == 200 and allowed.headers["access-control-allow-origin"] == ORIGIN
    assert other.status == 400 and "access-control-allow-origin" not in other.headers


def test_the_admin_key_is_rotated_without_shutting_anybody_out(aws_emulator: AwsEmulator) -> None:
    stage = AwsStage(aws_emulator, MIP_WS_ENDPOINT=aws_emulator.endpoint)
    secrets, handler = stage.boto("secretsmanager"), adapted(admin.create(stage.engine))

    def opens(handler: LambdaHandler, key: str) -> bool:
        return call(handler, "GET", "/admin/algorithms", x_admin_key=key).status == 200

    assert opens(handler, stage.admin_key)
    for key in ("second-key-of-the-root", "third-key-of-the-root"):
        secrets.put_secret_value(SecretId="admin", SecretString=key)
    later = adapted(admin.create(AwsEngine(stage.engine.settings, stage.clients)))

    assert opens(later, "third-key-of-the-root") and opens(later, "second-key-of-the-root")
    assert not opens(later, stage.admin_key)


@pytest.mark.parametrize("key", ["dev-admin", "devkey"])
def test_a_key_that_documents_print_opens_nothing_even_as_the_secret(aws_emulator: AwsEmulator, key: str) -> None:
    stage = AwsStage(aws_emulator, MIP_WS_ENDPOINT=aws_emulator.endpoint)
    stage.boto("secretsmanager").put_secret_value(SecretId="admin", SecretString=key)

    assert call(adapted(admin.create(stage.engine)), "GET", "/admin/keys", x_admin_key=key).status == 401


def test_a_secret_that_can_not_be_read_is_a_503_and_no_wrong_key(aws_emulator: AwsEmulator) -> None:
    stage = AwsStage(aws_emulator, MIP_WS_ENDPOINT=aws_emulator.endpoint)
    stage.boto("secretsmanager").delete_secret(SecretId="admin", ForceDeleteWithoutRecovery=True)

    answer = call(adapted(admin.create(stage.engine)), "GET", "/admin/keys", x_admin_key=stage.admin_key)

    assert (answer.status, answer.code) == (503, "SECRET_UNREADABLE")
    assert stage.admin_key not in answer.text


def test_what_aws_refuses_the_platform_is_no_fault_of_the_callers(aws_emulator: AwsEmulator) -> None:
    stage = AwsStage(aws_emulator, MIP_WS_ENDPOINT=aws_emulator.endpoint, MIP_ALGORITHMS_TABLE="none")

    answer = call(adapted(admin.create(stage.engine)), "GET", "/admin/algorithms", x_admin_key=stage.admin_key)

    assert (answer.status, answer.code) == (500, "AWS_REFUSED")


def test_keys_of_admins_open_the_admin_api_too(apis: Apis) -> None:
    body = {"name": "second-admin", "role": KeyRole.ADMIN}
    key = call(apis.admin, "POST", "/admin/keys", body, **apis.key).json["key"]

    assert call(apis.admin, "GET", "/admin/keys", x_admin_key=key).status == 200
    assert call(apis.admin, "DELETE", "/admin/keys/second-admin", **apis.key).status == 204
    assert call(apis.admin, "GET", "/admin/keys", x_admin_key=key).status == 401
    assert run(lambda: apis.stage.engine.keys.find(digest(key))) is None


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture(scope="module")
def with_oidc(aws_emulator: AwsEmulator, issuer: Issuer) -> Apis:
    environment = {
        "MIP_WS_ENDPOINT": aws_emulator.endpoint,
        "MIP_CLIENTS": "oidc",
        "MIP_OIDC_ISSUER": issuer.address,
        "MIP_OIDC_AUDIENCE": AUDIENCE,
    }
    apis = Apis(AwsStage(aws_emulator, **environment))
    apis.make_active("algo_o")
    return apis


def test_a_token_opens_its_own_and_its_claimed_client_ids(with_oidc: Apis, issuer: Issuer) -> None:
    bearer = {"authorization": f"Bearer {issuer.token(client_ids=['ward-5'])}"}

    own = call(with_oidc.processing, "POST", "/provision", {}, **bearer).json["client_id"]
    unnamed = call(with_oidc.processing, "POST", "/process/algo_o", {"pacs": IMAGE}, **bearer)
    claimed = {"client_id": "ward-5", "pacs": IMAGE}
    foreign = {"client_id": "ward-6", "pacs": IMAGE}

    assert unnamed.json["client_id"] == own
    assert call(with_oidc.processing, "POST", "/process/algo_o", claimed, **bearer).status == 202
    assert call(with_oidc.processing, "POST", "/process/algo_o", foreign, **bearer).status == 403
    assert len(call(with_oidc.processing, "GET", "/jobs", **bearer).json["jobs"]) == 2


def test_keys_and_strangers_open_nothing(with_oidc: Apis, issuer: Issuer) -> None:
    key = with_oidc.client_key("keyed")
    wrong = {"authorization": f"Bearer {issuer.token(aud='another')}"}

    for headers in ({}, key, wrong, {"authorization": "Basic eDp5"}):
        answer = call(with_oidc.processing, "POST", "/provision", {}, **headers)
        assert (answer.status, answer.code) == (401, "CLIENT_TOKEN_REQUIRED")


def test_open_clients_need_no_key(aws_emulator: AwsEmulator) -> None:
    stage = AwsStage(aws_emulator, MIP_CLIENTS="open", MIP_WS_ENDPOINT=aws_emulator.endpoint)

    assert call(adapted(processing.create(stage.engine)), "POST", "/provision", {}).status == 200
