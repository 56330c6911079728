"""``mip check``: one job of an image on a platform of its own, watched from all sides.

What was seen is an :class:`Observation`; :mod:`verdicts` judges it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydicom
from docker.errors import NotFound
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydicom.errors import InvalidDicomError

from medical_image_processing import naming
from medical_image_processing.engines.embedded.containers import platform_id
from medical_image_processing.entrypoints.cli_output import parse_time
from medical_image_processing.entrypoints.images import Image, Tell
from medical_image_processing.entrypoints.private_platform import PrivatePlatform, private_platform
from medical_image_processing.entrypoints.verdicts import IDLE_CPU_SHARE, Observation
from medical_image_processing.entrypoints.waiting import wait_until_settled
from medical_image_processing.errors import AlgorithmFailed, InvalidRequest, MipError, Unavailable
from medical_image_processing.model.algorithm import AlgorithmSpec

_START_S = 60.0
_ASK_S = 180.0
_IDLE_AFTER_S = 10.0
_STOP_S = 10.0
_POLL_S = 0.1
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "PACS_API_KEY")
_DEFAULTS = {"cpu": 1024, "memory": 2048}
_DCIODVFY_S = 60
_JOB_ID = "check"


def read_algorithm_json(folder: Path) -> dict[str, Any]:
    """What ``folder``'s algorithm.json says, if there is one. InvalidRequest ``BAD_ALGORITHM_JSON``."""
    file = folder / "algorithm.json"
    if not file.is_file():
        return {}
    try:
        given = json.loads(file.read_text())
        if not isinstance(given, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, OSError) as error:
        raise InvalidRequest("BAD_ALGORITHM_JSON", f"{file} can't be read: {error}") from error
    try:
        AlgorithmSpec.model_validate(_registration(given, "unknown", ["/app/worker.sh"]))
    except ValidationError as error:
        faults = "; ".join(_fault(one) for one in error.errors())
        raise InvalidRequest("BAD_ALGORITHM_JSON", f"{file}: {faults}") from error
    return given


def read_registration(given: dict[str, Any], image: Image) -> dict[str, Any]:
    """The body with which ``image`` is registered: what is given, else what the image itself says."""
    return _registration(given, image.tag, list(image.command) or ["/app/worker.sh"])


def _registration(given: dict[str, Any], tag: str, command: list[str]) -> dict[str, Any]:
    algo_id = given.get("algorithm_id") or given.get("algo_id") or _id_of(tag)
    named = {name: value for name, value in given.items() if name != "algorithm_id"}
    fixed = {"algo_id": algo_id, "image_uri": tag, "desired_count": 1}
    return {**_DEFAULTS, "command": command, **named, **fixed}


