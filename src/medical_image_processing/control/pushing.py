"""Pushing several finished jobs, each by itself."""

from __future__ import annotations

from collections.abc import Iterable

from medical_image_processing.errors import TransientError
from medical_image_processing.model.job import Job
from medical_image_processing.ports.push import Push


async def push_all(push: Push, jobs: Iterable[Job]) -> None:
    """Push each job, whatever becomes of the others; then raise the first TransientError, if there was one."""
    failure: TransientError | None = None
    for job in jobs:
        try:
            await push.push(job)
        except TransientError as error:
            failure = failure or error
    if failure is not None:
        raise failure
