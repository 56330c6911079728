"""What AWS said in a refusal: some of its services tell failures apart in words only."""

from __future__ import annotations

from botocore.exceptions import ClientError

from medical_image_processing.engines.aws.clients import Refused


def said(error: Refused) -> str:
    """AWS's own sentence, to be searched in; it may quote what was sent, so it is not to be passed on."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Message", "")) if isinstance(cause, ClientError) else ""
