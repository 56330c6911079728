"""What a worker is started from: the embedded engine's task definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from medical_image_processing import naming
from medical_image_processing.model.algorithm import AlgorithmSpec

WORKER_COMMAND = "/app/worker.sh"
"""The entry point of images built on mip-base."""


@dataclass(frozen=True)
class Task:
    """One version of an algorithm, as one runtime runs it. ``name`` is its task definition's.

    ``image_digest`` pins what ``image_uri`` named when the version was registered; a runtime without images has
    None. ``memory`` in MiB, ``cpu`` in CPU units (1024 = one core).
    """

    name: str
    algo_id: str
    fingerprint: str
    runtime: str
    image_uri: str
    image_digest: str | None
    command: tuple[str, ...]
    env: dict[str, str]
    cpu: int
    memory: int
    revision: int
    outputs: tuple[str, ...] = ("SC",)

    @classmethod
    def of(cls, spec: AlgorithmSpec, *, revision: int, runtime: str, image_digest: str | None) -> Self:
        """The task of ``spec``."""
        return cls(
            name=f"{naming.service(spec.algorithm_id)}:{revision}",
            algo_id=spec.algorithm_id,
            fingerprint=spec.task_fingerprint(),
            runtime=runtime,
            image_uri=spec.image_uri,
            image_digest=image_digest,
            command=spec.command,
            env=dict(spec.env),
            cpu=spec.cpu,
            memory=spec.memory,
            revision=revision,
            outputs=tuple(spec.outputs),
        )

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Self:
        """From what was kept of it."""
        kept = dict(row)
        for name in {"command", "outputs"} & kept.keys():
            kept[name] = tuple(kept[name])
        return cls(**kept)

    def environment(self, platform: dict[str, str]) -> dict[str, str]:
        """What a worker is told: threads for its cores, the record's env, then what the platform sets."""
        threads = {"OMP_NUM_THREADS": str(max(1, self.cpu // 1024))}
        mine = {"ALGO_ID": self.algo_id, "MIP_TASK": self.name, "MIP_REVISION": str(self.revision)}
        mine["MIP_OUTPUTS"] = ",".join(self.outputs)
        if self.image_digest is not None:
            mine["MIP_IMAGE_DIGEST"] = self.image_digest
        return {**threads, **self.env, **platform, **mine}
