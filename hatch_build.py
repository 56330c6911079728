"""What hatchling calls when it makes a wheel: in a clone the built web client goes into it.

Without Node and npm there is no wheel from a clone, unless the client is built already. An editable installation
takes the client from where it is built; images are made from copies of ``src`` alone, and serve no client.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PackWebClient(BuildHookInterface):
    """Builds the client where its sources have changed, and puts it into the package, as ``web/``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """BuildFailed, which ends the build, where the client can't be had."""
        web_build = _load_web_build(Path(self.root))
        if version == "editable" or not web_build.has_sources():
            return
        folder = web_build.build_client()
        for file in sorted(folder.rglob("*")):
            below = file.relative_to(folder).as_posix()
            if file.is_file() and not below.startswith("."):
                build_data["force_include"][str(file)] = f"medical_image_processing/web/{below}"


def _load_web_build(root: Path) -> Any:
    """The module by its file: the package itself can't be imported where only hatchling is installed."""
    file = root / "src" / "medical_image_processing" / "entrypoints" / "web_build.py"
    spec = importlib.util.spec_from_file_location("web_build", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
