"""Cancels a job that waits, and tells its client's connections."""

from __future__ import annotations

import logging

from medical_image_processing.errors import TransientError
from medical_image_processing.model.job import Job
from medical_image_processing.ports.jobs import Jobs
from medical_image_processing.ports.push import Push

_LOG = logging.getLogger(__name__)


async def cancel_job(jobs: Jobs, push: Push, job_id: str, *, actor: str) -> Job:
    """The job, CANCELLED. NotFound ``UNKNOWN_JOB``; Conflict ``NOT_CANCELLABLE`` once it runs or has ended.

    It is an end as any other: connections that can't be told now get it when they come back (law J7).
    """
    job = await jobs.cancel(job_id, actor=actor)
    try:
        await push.push(job)
    except TransientError as error:
        _LOG.warning("that job %s was cancelled could not be told: %s", job_id, error)
    return job
