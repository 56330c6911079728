"""The one door to the CDK: ``python infra/run.py synth|deploy|diff|destroy|bootstrap|list [cdk's arguments]``.

Makes the CDK's environments and the Lambdas' zip first, so nothing has to be prepared by hand. Standard
library only. The exit status is the CDK's; 1 when it couldn't be started, with one sentence of why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import lambda_package
from environment import CDK, INFRA, PYTHON, InfraError, ensure_infra, node

COMMANDS = ("synth", "deploy", "diff", "destroy", "bootstrap", "list")


def main(arguments: Sequence[str]) -> int:
    """Run the CDK; the exit status."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        ensure_infra()
        lambda_package.ensure_zip()
        return subprocess.run(cdk(arguments), cwd=INFRA, env=environment(), check=False).returncode  # noqa: S603
    except (InfraError, OSError) as error:
        print(f"infra: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninfra: interrupted", file=sys.stderr)
        return 130
    return 1


def cdk(arguments: Sequence[str]) -> list[str]:
    """The command line of the CDK, with our app."""
    return [node(), str(CDK), *arguments, "--app", f'"{PYTHON}" "{INFRA / "app.py"}"']


def environment() -> dict[str, str]:
    """What the CDK runs with: it reports nothing home, and asks for no newer version."""
    return {**os.environ, "CDK_DISABLE_CLI_TELEMETRY": "true", "CDK_DISABLE_VERSION_CHECK": "true"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
