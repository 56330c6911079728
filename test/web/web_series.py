"""The series of the web tests' platform, as jobs name them."""

from __future__ import annotations

from api_calls import Api
from platform_process import Platform


def place_of(platform: Platform, images: int) -> dict[str, str]:
    """The series of so many images, for a job."""
    headers = {"x-api-key": platform.env["PACS_API_KEY"]}
    listed = Api(platform).http.get("/pacs/series", headers=headers).json()
    [found] = [one for one in listed if one["images"] == images]
    return {"study_id": found["study_id"], "series_id": found["series_id"], "scope": "series"}
