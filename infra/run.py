"""The one door to the CDK: ``python infra/run.py synth|deploy|diff|destroy|bootstrap|list [cdk's arguments]``.

Makes the CDK's environments and the Lambdas' zip first, so nothing has to be prepared by hand. Standard
library only. The exit status is the CDK's; 1 when it couldn't be started, with one sentence of why.

``python infra/run.py assemble FOLDER [-c NAME=VALUE]…`` writes the templates and what they need into FOLDER,
by our app alone, for tests and whoever wants to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import lambda_package
from environment import CDK, INFRA, PYTHON, InfraError, ensure_infra, node, only_one_at_a_time

COMMANDS = ("synth", "deploy", "diff", "destroy", "bootstrap", "list")


def main(arguments: Sequence[str]) -> int:
    """Run the CDK or our app; the exit status."""
    if not arguments or arguments[0] not in (*COMMANDS, "assemble"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with only_one_at_a_time():
            ensure_infra()
            lambda_package.ensure_zip()
        command, extra = assemble(arguments[1:]) if arguments[0] == "assemble" else (cdk(arguments), {})
        return subprocess.run(command, cwd=INFRA, env={**environment(), **extra}, check=False).returncode  # noqa: S603
    except (InfraError, OSError) as error:
        print(f"infra: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninfra: interrupted", file=sys.stderr)
        return 130
    return 1


def cdk(arguments: Sequence[str]) -> list[str]:
    """The command line of the CDK, with our app, unless ``--app`` names a folder that was assembled before.

    The app starts from this folder, so that no path of it needs quoting.
    """
    app = [] if "--app" in arguments else ["--app", f"{PYTHON.relative_to(INFRA)} app.py"]
    return [node(), str(CDK), *arguments, *app]


def assemble(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Our app's command line and what it is told by environment, as the CDK would start it."""
    parser = argparse.ArgumentParser(prog="run.py assemble")
    parser.add_argument("folder")
    parser.add_argument("-c", "--context", action="append", default=[], metavar="NAME=VALUE")
    asked = parser.parse_args(arguments)
    context = dict(pair.split("=", 1) if "=" in pair else (pair, "true") for pair in asked.context)
    folder = os.path.abspath(asked.folder)  # noqa: PTH100 - not resolved: links may be meant
    return [str(PYTHON), str(INFRA / "app.py")], {"CDK_OUTDIR": folder, "CDK_CONTEXT_JSON": json.dumps(context)}


def environment() -> dict[str, str]:
    """What all of it runs with: nothing is reported home, no newer version looked for.

    The CDK's Node.js side warns of each version of Node.js that is no longer young; ours is checked before.
    """
    quiet = {
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        "CDK_DISABLE_VERSION_CHECK": "true",
        "NODE_NO_WARNINGS": "1",
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20",
        "JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION": "true",
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "true",
    }
    return {**os.environ, **quiet}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
