"""Workers as Docker containers: each algorithm in its own small, locked room.

A container has a hard limit of memory and cores, a read-only root with a sized /tmp, no capabilities, a user
that isn't root, a limit of processes, and a network on which only the platform answers
(:mod:`docker_network`). What was left of an earlier life of the platform is removed at the next start: its
credentials died with it.

Sources: Docker Engine API 1.41, "Create a container"; ``docker run`` reference, "Runtime constraints on
resources".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from requests.exceptions import RequestException

from medical_image_processing import naming
from medical_image_processing.engines.embedded.docker_network import WorkerNetwork
from medical_image_processing.engines.embedded.log_groups import LogGroups
from medical_image_processing.engines.embedded.runtime import Ending
from medical_image_processing.engines.embedded.task import Task
from medical_image_processing.errors import PermanentError, Unavailable
from medical_image_processing.model.algorithm import AlgorithmSpec

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_CALL_TIMEOUT_S = 60
_PROBE_TIMEOUT_S = 5
_MOST_CALLS = 8
_MOST_PROCESSES = 512
_LAST_SIGNAL = 64
_LOG_BURST_BYTES = 16 << 20
_LOG_BYTES_A_SECOND = 1 << 20
_NOBODY = "65534:65534"
_NUMERIC_USER = re.compile(r"([1-9][0-9]*)(?::([1-9][0-9]*))?")
_REMOVAL_S = 4.0
_LAST_CALL_S = 3
_OWN_FIRST_PROCESS = "mip.first-process"
"""The label of images whose command is fit to be a container's first process, as mip-base's worker is. Any other
gets docker-init before it, which keeps the environment, with its keys, readable to whatever else runs there."""
# What docker-init says, or the engine itself, when the command can't be started.
_EXEC_FAILED = re.compile(
    r"(?i)(no such file or directory|permission denied|exec format error|not found in \$PATH)"
)
_FATAL = "[FATAL tini"
_NEVER_STARTS = {
    "no such file or directory": (
        "COMMAND_NOT_FOUND",
        "has no program '{command}' in its image, or not the interpreter that its first line names",
    ),
    "permission denied": ("COMMAND_NOT_EXECUTABLE", "may not execute '{command}'; chmod +x it in the image"),
    "exec format error": (
        "WRONG_ARCHITECTURE",
        "can't execute '{command}': built for another architecture, or a script without a #! line",
    ),
}


def connect() -> docker.DockerClient:
    """A client of the engine that DOCKER_HOST, or else the default socket, answers for.

    Unavailable ``DOCKER_UNAVAILABLE``.
    """
    try:
        client = docker.from_env(timeout=_PROBE_TIMEOUT_S, max_pool_size=_MOST_CALLS)
        client.ping()
    except (DockerException, RequestException) as error:
        raise Unavailable(
            "DOCKER_UNAVAILABLE",
            "no Docker engine answers; start it (on Debian: apt-get install docker.io), see that you may use "
            "it (group docker), or run workers as processes with --runtime process",
        ) from error
    client.api.timeout = _CALL_TIMEOUT_S
    return client


def platform_id(home: Path) -> str:
    """What marks a platform's containers and network: the same at each start on that home."""
    return hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]


