"""What the CDK starts: checks the context, then makes the templates. ``run.py`` starts it.

The context is checked before the CDK's own packages are loaded, which takes seconds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

INFRA = Path(__file__).resolve().parent
sys.path.insert(0, str(INFRA.parent / "src"))

from stack.settings import InvalidSettings, parse_settings  # noqa: E402

ZIP = INFRA / "build" / "lambda.zip"


def main() -> int:
    """Synthesize; the exit status."""
    try:
        parse_settings(json.loads(os.environ.get("CDK_CONTEXT_JSON", "{}")))
        if not ZIP.exists():
            print("infra: there is no zip of the Lambdas yet; start the CDK by run.py", file=sys.stderr)
            return 2
        from stack.assembly import synthesize

        return synthesize(zip_path=str(ZIP))
    except InvalidSettings as error:
        print(f"infra: the context can't be deployed:\n{error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
