"""Signed URLs of results in S3: ports.outputs."""

from __future__ import annotations

from medical_image_processing.engines.aws.clients import AwsClient

LIFETIME_S = 900
"""A result's URLs are made anew each time it is asked for or pushed, so they needn't live long."""


class S3Outputs:
    """Implements :class:`ports.outputs.Outputs` with presigned URLs of S3 itself."""

    def __init__(self, client: AwsClient) -> None:
        self._client = client

    def sign(self, bucket: str, key: str, *, base_url: str) -> str:
        """A URL that opens one object for a while. S3 has the same name for everybody, whatever ours is.

        Made without a call. With a role's temporary credentials it ends with them at the latest (Amazon S3 user
        guide, "Sharing objects with presigned URLs").
        """
        given = {"Bucket": bucket, "Key": key}
        url = self._client.boto.generate_presigned_url("get_object", Params=given, ExpiresIn=LIFETIME_S)
        return str(url)
