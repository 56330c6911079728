"""The workers' network, the cluster and the PACS API's service, in the synthesized template."""

from __future__ import annotations

from infra_template import Template, text_of

from aws_stack import ROOT

REJECTED_BY_EMULATORS = {
    "ApiGateway::VpcLink",
    "ECS::ClusterCapacityProviderAssociations",
    "EC2::FlowLog",
}


def routes_to_the_internet(template: Template) -> list[dict]:
    routes = template.of_type("EC2::Route").values()
    return [route for route in routes if "GatewayId" in route or "NatGatewayId" in route]


def test_workers_have_no_way_to_the_internet(real: Template, open_clients: Template) -> None:
    for template in (real, open_clients):
        assert not template.of_type("EC2::InternetGateway")
        assert not template.of_type("EC2::NatGateway")
        assert not template.of_type("EC2::Route")
        assert len(template.of_type("EC2::Subnet")) == 2
        for subnet in template.of_type("EC2::Subnet").values():
            assert subnet["MapPublicIpOnLaunch"] is False


def test_a_nat_comes_only_where_it_is_asked_for(oidc: Template) -> None:
    assert len(oidc.of_type("EC2::NatGateway")) == 1
    assert len(oidc.of_type("EC2::EIP")) == 1
    assert routes_to_the_internet(oidc)


