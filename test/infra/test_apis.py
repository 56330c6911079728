"""The REST and the WebSocket API, the Lambdas, what wakes them and what watches them, in the template."""

from __future__ import annotations

import json

import pytest
from infra_template import Template, text_of
from stack.lambdas import ENVIRONMENT, LAMBDAS

from medical_image_processing.engines.aws.settings import AwsSettings

OUTPUTS = {
    "AdminKeySecretArn",
    "AlarmTopicArn",
    "AlgoTableName",
    "OutputBucketName",
    "PacsApiBase",
    "PacsApiEndpoint",
    "PacsKeySecretArn",
    "ProcessingApiEndpoint",
    "ResultsQueueUrl",
    "WebSocketEndpoint",
}
SCHEDULES = {"Provisioner": "rate(5 minutes)", "DeadLetters": "rate(1 minute)", "Scaler": "rate(1 minute)"}


def stages(template: Template) -> list[tuple[dict, dict]]:
    """Each stage with its throttle and access log, of both APIs."""
    [rest] = template.of_type("ApiGateway::Stage").values()
    [websocket] = template.of_type("ApiGatewayV2::Stage").values()
    [everything] = rest["MethodSettings"]
    assert (everything["ResourcePath"], everything["HttpMethod"]) == ("/*", "*")
    return [
        (rest, {**everything, **rest["AccessLogSetting"]}),
        (
            websocket,
            {
                **websocket["DefaultRouteSettings"],
                "DestinationArn": websocket["AccessLogSettings"]["DestinationArn"],
                "Format": websocket["AccessLogSettings"]["Format"],
            },
        ),
    ]


def test_both_apis_are_throttled_and_logged_without_ids_and_keys(each: Template) -> None:
    for stage, settings in stages(each):
        assert stage["StageName"] == "prod"
        assert 0 < settings["ThrottlingRateLimit"] <= settings["ThrottlingBurstLimit"]
        assert settings["DestinationArn"]
        line = json.loads(settings["Format"])
        assert {"requestId", "ip", "route", "status"} <= set(line)
        for told in line.values():
            assert not told.startswith(("$context.path", "$context.request.", "$context.requestOverride"))
            assert told not in ("$context.identity.apiKey", "$context.identity.userAgent")
        assert settings.get("LoggingLevel", "OFF") == "OFF"
        assert settings.get("DataTraceEnabled", False) is False


def routes(template: Template) -> dict[str, dict]:
    resources = template.of_type("ApiGateway::Resource")

    def path(reference: dict) -> str:
        found = resources.get(reference.get("Ref", ""))
        return f"{path(found['ParentId'])}/{found['PathPart']}" if found else ""

    methods = template.of_type("ApiGateway::Method").values()
    return {f"{m['HttpMethod']} {path(m['ResourceId']) or '/'}": m for m in methods}


def test_each_lambda_serves_its_own_routes(each: Template) -> None:
    found = {route: method for route, method in routes(each).items() if not route.startswith("OPTIONS ")}
    behind = {route: text_of(method["Integration"]["Uri"]) for route, method in found.items()}
    assert {route for route, uri in behind.items() if "AdminFn" in uri} == {"ANY /admin/{proxy+}"}
    assert {route for route, uri in behind.items() if "ProcessingFn" in uri} == {
        "GET /algorithms",
        "GET /health",
        "GET /jobs",
        "ANY /jobs/{proxy+}",
        "POST /process/{algo_id}",
        "POST /provision",
    }
    for method in ("GET", "POST"):
        pacs = found[f"{method} /pacs/{{proxy+}}"]["Integration"]
        assert (pacs["Type"], pacs["ConnectionType"]) == ("HTTP_PROXY", "VPC_LINK")
        assert text_of(pacs["Uri"]).endswith(":8080/{proxy}")


