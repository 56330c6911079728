"""Leases on the real queue, with a clock that both sides share and the test moves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_stage import Stage

from medical_image_processing import samples
from medical_image_processing.worker.aws import LEASE_S, SqsClient
from medical_image_processing.worker.http import HttpClient
from medical_image_processing.worker.leases import RENEW_AFTER_S, Attempt, Leases

LIMIT_S = 300.0


class Clock:
    """Tells the time it was set to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stage(tmp_path: Path, clock: Clock) -> Iterator[Stage]:
    (tmp_path / "pacs").mkdir()
    shutil.copy(samples.ct_small(), tmp_path / "pacs")
    with Stage(tmp_path, tmp_path / "pacs", clock=clock) as running:
        yield running


def receive(stage: Stage, sqs: SqsClient) -> list[Attempt]:
    stage.sweep()
    return [Attempt.of(message) for message in sqs.receive(HttpClient(), limit=10, wait_s=0)]


def test_a_renewed_job_stays_ours_and_one_that_is_not_comes_back(stage: Stage, clock: Clock) -> None:
    sqs = stage.sqs_client()
    leases = Leases(sqs, limit_s=LIMIT_S, clock=clock)
    stage.submit("kept")
    (kept,) = receive(stage, sqs)
    leases.hold([kept])
    stage.submit("neglected")
    assert [attempt.job.job_id for attempt in receive(stage, sqs)] == ["neglected"]
    for _ in range(4):
        clock.now += RENEW_AFTER_S
        leases.renew()
    (back,) = receive(stage, sqs)
    assert (back.job.job_id, back.is_suspect) == ("neglected", True)
    assert leases.claim(kept)


def test_a_lost_lease_is_noticed_and_its_job_can_no_longer_be_ended(stage: Stage, clock: Clock) -> None:
    sqs = stage.sqs_client()
    leases = Leases(sqs, limit_s=LIMIT_S, clock=clock)
    stage.submit("lost")
    (lost,) = receive(stage, sqs)
    leases.hold([lost])
    clock.now += LEASE_S + 1
    (theirs,) = receive(stage, sqs)
    leases.renew()
    assert not leases.start(lost)
    assert not leases.claim(lost)
    assert theirs.receive_count == 2


def test_a_stuck_worker_loses_its_job_after_the_time_limit(stage: Stage, clock: Clock) -> None:
    sqs = stage.sqs_client()
    leases = Leases(sqs, limit_s=LIMIT_S, clock=clock)
    stage.submit("stuck")
    (stuck,) = receive(stage, sqs)
    leases.hold([stuck])
    assert leases.start(stuck)
    for _ in range(int(LIMIT_S / RENEW_AFTER_S)):
        clock.now += RENEW_AFTER_S
        leases.renew()
        assert receive(stage, sqs) == []
    for _ in range(15):
        clock.now += RENEW_AFTER_S
        leases.renew()
    assert [attempt.job.job_id for attempt in receive(stage, sqs)] == ["stuck"]


def test_only_one_may_end_a_job(stage: Stage, clock: Clock) -> None:
    sqs = stage.sqs_client()
    leases = Leases(sqs, limit_s=LIMIT_S, clock=clock)
    for job_id in ("one", "two"):
        stage.submit(job_id)
    one, two = receive(stage, sqs)
    leases.hold([one, two])
    assert leases.start(one)
    assert leases.running() is one
    assert leases.claim_waiting() == [two]
    assert leases.claim(one) and not leases.claim(one) and not leases.claim(two)
    assert leases.running() is None