def test_workers_find_what_they_need_by_endpoints(each: Template) -> None:
    endpoints = list(each.of_type("EC2::VPCEndpoint").values())
    gateways = {
        text_of(e["ServiceName"]).rpartition(".")[2] for e in endpoints if e["VpcEndpointType"] == "Gateway"
    }
    interfaces = {
        text_of(e["ServiceName"]).partition("${AWS::Region}.")[2]
        for e in endpoints
        if e["VpcEndpointType"] == "Interface"
    }
    assert gateways == {"s3", "dynamodb"}
    assert interfaces == {"ecr.api", "ecr.dkr", "logs", "sqs", "ssm", "secretsmanager"}
    for endpoint in endpoints:
        if endpoint["VpcEndpointType"] == "Interface":
            assert endpoint["PrivateDnsEnabled"] is True
            [statement] = endpoint["PolicyDocument"]["Statement"]
            assert statement["Condition"] == {"StringEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}}


def test_the_way_to_s3_leads_to_the_platforms_buckets_only(each: Template) -> None:
    [gateway] = [e for e in each.of_type("EC2::VPCEndpoint").values() if text_of(e["ServiceName"]).endswith(".s3")]
    statements = gateway["PolicyDocument"]["Statement"]
    by_sid = {s["Sid"]: s for s in statements}
    assert by_sid["WriteOutput"]["Action"] == ["s3:PutObject", "s3:AbortMultipartUpload"]
    assert text_of(by_sid["PullImageLayers"]["Resource"]) == (
        "arn:${AWS::Partition}:s3:::prod-${AWS::Region}-starport-layer-bucket/*"
    )
    assert not [s for s in statements if text_of(s["Resource"]) == "*"]


def test_nobody_may_call_workers_and_workers_call_endpoints_and_the_pacs(each: Template) -> None:
    groups = each.of_type("EC2::SecurityGroup")
    workers = next(g for name, g in groups.items() if "WorkersGroup" in name)
    assert "SecurityGroupIngress" not in workers
    assert sorted((r["CidrIp"], r["FromPort"], r["ToPort"]) for r in workers["SecurityGroupEgress"]) == [
        ("0.0.0.0/0", 443, 443),
        ("10.73.0.0/16", 8080, 8080),
    ]
    for group in groups.values():
        for rule in group.get("SecurityGroupIngress", ()):
            assert rule["CidrIp"] == "10.73.0.0/16"
    assert not each.of_type("EC2::SecurityGroupIngress")


def test_rejected_traffic_is_on_record(each: Template) -> None:
    [log] = each.of_type("EC2::FlowLog").values()
    assert log["TrafficType"] == "REJECT"


def test_the_cluster_reports_to_container_insights(each: Template) -> None:
    [cluster] = each.of_type("ECS::Cluster").values()
    assert cluster["ClusterSettings"] == [{"Name": "containerInsights", "Value": "enabled"}]


def test_the_pacs_api_runs_confined_where_only_the_vpc_reaches_it(each: Template) -> None:
    [service] = each.of_type("ECS::Service").values()
    network = service["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert network["AssignPublicIp"] == "DISABLED"
    assert service["DeploymentConfiguration"]["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert not service["ServiceName"].startswith("mip-"), "the provisioner may remove services of that name"
    [task] = each.of_type("ECS::TaskDefinition").values()
    [container] = task["ContainerDefinitions"]
    assert (container["ReadonlyRootFilesystem"], container["User"]) == (True, "10001")
    assert text_of(container["Image"]).endswith("/mip-pacs:latest")
    assert "MIP_PACS_OPERATOR_KEY" in {secret["Name"] for secret in container["Secrets"]}
    [balancer] = each.of_type("ElasticLoadBalancingV2::LoadBalancer").values()
    assert (balancer["Scheme"], balancer["Type"]) == ("internal", "network")


def pacs_environment(template: Template) -> dict[str, str]:
    [task] = template.of_type("ECS::TaskDefinition").values()
    return {pair["Name"]: text_of(pair["Value"]) for pair in task["ContainerDefinitions"][0]["Environment"]}


def test_images_come_from_the_place_that_was_given(real: Template, oidc: Template, open_clients: Template) -> None:
    assert "BucketsImages" in pacs_environment(real)["MIP_PACS_BUCKET"]
    assert pacs_environment(oidc)["MIP_PACS_BUCKET"] == "dicom-of-the-hospital"
    environment = pacs_environment(open_clients)
    assert "MIP_PACS_BUCKET" not in environment
    assert environment["MIP_DICOMWEB_URL"] == "http://pacs.example.org:8042/dicom-web"
    [task] = open_clients.of_type("ECS::TaskDefinition").values()
    assert "MIP_DICOMWEB_AUTHORIZATION" in {s["Name"] for s in task["ContainerDefinitions"][0]["Secrets"]}


def test_the_pacs_api_may_call_its_dicomweb_server_and_workers_may_not(
    real: Template, open_clients: Template
) -> None:
    def called(template: Template, group: str) -> set[int]:
        found = next(g for name, g in template.of_type("EC2::SecurityGroup").items() if group in name)
        return {rule["FromPort"] for rule in found["SecurityGroupEgress"]}

    assert called(open_clients, "PacsGroup") == {443, 8042}
    assert called(real, "PacsGroup") == {443}
    assert called(open_clients, "WorkersGroup") == {443, 8080}


def test_workers_reach_a_pacs_api_that_was_given_and_the_buckets_its_links_lead_to(
    migration: Template, real: Template
) -> None:
    assert not migration.of_type("ECS::Service")
    workers = next(g for name, g in migration.of_type("EC2::SecurityGroup").items() if "WorkersGroup" in name)
    assert ("0.0.0.0/0", 8081) in {(rule["CidrIp"], rule["FromPort"]) for rule in workers["SecurityGroupEgress"]}

    def linked(template: Template) -> list[str]:
        gateways = template.of_type("EC2::VPCEndpoint").values()
        statements = [s for g in gateways for s in g.get("PolicyDocument", {}).get("Statement", ())]
        found = [s for s in statements if s.get("Sid") == "FollowLinks"]
        assert all(s["Action"] == "s3:GetObject" for s in found)
        return [text_of(resource) for s in found for resource in s["Resource"]]

    buckets = ("dicom-of-the-hospital", "dicom-of-the-clinic")
    assert linked(migration) == [f"arn:${{AWS::Partition}}:s3:::{bucket}/*" for bucket in buckets]
    assert linked(real) == []


def test_the_pacs_api_reads_images_and_keys_and_writes_its_record(real: Template) -> None:
    [role] = [name for name in real.of_type("IAM::Role") if name.startswith("PacsTaskRole")]
    allowed = {action for s in real.role_statements(role) for action in s.actions}
    assert allowed == {
        "dynamodb:BatchWriteItem",
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "s3:GetObject",
        "s3:ListBucket",
    }


def test_over_a_dicomweb_server_the_pacs_api_reads_results_and_notes_that_they_are_stored(
    open_clients: Template,
) -> None:
    [role] = [name for name in open_clients.of_type("IAM::Role") if name.startswith("PacsTaskRole")]
    may = {
        statement.raw["Sid"]: (set(statement.actions), [text_of(one) for one in statement.resources])
        for statement in open_clients.role_statements(role)
    }
    assert set(may) == {"KnowKeys", "RecordAccess", "FindResultsToStore", "NoteWhatWasStored", "ReadResults"}
    actions, [index] = may["FindResultsToStore"]
    assert actions == {"dynamodb:Query"} and index.startswith("${TablesJobs") and index.endswith("/index/to_store")
    actions, [jobs] = may["NoteWhatWasStored"]
    assert actions == {"dynamodb:BatchGetItem", "dynamodb:UpdateItem"} and jobs.startswith("${TablesJobs")
    actions, [results] = may["ReadResults"]
    assert actions == {"s3:GetObject"} and results.startswith("${BucketsOutput")
    [gateway] = [
        end
        for end in open_clients.of_type("EC2::VPCEndpoint").values()
        if text_of(end["ServiceName"]).endswith(".s3")
    ]
    assert "ReadResults" in {one["Sid"] for one in gateway["PolicyDocument"]["Statement"]}
    assert {"MIP_JOBS_TABLE", "OUTPUT_BUCKET"} <= set(pacs_environment(open_clients))
    for name in ("Admin", "Processing"):
        told = open_clients.function(name)["Environment"]["Variables"]
        assert told["MIP_CAN_STORE"] == "true", name


def test_copies_and_the_cache_lie_on_the_tasks_own_disk(real: Template, open_clients: Template) -> None:
    [task] = open_clients.of_type("ECS::TaskDefinition").values()
    [volume] = task["Volumes"]
    [mounted] = task["ContainerDefinitions"][0]["MountPoints"]
    assert (mounted["SourceVolume"], mounted["ReadOnly"]) == (volume["Name"], False)
    environment = pacs_environment(open_clients)
    assert environment["MIP_PACS_FOLDER"] == mounted["ContainerPath"]
    assert 0 < int(environment["MIP_PACS_CACHE_MIB"]) < 20 * 1024 / 2
    image = (ROOT / "containers/pacs/Dockerfile").read_text()
    assert f"-o 10001 -g 10001 -m 700 {mounted['ContainerPath']}\n" in image, "else the volume is root's"
    assert f"VOLUME {mounted['ContainerPath']}\n" in image
    [without] = real.of_type("ECS::TaskDefinition").values()
    assert "Volumes" not in without
    for name in ("Admin", "Processing"):
        assert real.function(name)["Environment"]["Variables"]["MIP_CAN_STORE"] == "false"


def test_what_emulators_reject_is_in_the_template_for_aws(
    real: Template, oidc: Template, on_emulator: Template
) -> None:
    assert real.types() >= REJECTED_BY_EMULATORS
    assert oidc.types() >= {"EC2::EIP", "EC2::NatGateway"}
    assert not on_emulator.types() & {*REJECTED_BY_EMULATORS, "EC2::EIP", "EC2::NatGateway"}
    missing = real.types() - on_emulator.types() - REJECTED_BY_EMULATORS
    assert missing == {
        "CDK::Metadata",
        "ECS::Service",
        "ECS::TaskDefinition",
        "ElasticLoadBalancingV2::Listener",
        "ElasticLoadBalancingV2::LoadBalancer",
        "ElasticLoadBalancingV2::TargetGroup",
    } & (real.types() | missing)
