"""``python -m medical_image_processing.worker``: run this container's algorithm on its queue until SIGTERM.

For how it ends see :func:`~medical_image_processing.worker.start.run_worker`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medical_image_processing.worker.config import WorkerConfig
from medical_image_processing.worker.start import run_worker

if TYPE_CHECKING:
    from medical_image_processing.processing.base import Processor


def _load(config: WorkerConfig) -> Processor:
    from medical_image_processing.processing.base import Processor

    return Processor.factory(config.algo_id)


if __name__ == "__main__":
    run_worker(_load)
