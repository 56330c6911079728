"""The worker's log: one JSON line an event on standard output, with ``algo_id`` and ``job_id``.

What is raised while pixels and headers are handled can quote them, so of an exception only its type and the
places it came through are logged (law A3), never its message.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
import time
import traceback
from typing import Any

_LOG = logging.getLogger("medical_image_processing.worker")
_MAX_PLACES = 30
_OWN = "medical_image_processing"


class JsonLines(logging.Formatter):
    """Formats records, an algorithm's own too, as JSON lines."""

    def __init__(self, algo_id: str) -> None:
        super().__init__()
        self.algo_id = algo_id
        self.job_id: str | None = None
        """The job that is being computed."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname,
            "message": record.getMessage(),
            "algo_id": self.algo_id,
            "job_id": self.job_id,
        }
        fields |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields["exception"] = type(error).__name__
            if isinstance(error, OSError):
                fields["errno"] = errno.errorcode.get(error.errno or 0)  # "EROFS": it wrote outside /tmp
            fields["traceback"] = places(error)
        return json.dumps({name: value for name, value in fields.items() if value is not None})


def configure(algo_id: str) -> JsonLines:
    """Send every logger to standard output as JSON lines; INFO for ours, and for others what they choose."""
    formatter = JsonLines(algo_id)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.raiseExceptions = False
    return formatter


def event(message: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Log that something happened; ``fields`` such as job_id become fields of the line."""
    _LOG.log(level, message, extra={"fields": fields}, exc_info=error)


def places(error: BaseException) -> list[str]:
    """Where an exception came through, outermost first: ``module:line in function``; of a recursion both ends."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if len(frames) > _MAX_PLACES:
        frames = frames[: _MAX_PLACES // 2] + frames[-_MAX_PLACES // 2 :]
    return [f"{f.f_globals.get('__name__', '?')}:{line} in {f.f_code.co_name}" for f, line in frames]


def origin(error: BaseException) -> str:
    """The innermost place in code that isn't ours or a library's below it: ``module:line`` of the algorithm.

    The algorithm's first frame tells whose code it is; the deepest frame of that package is the place.
    """
    frames = [(f.f_globals.get("__name__", "?"), line) for f, line in traceback.walk_tb(error.__traceback__)]
    theirs = [(name, line) for name, line in frames if not name.startswith(f"{_OWN}.worker")]
    if not theirs:
        return "?"
    package = theirs[0][0].rpartition(".")[0] or theirs[0][0]
    inside = [(name, line) for name, line in theirs if name == theirs[0][0] or name.startswith(f"{package}.")]
    name, line = inside[-1]
    return f"{name}:{line}"
