"""Alarms, where they are sent, and a dashboard."""

from __future__ import annotations

from aws_cdk import Aws, Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from medical_image_processing import naming

MINUTE = Duration.minutes(1)
OLDEST_RESULT_S = 300
OLDEST_JOB_S = 3600


class Monitoring(Construct):
    """A topic to subscribe to. Nothing to report is no reason to alarm: missing data counts as good."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        results: sqs.Queue,
        results_dead_letters: sqs.Queue,
        failed_events: sqs.Queue,
        functions: dict[str, lambda_.Function],
    ) -> None:
        super().__init__(scope, id)
        self.topic = sns.Topic(self, "Alarms", display_name="ImgPipeline alarms", enforce_ssl=True)
        # A topic with a policy of its own no longer has the default one, by which alarms could publish.
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsMayPublish",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
        self._add_alarms(results, results_dead_letters, failed_events, functions)
        self._add_dashboard(functions)

    def _add_alarms(
        self,
        results: sqs.Queue,
        results_dead_letters: sqs.Queue,
        failed_events: sqs.Queue,
        functions: dict[str, lambda_.Function],
    ) -> None:
        self._alarm(
            "ResultsDeadLetters",
            results_dead_letters.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum"),
            "Result messages that delivery could not handle wait in the dead-letter queue",
        )
        self._alarm(
            "FailedEvents",
            failed_events.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum"),
            "Changes of the registry that the provisioner failed on; the sweep makes up for them",
        )
        self._alarm(
            "OldestResult",
            results.metric_approximate_age_of_oldest_message(period=MINUTE, statistic="Maximum"),
            "Results are not being delivered",
            above=OLDEST_RESULT_S,
            periods=3,
        )
        for name, statistic, above, periods, meaning in (
            (
                "DeadLetters",
                "Sum",
                0,
                1,
                "Jobs that failed three times; see them with mip jobs list --status FAILED",
            ),
            (
                "OldestJobAge",
                "Maximum",
                OLDEST_JOB_S,
                5,
                "A job has waited or run for over an hour; see its algorithm's workers",
            ),
            ("ProvisioningFailures", "Sum", 0, 3, "An algorithm can't be provisioned; its status_reason says why"),
            ("PushFailures", "Sum", 10, 1, "Results could not be pushed; clients get them when they come back"),
        ):
            metric = cloudwatch.Metric(
                namespace=naming.METRICS_NAMESPACE, metric_name=name, statistic=statistic, period=MINUTE
            )
            self._alarm(name, metric, meaning, above=above, periods=periods)
        for name, function in functions.items():
            self._alarm(
                f"{name}Errors",
                function.metric_errors(period=Duration.minutes(5)),
                f"Lambda {name} fails; its log group says why",
            )

    def _alarm(
        self, name: str, metric: cloudwatch.IMetric, meaning: str, *, above: float = 0, periods: int = 1
    ) -> None:
        alarm = cloudwatch.Alarm(
            self,
            f"{name}Alarm",
            alarm_name=f"{naming.STACK}-{name}",
            alarm_description=meaning,
            metric=metric,
            threshold=above,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=periods,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))

    def _add_dashboard(self, functions: dict[str, lambda_.Function]) -> None:
        queues = "{AWS/SQS,QueueName} QueueName=mip-"
        services = "{ECS/ContainerInsights,ClusterName,ServiceName} ServiceName=mip-"
        dashboard = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=naming.STACK)
        dashboard.add_widgets(
            _search("Waiting messages, by queue", queues, "ApproximateNumberOfMessagesVisible", "Maximum"),
            _search("Oldest message, by queue (s)", queues, "ApproximateAgeOfOldestMessage", "Maximum"),
        )
        dashboard.add_widgets(
            _search("Workers, by algorithm", services, "RunningTaskCount", "Average"),
            _search("Platform", f"{{{naming.METRICS_NAMESPACE}}}", None, "Sum"),
        )
        dashboard.add_widgets(
            cloudwatch.GraphWidget(
                title="Lambda errors",
                width=12,
                left=[function.metric_errors(label=name) for name, function in functions.items()],
            ),
            cloudwatch.GraphWidget(
                title="Lambda duration, p95",
                width=12,
                left=[
                    function.metric_duration(label=name, statistic="p95") for name, function in functions.items()
                ],
            ),
        )


def _search(title: str, where: str, metric: str | None, statistic: str) -> cloudwatch.GraphWidget:
    """A graph with a line for whatever is there when it is looked at, made after this deployment too."""
    what = f'{where} MetricName="{metric}"' if metric else where
    expression = cloudwatch.MathExpression(
        expression=f"SEARCH('{what}', '{statistic}', 60)", using_metrics={}, label="", period=MINUTE
    )
    return cloudwatch.GraphWidget(title=title, width=12, left=[expression])