def test_the_pacs_api_is_told_where_clients_find_it_and_images_pass_as_they_are(
    each: Template, migration: Template
) -> None:
    for template in (each, migration):
        [(api, settings)] = template.of_type("ApiGateway::RestApi").items()
        assert settings["BinaryMediaTypes"] == ["application/dicom", "image/png"]
        found = routes(template)
        assert found["POST /pacs/{proxy+}"]["Integration"] == found["GET /pacs/{proxy+}"]["Integration"]
        told = found["GET /pacs/{proxy+}"]["Integration"]["RequestParameters"]
        assert text_of(told["integration.request.header.X-Pacs-Base"]) == (
            f"'https://${{{api}}}.execute-api.${{AWS::Region}}.${{AWS::URLSuffix}}/prod/pacs'"
        )
    pacs = routes(migration)["GET /pacs/{proxy+}"]["Integration"]
    assert (pacs["ConnectionType"], pacs["Uri"]) == ("INTERNET", "http://pacs.example.org:8081/api/{proxy}")


def test_pages_of_the_client_may_call(real: Template, oidc: Template) -> None:
    for template, origin in ((real, "http://localhost:3000"), (oidc, "https://viewer.example.org")):
        preflights = [m for route, m in routes(template).items() if route.startswith("OPTIONS ")]
        assert len(preflights) >= 8
        for method in preflights:
            [answer] = method["Integration"]["IntegrationResponses"]
            headers = answer["ResponseParameters"]
            assert headers["method.response.header.Access-Control-Allow-Origin"] == f"'{origin}'"
            assert "x-admin-key" in headers["method.response.header.Access-Control-Allow-Headers"]
            assert "content-type" in headers["method.response.header.Access-Control-Allow-Headers"]
            assert "POST" in headers["method.response.header.Access-Control-Allow-Methods"]


def test_what_the_gateway_refuses_has_the_platforms_shape(each: Template) -> None:
    answers = each.of_type("ApiGateway::GatewayResponse").values()
    assert {a["ResponseType"] for a in answers} == {"DEFAULT_4XX", "DEFAULT_5XX"}
    for answer in answers:
        body = answer["ResponseTemplates"]["application/json"]
        told = json.loads(body.replace("$context.error.messageString", '"said"'))
        assert set(told["error"]) == {"code", "message"}


def test_jobs_that_are_no_json_are_refused_by_the_gateway(each: Template) -> None:
    [validator] = each.of_type("ApiGateway::RequestValidator").values()
    assert validator["ValidateRequestBody"] is True
    assert "RequestValidatorId" in routes(each)["POST /process/{algo_id}"]


def test_a_websocket_has_three_routes(each: Template) -> None:
    found = each.of_type("ApiGatewayV2::Route").values()
    assert {route["RouteKey"] for route in found} == {"$connect", "$disconnect", "$default"}
    integrations = each.of_type("ApiGatewayV2::Integration")
    behind = {
        route["RouteKey"]: text_of(integrations[route["Target"]["Fn::Join"][1][1]["Ref"]]["IntegrationUri"])
        for route in found
    }
    assert "ConnectFn" in behind["$connect"]
    assert "DisconnectFn" in behind["$disconnect"]
    assert "MessageFn" in behind["$default"]


def test_a_bucket_that_was_given_is_not_offered_to_put_images_into(real: Template, oidc: Template) -> None:
    assert "BucketsImages" in text_of(real.outputs["PacsBucketName"]["Value"])
    assert "PacsBucketName" not in oidc.outputs


def test_the_outputs_are_what_the_scripts_read(each: Template, on_emulator: Template) -> None:
    assert set(each.outputs) - {"PacsBucketName"} == OUTPUTS
    assert set(on_emulator.outputs) == OUTPUTS
    assert text_of(each.outputs["WebSocketEndpoint"]["Value"]).endswith("/prod")


