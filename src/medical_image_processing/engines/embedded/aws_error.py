"""A failure in the words of AWS: what the SQS and S3 endpoints answer with."""

from __future__ import annotations

from medical_image_processing.errors import MipError


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
