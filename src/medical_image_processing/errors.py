"""Every failure the platform states, drawn here once.

::

    MipError
    ├── PermanentError            trying again changes nothing
    │   ├── InvalidRequest        the caller's message is wrong; names the field
    │   ├── Unauthorized          no key, or a wrong one
    │   ├── Forbidden             a good key, for something else
    │   ├── NotFound              no such algorithm, job, study, queue
    │   ├── Conflict              taken, not ACTIVE, jobs still wait
    │   ├── StaleRevision         somebody else wrote in between
    │   ├── InputRejected         the image can't be used: not DICOM, no pixels, undecodable
    │   └── AlgorithmFailed       the algorithm raised, timed out or answered nonsense
    └── TransientError            may work later; says when
        ├── Throttled             over a limit of the platform
        └── Unavailable           the PACS, the disk or an endpoint does not answer

``code`` is stable and for programs; the message is one sentence for a person that says where, what and
what to try. Neither ever holds patient data (law A3): no pixel, no attribute value, no file name that
came out of a DICOM file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MipError(Exception):
    """Base of everything the platform raises on purpose."""

    def __init__(self, code: str, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = dict(details) if details else None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class PermanentError(MipError):
    """Trying again with the same input gives the same answer."""


class InvalidRequest(PermanentError):
    """The message does not fit the contract."""


class Unauthorized(PermanentError):
    """The key is missing or wrong."""


class Forbidden(PermanentError):
    """The key is good but does not open this."""


class NotFound(PermanentError):
    """Nothing has that name."""


class Conflict(PermanentError):
    """The state of things does not allow it now."""


class StaleRevision(PermanentError):
    """The record has moved on since the revision the update was based on (law P6)."""


class InputRejected(PermanentError):
    """The image can't be processed, however often one tries (law J5)."""


class AlgorithmFailed(PermanentError):
    """The algorithm itself failed on this input."""


class TransientError(MipError):
    """May succeed later: ``retry_after_s`` is the advice."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after_s: float = 5.0,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, details=details)
        self.retry_after_s = retry_after_s


class Throttled(TransientError):
    """Over a limit of the platform; nothing was accepted."""


class Unavailable(TransientError):
    """Something the platform depends on does not answer."""


def without_text(error: Exception) -> Exception:
    """What a log may have of a failure that nobody foresaw: class and place. Its text may quote anything (A3)."""
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)
