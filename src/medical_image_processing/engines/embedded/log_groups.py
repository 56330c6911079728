"""Log groups as files: ``/ecs/mip-x`` is ``DIR/ecs/mip-x/worker.log``. Implements ports.resources.Logs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medical_image_processing import naming

_TAIL_BYTES = 256 * 1024
_MOST_BYTES = 64 * 1024 * 1024


class LogGroups:
    """Workers append to their group's file themselves: a line costs the platform nothing."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def exists(self, algo_id: str) -> bool:
        """Whether the group is there."""
        return self._folder(algo_id).is_dir()

    def create(self, algo_id: str) -> None:
        """Make the group."""
        self._folder(algo_id).mkdir(parents=True, exist_ok=True)

    def delete(self, algo_id: str) -> None:
        """Remove the group and its logs."""
        shutil.rmtree(self._folder(algo_id), ignore_errors=True)

    @contextmanager
    def open(self, algo_id: str) -> Iterator[int]:
        """A descriptor that appends to the group."""
        self.create(algo_id)
        descriptor = os.open(self._file(algo_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def trim(self) -> None:
        """Keep each log under a size: the older half of what a chatty algorithm wrote is dropped."""
        for path in self._root.glob("ecs/*/worker.log"):
            if path.stat().st_size > _MOST_BYTES:
                with path.open("rb+") as file:
                    file.seek(-_MOST_BYTES // 2, os.SEEK_END)
                    file.readline()
                    newest = file.read()
                    # Appenders hold the file open, so it is rewritten in place, not replaced.
                    file.truncate(0)
                    file.seek(0)
                    file.write(newest)

    async def tail(self, algo_id: str, *, lines: int) -> list[str]:
        """The newest lines, oldest first."""
        return self._newest(algo_id, lines)

    def last_line(self, algo_id: str) -> str:
        """The last thing a worker said, shortened."""
        newest = [line for line in self._newest(algo_id, 20) if line.strip()]
        return newest[-1].strip()[:500] if newest else "it logged nothing"

    def _newest(self, algo_id: str, lines: int) -> list[str]:
        try:
            with self._file(algo_id).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        return [_printable(line) for line in text.splitlines()[-lines:]] if lines else []

    def _file(self, algo_id: str) -> Path:
        return self._folder(algo_id) / "worker.log"

    def _folder(self, algo_id: str) -> Path:
        return self._root / naming.log_group(algo_id).lstrip("/")


def _printable(line: str) -> str:
    """A worker may write what would command a terminal."""
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in line)
