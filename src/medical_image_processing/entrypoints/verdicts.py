"""What ``mip check`` makes of what it saw: one verdict a check, each with what to do."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pydicom
from pydicom.errors import InvalidDicomError

IDLE_CPU_SHARE = 0.05
"""Below this share of one core a job that does not end is waiting, not computing."""

_ROOT_USERS = ("", "root")
_USER = re.compile(r"([0-9]+)(?::([0-9]+))?")
_LIFE_OF_A_WORKER = ("ready", "stopping: no more jobs are taken", "stopped")
_READ_ONLY = re.compile(r"read-only file system|EROFS|\[Errno 30\]", re.IGNORECASE)
_LEAKED_NAMES = re.compile(rb"(AWS_SECRET_ACCESS_KEY|PACS_API_KEY)['\"]?\s*[=:,]\s*['\"]?[^\s'\"]")
_SAME_AS_SOURCE = ("StudyInstanceUID", "PatientID", "PatientName")

Outcome = Literal["pass", "FAIL", "not reached"]


@dataclass(frozen=True)
class Verdict:
    """``what`` says what was seen and what to do about it."""

    check: str
    outcome: Outcome
    what: str = ""


@dataclass(frozen=True)
class Observation:
    """All that one run showed. What was not reached is None.

    ``failure``: why no worker stays up. ``seconds``: from sending the job to its end, or for how long it was
    waited for. ``cpu_share``: cores in use when the time limit had passed. ``invalid``: what dciodvfy objects
    to, None without that program.
    """

    user: str
    architecture: str
    engine_architecture: str
    time_limit_s: float
    budget_s: float
    failure: str | None = None
    asked: bool | None = None
    job: dict[str, Any] | None = None
    seconds: float = 0.0
    cpu_share: float | None = None
    log: bytes = b""
    source: bytes = b""
    result: bytes | None = None
    invalid: list[str] | None = None
    secrets: frozenset[bytes] = field(default=frozenset(), repr=False)

    @property
    def status(self) -> str | None:
        """The job's last state."""
        return self.job["status"] if self.job else None

    @property
    def last_log_line(self) -> str:
        """The newest line that says something: not what every worker says of itself."""
        lines = self.log.decode(errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if _says_something(line)), "(it logged nothing)")


def judge(seen: Observation) -> list[Verdict]:
    """The verdicts, in the order in which things happen."""
    return [
        _user(seen),
        _architecture(seen),
        _starts(seen),
        _asks(seen),
        _ends(seen),
        _in_time(seen),
        _stays_in_tmp(seen),
        *_result(seen),
        _keeps_credentials(seen),
    ]


def _user(seen: Observation) -> Verdict:
    user = _USER.fullmatch(seen.user)
    if seen.user.partition(":")[0] in _ROOT_USERS or (user and int(user[1]) == 0):
        fault = "runs as root"
    elif user is None:
        fault = f"'{seen.user}' is a name, which the platform doesn't trust: it runs as nobody (65534)"
    elif not int(user[2] or 0):
        fault = f"{seen.user} is in root's group" if user[2] else f"{seen.user} has no group, so it can be root's"
    else:
        return Verdict("user", "pass")
    return Verdict("user", "FAIL", f"{fault}; end the Dockerfile with USER 10001:10001")


def _architecture(seen: Observation) -> Verdict:
    if seen.architecture != seen.engine_architecture:
        what = (
            f"wrong architecture: built for {seen.architecture}, this engine runs {seen.engine_architecture}; "
            f"build it with docker build --platform linux/{seen.engine_architecture}"
        )
        return Verdict("architecture", "FAIL", what)
    return Verdict("architecture", "pass")


def _starts(seen: Observation) -> Verdict:
    if seen.failure is not None:
        return Verdict("worker starts", "FAIL", f"no worker: {seen.failure}")
    return _reached("worker starts", seen.asked is not None)


def _asks(seen: Observation) -> Verdict:
    name = "worker asks for jobs"
    if seen.asked is False:
        what = (
            "no worker: its container runs, but asked its queue for nothing; its command must be a worker, "
            "such as /app/worker.sh"
        )
        return Verdict(name, "FAIL", what)
    return _reached(name, seen.asked is True)


def _ends(seen: Observation) -> Verdict:
    name = "job ends well"
    if seen.job is None or not seen.asked:
        return Verdict(name, "not reached")
    if seen.status == "SUCCEEDED":
        return Verdict(name, "pass")
    if error := seen.job.get("error"):  # a worker that dies again and again leaves one before the job has ended
        said = f"{error.get('message', 'no reason given')} ({error.get('code', '?')})"
        return Verdict(name, "FAIL", f"{said}; its log ends: {seen.last_log_line}")
    waited = f"no end within {seen.time_limit_s:g} s"
    if seen.cpu_share is not None and seen.cpu_share < IDLE_CPU_SHARE:
        what = f"hangs: {waited}, and it uses no CPU; look for a wait without a timeout"
        return Verdict(name, "FAIL", f"{what}; its log ends: {seen.last_log_line}")
    return Verdict(name, "FAIL", f"too slow, or without an end: {waited}, and it still computes; see --time-limit")