def _fault(error: ErrorDetails) -> str:
    problem = error["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, [".".join(map(str, error["loc"])), problem]))


def observe_image(
    engine: Any,
    image: Image,
    body: dict[str, Any],
    sample: Path,
    *,
    time_limit_s: float,
    budget_s: float,
    tell: Tell,
) -> Observation:
    """Run one job on the DICOM file ``sample``, and tell all that was seen.

    Raises InvalidRequest when the registration or the sample can't be used, Unavailable when the platform fails.
    """
    seen = Observation(
        user=image.user,
        architecture=image.architecture,
        engine_architecture=str(engine.version()["Arch"]),
        time_limit_s=time_limit_s,
        budget_s=budget_s,
        source=sample.read_bytes(),
    )
    if image.architecture != seen.engine_architecture:
        return seen
    with tempfile.TemporaryDirectory(prefix="mip-check-pacs-") as pacs:
        shutil.copy(sample, Path(pacs) / "sample.dcm")
        tell("starting a platform")
        with private_platform(Path(pacs), command="check", runtime="docker") as platform:
            return _Run(engine, platform, body, seen, tell).observe(_reference(sample))


@dataclass
class _Run:
    engine: Any
    platform: PrivatePlatform
    body: dict[str, Any]
    seen: Observation
    tell: Tell
    _secrets: set[bytes] = field(default_factory=set)

    def observe(self, reference: dict[str, str]) -> Observation:
        """Register, run, look."""
        self._call("POST", "admin", "algorithms", body=self.body)
        self.tell("waiting for its worker")
        if (failure := self._failure_to_start()) is None:
            self._note_secrets()
            self._call("POST", "process", self._algo_id, body={"job_id": _JOB_ID, "pacs": reference})
            self.tell("waiting for its result")
            asked = self._await_asked()
            # A worker that dies before it asks shows in its record, sooner or later.
            failure = None if asked else self._status_reason()
            self.seen = replace(self.seen, asked=asked if failure is None else None)
            if asked:
                self._follow_job()
        log = self.platform.read_log(self._algo_id)
        return replace(self.seen, failure=failure, log=log, secrets=frozenset(self._secrets))

    @property
    def _algo_id(self) -> str:
        return str(self.body["algo_id"])

    def _call(self, method: str, *path: str, body: Any = None) -> Any:
        return self.platform.client.call(method, *path, body=body)

    def _failure_to_start(self) -> str | None:
        try:
            wait_until_settled(self.platform.client, self._algo_id, _START_S, lambda _: None)
        except AlgorithmFailed:
            return self._status_reason() or "it can't run"
        except Unavailable as error:
            return error.message
        return None

    def _status_reason(self) -> str | None:
        record = self._call("GET", "admin", "algorithms", self._algo_id)
        return str(record["status_reason"]) if record["status"] == "FAILED" else None

    def _await_asked(self) -> bool:
        """Whether the job's message was received; workers need not say that they began."""
        queue = _Queue(self.platform.env, self._call("GET", "admin", "algorithms", self._algo_id))
        began = time.monotonic()
        while (passed := time.monotonic() - began) < _ASK_S:
            job = self._call("GET", "jobs", _JOB_ID)
            if job["status"] != "QUEUED" or job["attempts"] or queue.count_in_flight():
                return True
            self._note_secrets()
            if self._status_reason() is not None:
                return False
            # One that loads a model is busy with it.
            if passed > _IDLE_AFTER_S and self._is_idle():
                return False
            time.sleep(_POLL_S)
        return False

    def _follow_job(self) -> None:
        began = time.monotonic()
        while True:
            job = self._call("GET", "jobs", _JOB_ID)
            passed = time.monotonic() - began
            if job["status"] in _ENDED or passed > self.seen.time_limit_s:
                break
            self._note_secrets()
            time.sleep(_POLL_S)
        self.seen = replace(self.seen, job=job, seconds=_duration_s(job) or passed)
        if job["status"] not in _ENDED:
            self.seen = replace(self.seen, cpu_share=self._measure_cpu_share())
            return
        self._stop_worker()
        if job["status"] == "SUCCEEDED":
            self._fetch_result(job["result"]["dicom"]["url"])

    def _stop_worker(self) -> None:
        """Its log is whole once it has ended."""
        self._call("PATCH", "admin", "algorithms", self._algo_id, body={"desired_count": 0})
        with suppress(MipError):
            wait_until_settled(self.platform.client, self._algo_id, _STOP_S, lambda _: None)

    def _fetch_result(self, url: str) -> None:
        file = self.platform.home / "check-result"
        self.platform.client.download(url, file)
        self.seen = replace(self.seen, result=file.read_bytes(), invalid=_validate(file))

    def _containers(self) -> Iterator[Any]:
        labels = [f"mip.platform={platform_id(self.platform.home)}", f"mip.algorithm={self._algo_id}"]
        for container in self.engine.api.containers(filters={"label": labels}):
            with suppress(NotFound):  # it has ended meanwhile
                yield self.engine.containers.get(container["Id"])

    def _note_secrets(self) -> None:
        """Remember what the platform gave the worker, to look for in what comes out."""
        for container in self._containers():
            env = dict(pair.partition("=")[::2] for pair in container.attrs["Config"]["Env"])
            self._secrets |= {env[name].encode() for name in _SECRETS if env.get(name)}

    def _is_idle(self) -> bool:
        share = self._measure_cpu_share()
        return share is not None and share < IDLE_CPU_SHARE

    def _measure_cpu_share(self) -> float | None:
        """Cores in use, over about a second; None between two containers."""
        for container in self._containers():
            with suppress(NotFound):
                now = container.stats(stream=False)
                before, after = now["precpu_stats"]["cpu_usage"], now["cpu_stats"]["cpu_usage"]
                return float(after["total_usage"] - before.get("total_usage", 0)) / 1e9
        return None


class _Queue:
    """The algorithm's queue, as the platform's operator sees it."""

    def __init__(self, env: dict[str, str], record: dict[str, Any]) -> None:
        import botocore.session

        self._url = record["resource_status"]["queue_url"]
        self._sqs = botocore.session.Session().create_client(
            "sqs",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name=env["AWS_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )

    def count_in_flight(self) -> int:
        """Messages that somebody received and did not delete."""
        name = "ApproximateNumberOfMessagesNotVisible"
        answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name])
        return int(answer["Attributes"][name])


def _reference(sample: Path) -> dict[str, str]:
    """InvalidRequest ``BAD_SAMPLE``."""
    try:
        header = pydicom.dcmread(sample, stop_before_pixels=True)
        return {
            "study_id": str(header.StudyInstanceUID),
            "series_id": str(header.SeriesInstanceUID),
            "image_id": str(header.SOPInstanceUID),
            "scope": "image",
        }
    except (InvalidDicomError, AttributeError, OSError) as error:
        raise InvalidRequest("BAD_SAMPLE", f"--sample {sample} is no DICOM image; name another file") from error


def _duration_s(job: dict[str, Any]) -> float | None:
    """As the worker reported it, where it did."""
    if not (job["started_at"] and job["finished_at"]):
        return None
    return (parse_time(job["finished_at"]) - parse_time(job["started_at"])).total_seconds()


def _id_of(tag: str) -> str:
    """mip-algos:grayscale is grayscale, acme/liver:2 is liver."""
    name, _, version = tag.rpartition("/")[2].partition(":")
    candidates = (version, name, re.sub(r"[^a-z0-9_-]", "_", name.lower()))
    wanted = candidates if name == "mip-algos" else candidates[1:]
    return next((text for text in wanted if naming.is_algo_id(text)), "checked")


def _validate(file: Path) -> list[str] | None:
    """What dciodvfy calls an error; None where it isn't installed or doesn't end."""
    if (program := shutil.which("dciodvfy")) is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a program found by name, a file of ours
            [program, str(file)], capture_output=True, timeout=_DCIODVFY_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    return [line for line in lines if line.startswith("Error")]