class ContainerRuntime:
    """Implements :class:`runtime.Runtime`. The network is open already, and stays so."""

    name = "docker"

    def __init__(
        self, client: docker.DockerClient, network: WorkerNetwork, *, platform_id: str, logs: LogGroups
    ) -> None:
        self._client = client
        self._network = network
        self._labels = {"mip.platform": platform_id}
        self._logs = logs
        self._calls = ThreadPoolExecutor(_MOST_CALLS, thread_name_prefix="docker")
        self._copiers: dict[str, threading.Thread] = {}
        self._names: set[str] = set()
        engine = client.version()
        self._architecture: str = engine["Arch"]
        self._cores: int = client.info()["NCPU"]

    async def image_digest(self, spec: AlgorithmSpec) -> str | None:
        """The image's id. PermanentError ``IMAGE_NOT_FOUND``, ``WRONG_ARCHITECTURE``."""
        return await self._call(lambda: self._inspect_image(spec.image_uri))

    async def start(self, task: Task, environment: Mapping[str, str]) -> WorkerContainer:
        """A container of the pinned image. PermanentError ``IMAGE_NOT_FOUND`` once that is gone."""
        name = f"{naming.service(task.algo_id)}-{secrets.token_hex(4)}"
        self._names.add(name)
        try:
            container_id, said = await self._call(lambda: self._start(name, task, dict(environment)))
        except BaseException:
            self._names.discard(name)
            raise
        container = WorkerContainer(self, self._client.api, container_id, name, task)
        copier = threading.Thread(target=container.follow, args=(said, self._logs), name=name, daemon=True)
        self._copiers[name] = copier
        copier.start()
        return container

    async def end_leftovers(self) -> None:
        """Remove every container of this platform that isn't one of this life's workers."""
        list_all = partial(self._client.api.containers, all=True, filters=self._filters())
        found: list[dict[str, Any]] = await self._call(list_all)
        leftovers = [one["Id"] for one in found if not {name[1:] for name in one["Names"] or ()} & self._names]
        await asyncio.gather(*(self._call(partial(self._remove, container)) for container in leftovers))

    async def sweep(self) -> None:
        """Remove what an engine that went away left behind; mend the network if somebody took it away."""
        await self.end_leftovers()
        await self._call(self._network.repair)

    async def close(self) -> None:
        """Wait until the containers are removed; not for long where the engine hangs."""
        self._client.api.timeout = _LAST_CALL_S
        await asyncio.to_thread(self._join_copiers)
        self._names.clear()
        try:
            await asyncio.wait_for(self.end_leftovers(), _REMOVAL_S)
        except (Unavailable, TimeoutError):
            _LOG.warning("the Docker engine does not answer; its containers are removed at the next start")
        self._calls.shutdown(wait=False, cancel_futures=True)

    def remove(self, container_id: str, name: str) -> None:
        """Remove a container that has ended; in the thread that followed it. The sweep does, if this can't."""
        with contextlib.suppress(DockerException, RequestException):
            self._remove(container_id)
        self._names.discard(name)
        self._copiers.pop(name, None)

    def in_background(self, call: Callable[[], object]) -> None:
        """Do it when a thread is free; that the container has ended by then is no error."""

        def attempt() -> None:
            with contextlib.suppress(DockerException, RequestException):
                call()

        self._calls.submit(attempt)

    async def _call(self, call: Callable[[], T]) -> T:
        """Docker's client waits for answers, so it does in a thread. Its errors in our words."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._calls, call)
        except (DockerException, RequestException) as error:
            raise Unavailable("DOCKER_UNAVAILABLE", f"the Docker engine refuses: {_said(error)}") from error

    def _inspect_image(self, image_uri: str) -> str:
        try:
            image = self._client.api.inspect_image(image_uri)
        except ImageNotFound as error:
            raise PermanentError(
                "IMAGE_NOT_FOUND",
                f"the image {image_uri} is not on this machine; build it (mip build FOLDER) or docker pull it",
            ) from error
        except APIError as error:
            if error.is_client_error():
                raise PermanentError("IMAGE_NOT_FOUND", f"{image_uri} can't name an image") from error
            raise
        if (image["Os"], image["Architecture"]) != ("linux", self._architecture):
            raise PermanentError(
                "WRONG_ARCHITECTURE",
                f"the image {image_uri} is for {image['Os']}/{image['Architecture']}, this machine's engine runs "
                f"linux/{self._architecture}; build it for that (docker build --platform)",
            )
        if volumes := image["Config"].get("Volumes"):
            raise PermanentError(
                "IMAGE_HAS_VOLUMES",
                f"the image {image_uri} declares VOLUME {', '.join(sorted(volumes))}, which would be a place on "
                "this machine's disk; leave that line out of its Dockerfile, and write to /tmp",
            )
        return str(image["Id"])

    def _start(self, name: str, task: Task, environment: dict[str, str]) -> tuple[str, Iterator[bytes]]:
        """The container's id, and what it says from its first byte on."""
        api = self._client.api
        try:
            image = api.inspect_image(task.image_digest)["Config"]
            made = api.create_container(
                image=task.image_digest,
                name=name,
                entrypoint=[""],  # clears the image's: the record's command is the whole command
                command=list(task.command),
                user=_user(image.get("User") or ""),
                environment={"HOME": "/tmp", **environment},  # noqa: S108 - the only place it may write
                labels={**self._labels, "mip.algorithm": task.algo_id, "mip.task": task.name},
                host_config=self._host_config(task, init=_OWN_FIRST_PROCESS not in (image.get("Labels") or {})),
            )
        except (ImageNotFound, NotFound) as error:
            raise PermanentError(
                "IMAGE_NOT_FOUND",
                f"the image that {task.image_uri} was pinned to ({task.image_digest}) is gone from this machine; "
                "build it again, and name it anew: mip algorithms update --image",
            ) from error
        container_id: str = made["Id"]
        try:
            said = api.attach(container_id, stdout=True, stderr=True, stream=True)
            api.start(container_id)
        except BaseException as error:
            self._remove(container_id)
            if isinstance(error, APIError) and (never := _never_starts(_said(error), task)) is not None:
                raise PermanentError(never.code, f"it {never.sentence}") from error
            raise
        return container_id, said

    def _host_config(self, task: Task, *, init: bool) -> dict[str, Any]:
        memory = task.memory * 2**20
        config: dict[str, Any] = self._client.api.create_host_config(
            network_mode=self._network.name,
            mem_limit=memory,
            memswap_limit=memory,
            # Docker refuses more cores than there are; a limit above that would be none anyway.
            nano_cpus=min(task.cpu * 10**9 // 1024, self._cores * 10**9),
            pids_limit=_MOST_PROCESSES,
            read_only=True,
            tmpfs={"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={memory // 2}"},  # noqa: S108
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            init=init,  # passes signals on, and to programs that know none their default meaning
            log_config=docker.types.LogConfig(type="none"),  # the log group has it
            # Else the engine would ask this machine's resolver, which is a way out; this one never answers.
            dns=["127.0.0.1"],
            dns_opt=["timeout:1", "attempts:1"],
            restart_policy={"Name": "no"},
        )
        return config

    def _remove(self, container_id: str) -> None:
        """End it if it runs; one that is gone already is no error."""
        with contextlib.suppress(NotFound):
            try:
                self._client.api.remove_container(container_id, force=True, v=True)
            except APIError as error:
                if error.status_code != 409:  # its removal is under way
                    raise

    def _filters(self) -> dict[str, list[str]]:
        return {"label": [f"{name}={value}" for name, value in self._labels.items()]}

    def _join_copiers(self) -> None:
        end = time.monotonic() + _REMOVAL_S
        for copier in list(self._copiers.values()):
            copier.join(max(0.0, end - time.monotonic()))


class WorkerContainer:
    """Implements :class:`runtime.RunningWorker`."""

    def __init__(self, runtime: ContainerRuntime, api: Any, container_id: str, name: str, task: Task) -> None:
        self._runtime = runtime
        self._api = api
        self._id = container_id
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self.name = name

    async def ended(self) -> Ending:
        """Wait until it has ended and its log is in the log group."""
        return await asyncio.shield(self._ending)

    def send_signal(self, number: signal.Signals) -> None:
        """To the container's first process, which passes it on."""
        self._runtime.in_background(lambda: self._api.kill(self._id, number.value))

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        self.send_signal(signal.SIGKILL)

    def follow(self, said: Iterator[bytes], logs: LogGroups) -> None:
        """In a thread: copy what it says to the log group until it ends, find out how it ended, remove it."""
        last = b""
        try:
            with logs.open(self._task.algo_id) as descriptor:
                log = _Log(descriptor)
                for chunk in said:
                    log.write(chunk)
                    last = (last + chunk)[-2000:]
            ending = self._find_ending(last.decode(errors="replace"))
        except Exception as error:  # whatever it is: the supervisor waits for this, and nothing else tells it
            _LOG.warning("%s was lost sight of: %s", self.name, type(error).__name__)
            ending = Ending(
                "WORKER_LOST", f"was lost sight of ({type(error).__name__}); does the Docker engine answer?"
            )
        with contextlib.suppress(RuntimeError):  # the platform has stopped waiting
            self._loop.call_soon_threadsafe(self._end, ending)
        self._runtime.remove(self._id, self.name)

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    def _find_ending(self, last: str) -> Ending:
        status = int(self._api.wait(self._id, timeout=_CALL_TIMEOUT_S)["StatusCode"])
        if _FATAL in last and (never := _never_starts(last.rpartition(_FATAL)[2], self._task)) is not None:
            return never
        # Whichever process it was that the kernel ended: what counts is whether the container ended of it.
        ran_out = self._api.inspect_container(self._id)["State"]["OOMKilled"]
        if ran_out and status == 128 + signal.SIGKILL:
            return Ending("OUT_OF_MEMORY", f"ran out of memory: its limit is {self._task.memory} MiB")
        ending = Ending.of_status(128 - status if 128 < status <= 128 + _LAST_SIGNAL else status)
        if ran_out:
            ending = replace(ending, sentence=f"{ending.sentence}, after a process of it ran out of memory")
        return ending


class _Log:
    """Writes to a log group, but no faster than a log should grow; a full disk costs lines, not the container."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._allowance = float(_LOG_BURST_BYTES)
        self._at = time.monotonic()
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Write it, or leave it out and say so when there is room again."""
        now = time.monotonic()
        self._allowance = min(_LOG_BURST_BYTES, self._allowance + (now - self._at) * _LOG_BYTES_A_SECOND)
        self._at = now
        if len(data) > self._allowance:
            self._left_out += len(data)
            return
        note = f"\n(the platform left out {self._left_out} bytes here)\n".encode() if self._left_out else b""
        try:
            os.write(self._descriptor, note + data)
        except OSError:
            self._left_out += len(data)
            return
        self._allowance -= len(data)
        self._left_out = 0


def _user(named: str) -> str:
    """The image's user if that is a number and not root's, nor its group; a name could be root's."""
    number = _NUMERIC_USER.fullmatch(named)
    return f"{number[1]}:{number[2] or number[1]}" if number else _NOBODY


def _never_starts(said: str, task: Task) -> Ending | None:
    """What an attempt to start the command tells of it, if it is that no other attempt would succeed."""
    if (failed := _EXEC_FAILED.search(said)) is None:
        return None
    code, sentence = _NEVER_STARTS.get(failed[1].lower(), _NEVER_STARTS["no such file or directory"])
    return Ending(code, sentence.format(command=task.command[0]), hopeless=True)


def _said(error: Exception) -> str:
    """What the engine said, in one short line; it knows nothing about patients."""
    text = getattr(error, "explanation", None) or type(error).__name__
    return " ".join(str(text).split())[:300]