@pytest.mark.parametrize("name", list(LAMBDAS))
def test_a_lambda_is_told_what_it_needs_and_no_more(real: Template, oidc: Template, name: str) -> None:
    told = set(oidc.function(name)["Environment"]["Variables"])
    assert told == set(ENVIRONMENT[name])
    known = {s.variable for s in vars(AwsSettings).values() if hasattr(s, "variable")}
    assert told <= known
    assert set(real.function(name)["Environment"]["Variables"]) == {
        v for v in told if not v.startswith("MIP_OIDC_")
    }


def test_who_may_call_is_what_was_chosen(real: Template, oidc: Template, open_clients: Template) -> None:
    for template, mode in ((real, "keys"), (oidc, "oidc"), (open_clients, "open")):
        for name in ("Processing", "Connect"):
            assert template.function(name)["Environment"]["Variables"]["MIP_CLIENTS"] == mode
    variables = oidc.function("Processing")["Environment"]["Variables"]
    assert variables["MIP_OIDC_ISSUER"] == "https://login.example.org/realm"
    assert variables["MIP_OIDC_AUDIENCE"] == "mip"


def test_lambdas_run_one_zip_on_the_locked_python_within_bounds(each: Template) -> None:
    functions = each.of_type("Lambda::Function")
    assert len(functions) == 9, "none but ours: no custom resource"
    assert len({json.dumps(f["Code"]) for f in functions.values()}) == 1
    for function in functions.values():
        assert function["Runtime"] == "python3.11"
        assert function["Architectures"] == ["x86_64"]
        assert function["Handler"].startswith("medical_image_processing.entrypoints.lambdas.")
        assert function["Timeout"] <= 300
        assert "LambdaInsightsExtension" in str(each.raw["Mappings"])
        [layer] = function["Layers"]
        assert "Fn::FindInMap" in layer
    for name in ("DeadLetters", "Scaler"):
        assert each.function(name)["Timeout"] < 60
    for name in ("Admin", "Processing", "Connect", "Disconnect", "Message"):
        assert each.function(name)["Timeout"] <= 29, "API Gateway waits no longer"


def test_what_runs_each_minute_has_its_place_unless_the_account_has_none_to_give(
    real: Template, open_clients: Template
) -> None:
    """New accounts may run ten Lambdas at once, of which AWS lets none be reserved."""

    def reserved(template: Template) -> dict[str, int]:
        found = template.of_type("Lambda::Function").values()
        return {f["FunctionName"]: f.get("ReservedConcurrentExecutions", 0) for f in found}

    assert {name: n for name, n in reserved(real).items() if n} == {
        "ImgPipeline-DeadLettersFn": 1,
        "ImgPipeline-ScalerFn": 1,
    }
    assert not any(reserved(open_clients).values())


def test_no_trace_tells_paths(each: Template) -> None:
    [stage] = each.of_type("ApiGateway::Stage").values()
    assert stage.get("TracingEnabled", False) is False, "X-Ray keeps addresses, with ids of studies"


def test_every_log_group_forgets(each: Template, open_clients: Template) -> None:
    groups = each.of_type("Logs::LogGroup")
    for group in groups.values():
        assert group["RetentionInDays"] in (90, 30)
    named = {group["LogGroupName"] for group in groups.values() if "LogGroupName" in group}
    assert named >= {f"/aws/lambda/ImgPipeline-{name}Fn" for name in LAMBDAS} | {"/ecs/pacs-api"}
    for name in LAMBDAS:
        assert "LoggingConfig" in each.function(name), "so that no group is made that forgets nothing"
    assert {g["RetentionInDays"] for g in open_clients.of_type("Logs::LogGroup").values()} == {30}


def test_insights_share_a_log_group_where_the_account_has_one(real: Template, open_clients: Template) -> None:
    def has_group(template: Template) -> bool:
        return "/aws/lambda-insights" in {
            group.get("LogGroupName") for group in template.of_type("Logs::LogGroup").values()
        }

    assert has_group(real)
    assert not has_group(open_clients)


def mappings(template: Template) -> dict[str, dict]:
    found = template.of_type("Lambda::EventSourceMapping").values()
    return {next(n for n in LAMBDAS if f"{n}Fn" in text_of(m["FunctionName"])): m for m in found}


