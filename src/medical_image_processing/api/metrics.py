"""``/metrics`` in Prometheus text. Labels are algorithm ids and states, never a client or a study (law A3)."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from medical_image_processing.model.job import JobStatus
from medical_image_processing.ports.gauges import JobCount, JobCounts, QueueGauge, QueueGauges

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)


class Metrics:
    """Counts what is on record and how long jobs took."""

    def __init__(self, jobs: JobCounts, queues: QueueGauges) -> None:
        self._jobs = jobs
        self._queues = queues
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "mip_job_seconds",
            "From the start of a job to its end.",
            ("algo_id", "status"),
            registry=self._registry,
            buckets=_SECONDS,
        )

    def job_finished(self, algo_id: str, status: JobStatus, seconds: float) -> None:
        """One more job has ended."""
        self._seconds.labels(algo_id, status.value).observe(seconds)

    async def text(self) -> bytes:
        """The exposition text."""
        now = CollectorRegistry()
        now.register(_Snapshot(await self._jobs.counts(), await self._queues.gauges()))
        return generate_latest(now) + generate_latest(self._registry)


class _Snapshot(Collector):
    def __init__(self, counts: list[JobCount], gauges: list[QueueGauge]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("mip_jobs", "Jobs on record.", labels=("algo_id", "status"))
        for count in self._counts:
            jobs.add_metric((count.algo_id, count.status.value), count.count)
        depth = GaugeMetricFamily(
            "mip_queue_messages", "Messages on a queue, in flight or not.", labels=("queue",)
        )
        oldest = GaugeMetricFamily(
            "mip_queue_oldest_seconds", "Age of a queue's oldest message.", labels=("queue",)
        )
        for gauge in self._gauges:
            depth.add_metric((gauge.queue,), gauge.depth)
            oldest.add_metric((gauge.queue,), gauge.oldest_s)
        yield from (jobs, depth, oldest)
