"""The results queue, which every worker writes and the delivery Lambda reads, and its dead-letter queue."""

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from medical_image_processing import naming

VISIBILITY_TIMEOUTS = 6
"""AWS advises six times the consumer's timeout (Lambda developer guide, "Using Lambda with Amazon SQS")."""


class Queues(Construct):
    """FIFO with high throughput, encrypted. ``consumer_timeout_s`` is the delivery Lambda's.

    ``tls_only``: not on an emulator, which is reached without.
    """

    def __init__(
        self, scope: Construct, id: str, *, consumer_timeout_s: int, tls_only: bool, removal: RemovalPolicy
    ) -> None:
        super().__init__(scope, id)
        self._tls_only = tls_only
        self.dead_letters = self._queue("ResultsDlq", naming.RESULTS_DEAD_LETTER_QUEUE, removal)
        self.results = self._queue(
            "Results",
            naming.RESULTS_QUEUE,
            removal,
            visibility_timeout=Duration.seconds(VISIBILITY_TIMEOUTS * consumer_timeout_s),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters, max_receive_count=10),
        )
        """Ten receives: a result is a finished computation, and what is wrong may be a table's throttling."""

    def _queue(
        self,
        id: str,
        name: str,
        removal: RemovalPolicy,
        *,
        visibility_timeout: Duration | None = None,
        dead_letter_queue: sqs.DeadLetterQueue | None = None,
    ) -> sqs.Queue:
        return sqs.Queue(
            self,
            id,
            queue_name=name,
            fifo=True,
            fifo_throughput_limit=sqs.FifoThroughputLimit.PER_MESSAGE_GROUP_ID,
            deduplication_scope=sqs.DeduplicationScope.MESSAGE_GROUP,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=self._tls_only,
            retention_period=Duration.days(14),
            visibility_timeout=visibility_timeout,
            dead_letter_queue=dead_letter_queue,
            removal_policy=removal,
        )
