"""Logs of what runs on AWS: JSON lines, of which CloudWatch finds the fields by name."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

from medical_image_processing.errors import MipError


def configure_logging() -> None:
    """JSON lines to standard output, in the place of what Lambda set up."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # httpx would say the PACS's address, every UID, and what is searched for there.
    for noisy in ("botocore", "boto3", "urllib3", "mangum", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """One object a line. Of an exception: its class and where it came from, and never its text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and (error := record.exc_info[1]) is not None:
            frames = traceback.extract_tb(error.__traceback__)
            line["exception"] = str(error) if isinstance(error, MipError) else _named(error)
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line)


def _named(error: BaseException) -> str:
    # errors.without_text leaves a RuntimeError whose text is the class that was raised.
    return str(error) if type(error) is RuntimeError and str(error).isidentifier() else type(error).__name__
