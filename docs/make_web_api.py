"""Makes what the web client knows of the API: its OpenAPI description, and the sizes that an algorithm may have.

    .venv/bin/python docs/make_web_api.py && npm run types --prefix clients/react-app

The second command makes the client's TypeScript types of it. A test fails when either is out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from medical_image_processing.api.app import Parts, create_app
from medical_image_processing.model.algorithm import FARGATE_SIZES

CLIENT = Path(__file__).resolve().parents[1] / "clients" / "react-app"
OPENAPI = CLIENT / "openapi.json"
SIZES = CLIENT / "src" / "api" / "fargate-sizes.json"


def main() -> None:
    """Write both files."""
    OPENAPI.write_text(openapi())
    SIZES.write_text(sizes())


def openapi() -> str:
    """The API's description. It tells what there is, and asks nothing of the parts."""
    unused: Any = object()
    parts = Parts(**dict.fromkeys(Parts.__dataclass_fields__, unused))
    app = create_app(parts, allow_origins=(), open_metrics=False)
    return _written(app.openapi())


def sizes() -> str:
    """CPU units and the MiB that go with them."""
    return _written({str(cpu): sorted(memory) for cpu, memory in FARGATE_SIZES.items()})


def _written(value: object) -> str:
    return json.dumps(cast(Any, value), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
