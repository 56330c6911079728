"""A failure in the words of AWS: what the SQS and S3 endpoints answer with."""

from __future__ import annotations

import logging

from medical_image_processing.errors import MipError, TransientError, without_text

_LOG = logging.getLogger(__name__)


class AwsError(MipError):
    """``code`` is AWS's own, ``status`` the HTTP status it comes with.

    ``query_code`` is the name that SQS's earlier protocol used, where it differs; SDKs still report it.
    """

    def __init__(self, code: str, message: str, *, status: int = 400, query_code: str | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.query_code = query_code or code


def access_denied(action: str) -> AwsError:
    """The credentials are good, for something else (law A1)."""
    return AwsError("AccessDenied", f"these credentials do not allow {action} here", status=403)


def stated(error: Exception) -> AwsError:
    """Any failure in AWS's words; one that nobody foresaw is logged with its place, without its text (law A3)."""
    if isinstance(error, AwsError):
        return error
    if isinstance(error, TransientError):
        return AwsError("ServiceUnavailable", error.message, status=503)
    _LOG.error("an AWS request failed with %s", type(error).__name__, exc_info=without_text(error))
    return AwsError("InternalError", "We encountered an internal error. Please try again.", status=500)