def _in_time(seen: Observation) -> Verdict:
    if seen.status != "SUCCEEDED":
        return Verdict("in time", "not reached")
    took = f"took {seen.seconds:.2f} s"
    if seen.seconds > seen.budget_s:
        what = (
            f"too slow: {took}, and {seen.budget_s:g} s is the budget; make it faster, or allow more with --budget"
        )
        return Verdict("in time", "FAIL", what)
    return Verdict("in time", "pass", took)


def _stays_in_tmp(seen: Observation) -> Verdict:
    name = "writes only to /tmp"
    said = seen.log.decode(errors="replace") + str((seen.job or {}).get("error"))
    if (match := _READ_ONLY.search(said)) is not None:
        start = said.rfind("\n", 0, match.start()) + 1
        line = said[start:].partition("\n")[0].strip()
        what = f"writes outside /tmp, where everything is read-only: {line}; write below /tmp (TMPDIR, HOME)"
        return Verdict(name, "FAIL", what)
    return _reached(name, seen.asked is True)


def _result(seen: Observation) -> Iterator[Verdict]:
    names = ("result is DICOM", "result is valid", "result is of the source")
    if seen.result is None:
        yield from (Verdict(name, "not reached") for name in names)
        return
    try:
        made = pydicom.dcmread(io.BytesIO(seen.result), stop_before_pixels=True)
        identity = {name: made.get(name) for name in ("SOPClassUID", "SOPInstanceUID")}
        missing = [name for name, value in identity.items() if not value]
    except (InvalidDicomError, ValueError, OSError, NotImplementedError) as error:
        what = f"non-DICOM: pydicom can't read the result ({type(error).__name__}); write a DICOM file (PS3.10)"
        yield Verdict(names[0], "FAIL", what)
        yield from (Verdict(name, "not reached") for name in names[1:])
        return
    if missing:
        yield Verdict(names[0], "FAIL", f"non-DICOM: the result lacks {', '.join(missing)}")
    else:
        yield Verdict(names[0], "pass")
    yield _is_valid(names[1], seen.invalid)
    yield _is_of_the_source(names[2], made, pydicom.dcmread(io.BytesIO(seen.source), stop_before_pixels=True))


def _is_valid(name: str, invalid: list[str] | None) -> Verdict:
    if invalid is None:
        return Verdict(name, "not reached", "install dciodvfy (Debian package dicom3tools) to have it validated")
    if invalid:
        more = f", and {len(invalid) - 1} more" if len(invalid) > 1 else ""
        return Verdict(name, "FAIL", f"dciodvfy: {invalid[0]}{more}")
    return Verdict(name, "pass")


def _is_of_the_source(name: str, made: pydicom.Dataset, source: pydicom.Dataset) -> Verdict:
    differs = [tag for tag in _SAME_AS_SOURCE if str(made.get(tag, "")) != str(source.get(tag, ""))]
    if differs:
        what = f"wrong output: {', '.join(differs)} must be the source's; copy patient and study from the input"
        return Verdict(name, "FAIL", what)
    if made.get("SOPInstanceUID") == source.SOPInstanceUID:
        return Verdict(name, "FAIL", "wrong output: it has the source's SOPInstanceUID; make a new one")
    return Verdict(name, "pass")


def _keeps_credentials(seen: Observation) -> Verdict:
    name = "keeps its credentials"
    places = [place for place, data in (("log", seen.log), ("result", seen.result or b"")) if _leaks(data, seen)]
    if places:
        what = f"leaks its credentials to its {' and its '.join(places)}; never print or store the environment"
        return Verdict(name, "FAIL", what)
    return _reached(name, seen.asked is not None or seen.failure is not None)


def _leaks(data: bytes, seen: Observation) -> bool:
    return _LEAKED_NAMES.search(data) is not None or any(secret in data for secret in seen.secrets)


def _says_something(line: str) -> bool:
    try:
        said = json.loads(line)
    except ValueError:
        return bool(line.strip())
    if not isinstance(said, dict):
        return True
    message = str(said.get("message"))
    # What the job's error says already, unless it has the algorithm's traceback.
    is_again = message.startswith("the job failed: ") and "traceback" not in said
    return message not in _LIFE_OF_A_WORKER and not is_again


def _reached(check: str, reached: bool) -> Verdict:
    return Verdict(check, "pass" if reached else "not reached")