def test_a_record_that_fails_is_tried_again_alone_and_then_kept(each: Template) -> None:
    stream = mappings(each)["Provisioner"]
    assert stream["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert stream["BisectBatchOnFunctionError"] is True
    assert 0 < stream["MaximumRetryAttempts"] <= 10
    assert "FailedEvents" in text_of(stream["DestinationConfig"]["OnFailure"]["Destination"])
    results = mappings(each)["Delivery"]
    assert results["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert "QueuesResults" in text_of(results["EventSourceArn"])


def test_what_runs_by_the_clock(each: Template) -> None:
    found = {}
    for rule in each.of_type("Events::Rule").values():
        [target] = rule["Targets"]
        name = next(n for n in LAMBDAS if f"{n}Fn" in text_of(target["Arn"]))
        if "ScheduleExpression" in rule:
            found[name] = rule["ScheduleExpression"]
    assert found == SCHEDULES


def test_the_provisioner_hears_of_our_clusters_tasks_and_deployments(each: Template) -> None:
    patterns = [rule["EventPattern"] for rule in each.of_type("Events::Rule").values() if "EventPattern" in rule]
    by_type = {pattern["detail-type"][0]: pattern for pattern in patterns}
    assert set(by_type) == {"ECS Task State Change", "ECS Deployment State Change"}
    assert "Cluster" in str(by_type["ECS Task State Change"]["detail"]["clusterArn"])
    [services] = by_type["ECS Deployment State Change"]["resources"]
    assert text_of(services["prefix"]).endswith("/")


def alarms(template: Template) -> dict[str, dict]:
    return {a["AlarmName"].removeprefix("ImgPipeline-"): a for a in template.of_type("CloudWatch::Alarm").values()}


def test_what_people_are_woken_for(each: Template) -> None:
    found = alarms(each)
    assert set(found) == {
        "DeadLetters",
        "FailedEvents",
        "OldestJobAge",
        "OldestResult",
        "ProvisioningFailures",
        "PushFailures",
        "ResultsDeadLetters",
        *(f"{name}Errors" for name in LAMBDAS),
    }
    [topic] = each.of_type("SNS::Topic")
    for alarm in found.values():
        assert alarm["AlarmActions"] == [{"Ref": topic}]
        assert alarm["AlarmDescription"]
        assert alarm["TreatMissingData"] == "notBreaching"
    for name in ("DeadLetters", "OldestJobAge", "ProvisioningFailures", "PushFailures"):
        assert (found[name]["Namespace"], found[name]["MetricName"]) == ("Mip", name)
        assert "Dimensions" not in found[name]


def test_alarms_are_of_the_metrics_that_lambdas_emit(each: Template) -> None:
    from medical_image_processing.entrypoints.lambdas import metrics

    emitted = {metrics.DEAD_LETTERS, metrics.OLDEST_JOB_AGE, metrics.PROVISIONING_FAILURES, metrics.PUSH_FAILURES}
    ours = {a["MetricName"] for a in alarms(each).values() if a["Namespace"] == metrics.METRICS_NAMESPACE}
    assert ours == emitted


def test_alarms_reach_the_topic_over_tls(each: Template) -> None:
    statements = [s for found in each.policies_of("SNS::TopicPolicy", "Topics").values() for s in found]
    allowed = [s for s in statements if s.allows]
    assert [s.raw["Principal"] for s in allowed] == [{"Service": "cloudwatch.amazonaws.com"}]
    assert any(s.condition == {"Bool": {"aws:SecureTransport": "false"}} for s in statements if not s.allows)


def test_the_dashboard_finds_queues_that_are_made_later(each: Template) -> None:
    [dashboard] = each.of_type("CloudWatch::Dashboard").values()
    body = text_of(dashboard["DashboardBody"])
    assert body.count("SEARCH(") == 4
    assert "ApproximateAgeOfOldestMessage" in body
