"""What the platform costs on AWS, from a dated table of list prices: for jobs, by the month, for idle algorithms.

Prices are those of us-east-1, without free tiers, taxes or discounts. **Check them before you rely on a figure.**
How often a job calls what is ``bench/aws_calls.py``'s measurement; durations and logs are estimates and marked so;
what the stack has is counted in its synthesized template. ``--template FILE`` counts it anew, ``--write`` puts the
tables into docs/costs.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from page_tables import PAGES, markdown_table, replace_part

PRICES_OF = "November 2025"
HOURS = 730.0
MILLION = 1e6

# Dollars for one unit; the page they are from.
PRICES: dict[str, tuple[float, str]] = {
    "API Gateway, REST call": (3.50 / MILLION, "aws.amazon.com/api-gateway/pricing"),
    "API Gateway, WebSocket message of 32 KB": (1.00 / MILLION, "aws.amazon.com/api-gateway/pricing"),
    "API Gateway, WebSocket minute": (0.25 / MILLION, "aws.amazon.com/api-gateway/pricing"),
    "Lambda, call": (0.20 / MILLION, "aws.amazon.com/lambda/pricing"),
    "Lambda, GB-second, x86": (0.0000166667, "aws.amazon.com/lambda/pricing"),
    "DynamoDB, write unit of 1 KB": (0.625 / MILLION, "aws.amazon.com/dynamodb/pricing/on-demand"),
    "DynamoDB, read unit of 4 KB": (0.125 / MILLION, "aws.amazon.com/dynamodb/pricing/on-demand"),
    "SQS, FIFO request of 64 KB": (0.50 / MILLION, "aws.amazon.com/sqs/pricing"),
    "S3, PUT": (5.00 / MILLION, "aws.amazon.com/s3/pricing"),
    "S3, GET": (0.40 / MILLION, "aws.amazon.com/s3/pricing"),
    "S3, GB-month": (0.023, "aws.amazon.com/s3/pricing"),
    "transfer to the internet, GB": (0.09, "aws.amazon.com/ec2/pricing/on-demand"),
    "Fargate, vCPU-hour, x86": (0.04048, "aws.amazon.com/fargate/pricing"),
    "Fargate, GB-hour, x86": (0.004445, "aws.amazon.com/fargate/pricing"),
    "VPC interface endpoint, zone-hour": (0.01, "aws.amazon.com/privatelink/pricing"),
    "network load balancer, hour": (0.0225, "aws.amazon.com/elasticloadbalancing/pricing"),
    "NAT gateway, hour": (0.045, "aws.amazon.com/vpc/pricing"),
    "Secrets Manager, secret-month": (0.40, "aws.amazon.com/secrets-manager/pricing"),
    "CloudWatch, alarm-month": (0.10, "aws.amazon.com/cloudwatch/pricing"),
    "CloudWatch, dashboard-month": (3.00, "aws.amazon.com/cloudwatch/pricing"),
    "CloudWatch, metric-month": (0.30, "aws.amazon.com/cloudwatch/pricing"),
    "CloudWatch, log GB": (0.50, "aws.amazon.com/cloudwatch/pricing"),
    "ECR, GB-month": (0.10, "aws.amazon.com/ecr/pricing"),
}


@dataclass(frozen=True)
class Item:
    """So many units of one price; ``what`` says for what."""

    what: str
    price: str
    units: float

    @property
    def dollars(self) -> float:
        """For one job or one month, as the table says."""
        return self.units * PRICES[self.price][0]


RESULT_MB = 0.26
"""A Secondary Capture of 512 × 512 pixels."""

# Of one job: POST, a worker that is there, one output, a client that is connected.
JOB = [
    Item("POST /process", "API Gateway, REST call", 1),
    Item("router, delivery, receipt: three Lambdas", "Lambda, call", 3),
    Item("the same: 60 ms of 1 GB, 60 of 0.5, 20 of 0.25 (estimated)", "Lambda, GB-second, x86", 0.095),
    Item("key, record, connections", "DynamoDB, read unit of 4 KB", 3),
    Item("the job is recorded, with its five index entries", "DynamoDB, write unit of 1 KB", 6),
    Item("its message is noted, one index entry less", "DynamoDB, write unit of 1 KB", 2),
    Item("its end, one index entry less and one more", "DynamoDB, write unit of 1 KB", 3),
    Item("its receipt, one index entry less", "DynamoDB, write unit of 1 KB", 2),
    Item("message: send, receive, delete; depth, now and then", "SQS, FIFO request of 64 KB", 3.05),
    Item("result: send; receive and delete by Lambda's poller", "SQS, FIFO request of 64 KB", 3),
    Item("PACS API: who reads which image is recorded, thrice", "DynamoDB, write unit of 1 KB", 3),
    Item("PACS API looks for the image, its worker fetches it", "S3, GET", 2),
    Item("result is stored", "S3, PUT", 1),
    Item("result is fetched", "S3, GET", 1),
    Item("result leaves AWS, 0.26 MB", "transfer to the internet, GB", RESULT_MB / 1024),
    Item("push and receipt", "API Gateway, WebSocket message of 32 KB", 2),
    Item("logs of Lambdas, gateway and worker, 4 KB (estimated)", "CloudWatch, log GB", 4 / 1024**2),
]

# Of one worker that waits for a month: 1 vCPU, 2 GB.
WORKER = [
    Item("1 vCPU", "Fargate, vCPU-hour, x86", HOURS),
    Item("2 GB", "Fargate, GB-hour, x86", 2 * HOURS),
    Item("asking for jobs, each 20 s", "SQS, FIFO request of 64 KB", HOURS * 180),
]

# Of one algorithm with min_count 0 that nobody uses, for a month.
IDLE = [
    Item("queues, role, log group, task definition, service", "SQS, FIFO request of 64 KB", 0),
    Item("the sweep looks at its two queues, each 5 min", "SQS, FIFO request of 64 KB", HOURS * 12 * 2),
    Item(
        "scaler, dead letters: open jobs? thrice a minute",
        "DynamoDB, read unit of 4 KB",
        HOURS * 60 * 1.5,
    ),
    Item("sweep, scaler, dead letters read its record of 1 KB", "DynamoDB, read unit of 4 KB", HOURS * 192 * 0.25),
]

# Of one job whose result goes back into a DICOMweb server.
STORED = [
    Item("its end, one index entry more", "DynamoDB, write unit of 1 KB", 1),
    Item("its record is read", "DynamoDB, read unit of 4 KB", 1),
    Item("its result is read", "S3, GET", 1),
    Item("that it is stored is noted, one index entry less", "DynamoDB, write unit of 1 KB", 2),
]

# Of a month of one task of the PACS API that stores, whether there is anything to store or not.
LOOKS_FOR_RESULTS = [
    Item("is there a result to store? each 5 s, of an index", "DynamoDB, read unit of 4 KB", HOURS * 720 * 0.5)
]

COUNTED = {"endpoint zones": 12, "balancers": 1, "secrets": 2, "alarms": 16, "dashboards": 1, "lambdas": 9}
"""In the template of a deployment that chooses nothing; ``count`` counts them."""
INSIGHTS_METRICS = 8
"""Of each Lambda in an hour in which it runs."""


def fixed(counted: Mapping[str, int]) -> list[Item]:
    """Of one month, whether anybody sends a job or not."""
    return [
        Item(
            "endpoints of AWS services in the VPC",
            "VPC interface endpoint, zone-hour",
            counted["endpoint zones"] * HOURS,
        ),
        Item("load balancer of the PACS API", "network load balancer, hour", counted["balancers"] * HOURS),
        Item("PACS API, half a vCPU", "Fargate, vCPU-hour, x86", 0.5 * HOURS),
        Item("PACS API, 1 GB", "Fargate, GB-hour, x86", HOURS),
        Item("keys", "Secrets Manager, secret-month", counted["secrets"]),
        Item("alarms", "CloudWatch, alarm-month", counted["alarms"]),
        Item("dashboard", "CloudWatch, dashboard-month", counted["dashboards"]),
        Item(
            "Lambda Insights of Lambdas that run each hour, at the most",
            "CloudWatch, metric-month",
            counted["lambdas"] * INSIGHTS_METRICS,
        ),
        Item("sweep, scaler, dead letters", "Lambda, call", HOURS * (60 + 60 + 12)),
        Item("the same, 0.3 s of 0.25 GB each (estimated)", "Lambda, GB-second, x86", HOURS * 132 * 0.075),
        Item("images: mip-base, what is built on it, and mip-pacs, 0.5 GB", "ECR, GB-month", 0.5),
    ]


def count(template: Mapping[str, Any]) -> dict[str, int]:
    """What costs by the month, in a synthesized template."""
    resources = list(template["Resources"].values())

    def of(kind: str) -> list[Any]:
        return [each["Properties"] for each in resources if each["Type"] == kind]

    interfaces = [each for each in of("AWS::EC2::VPCEndpoint") if each.get("VpcEndpointType") == "Interface"]
    return {
        "endpoint zones": sum(len(each["SubnetIds"]) for each in interfaces),
        "balancers": len(of("AWS::ElasticLoadBalancingV2::LoadBalancer")),
        "secrets": len(of("AWS::SecretsManager::Secret")),
        "alarms": len(of("AWS::CloudWatch::Alarm")),
        "dashboards": len(of("AWS::CloudWatch::Dashboard")),
        "lambdas": len(of("AWS::Lambda::Function")),
    }


def table(items: Sequence[Item], *, times: float, unit: str, total: str) -> str:
    """What each costs, and all together."""
    rows = [[i.what, i.price, f"{i.units * times:,.6g}", _money(i.dollars * times)] for i in items]
    rows.append([f"**{total}**", "", "", f"**{_money(sum(i.dollars for i in items) * times)}**"])
    return markdown_table(["what", "priced by", "units", f"dollars {unit}"], rows)


def price_table() -> str:
    """The prices, and where they are from."""
    return markdown_table(
        ["price", "dollars", "page"], [[n, f"{p:.10g}", page] for n, (p, page) in PRICES.items()]
    )


def example_table() -> str:
    """Months of whole platforms."""
    base, job = sum(i.dollars for i in fixed(COUNTED)), sum(i.dollars for i in JOB)
    hour = PRICES["Fargate, vCPU-hour, x86"][0] + 2 * PRICES["Fargate, GB-hour, x86"][0]
    idle = sum(i.dollars for i in IDLE)
    rows = []
    for name, jobs, task_hours, algorithms in (
        ("nobody sends anything; 10 algorithms with min_count 0", 0, 0.0, 10),
        ("100 studies a day of 10 images, 20 s each, scaled", 30_000, 30_000 * 20 / 3600 * 1.5, 10),
        ("1 million jobs of 5 s, scaled", 1_000_000, 1_000_000 * 5 / 3600 * 1.5, 10),
        ("nobody sends anything; 10 algorithms with one worker each", 0, 10 * HOURS, 0),
    ):
        parts = (base, jobs * job, task_hours * hour, algorithms * idle)
        rows.append([name, *(_money(part) for part in parts), f"**{_money(sum(parts))}**"])
    return markdown_table(["a month of", "fixed", "jobs", "workers", "idle algorithms", "together"], rows)


def tables(counted: Mapping[str, int] = COUNTED) -> dict[str, str]:
    """Every table of the page, by name."""
    return {
        "jobs": table(JOB, times=1000, unit="a thousand jobs", total="a thousand jobs, their workers apart"),
        "worker": table(WORKER, times=1, unit="a month", total="a worker that is always there"),
        "idle": table(IDLE, times=1, unit="a month", total="an idle algorithm"),
        "stored": table(
            STORED, times=1000, unit="a thousand jobs", total="a thousand jobs stored, beside the above"
        ),
        "looks": table(LOOKS_FOR_RESULTS, times=1, unit="a month", total="a month of looking"),
        "fixed": table(fixed(counted), times=1, unit="a month", total="a month of the platform"),
        "examples": example_table(),
        "prices": price_table(),
    }


def _money(dollars: float) -> str:
    if dollars == 0:
        return "0"
    return f"{dollars:,.2f}" if dollars >= 1 else f"{dollars:.4f}"


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--template", type=Path, help="ImgPipeline.template.json of `python infra/run.py synth`")
    parser.add_argument("--write", action="store_true", help="into docs/costs.md")
    given = parser.parse_args()
    counted = count(json.loads(given.template.read_text())) if given.template else COUNTED
    if counted != COUNTED:
        print(f"the template has other counts than COUNTED: {counted}")
    for name, text in tables(counted).items():
        print(f"\n{name}\n{text}")
        if given.write:
            replace_part(PAGES / "costs.md", name, text)


if __name__ == "__main__":
    main()
