"""The series of the web tests' platform, as jobs name them, and a job that keeps others waiting."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from api_calls import Api
from platform_process import Platform

_NUMBERS = itertools.count()


def place_of(platform: Platform, images: int) -> dict[str, str]:
    """The series of so many images, for a job."""
    headers = {"x-api-key": platform.env["PACS_API_KEY"]}
    listed = Api(platform).http.get("/pacs/series", headers=headers).json()
    [found] = [one for one in listed if one["images"] == images]
    return {"study_id": found["study_id"], "series_id": found["series_id"], "scope": "series"}


@contextmanager
def occupied(platform: Platform, images: int = 20) -> Iterator[None]:
    """The puppet's only worker is busy, so that what is sent meanwhile waits."""
    api, go = Api(platform), platform.home.with_name(f"go-{next(_NUMBERS)}")
    busy = api.process("puppet", client_id="busy", pacs=place_of(platform, images), do="wait", file=str(go))
    try:
        api.until_job(busy, "RUNNING")
        yield
    finally:
        go.touch()
    api.until_ended(busy)
