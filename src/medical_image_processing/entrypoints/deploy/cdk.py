"""The CDK, through infra/run.py, which prepares what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medical_image_processing.engines.aws.clients import Refused
from medical_image_processing.entrypoints.deploy.account import Account
from medical_image_processing.errors import Unavailable

BOOTSTRAP_PARAMETER = "/cdk-bootstrap/hnb659fds/version"
LAST_LINES = 30

_WIDTH = 110

Tell = Callable[[str], None]


class Cdk:
    """Runs its commands for one account and region. ``context`` are the choices of infra/stack/settings.py."""

    def __init__(self, root: Path, account: Account, number: str, context: Mapping[str, str]) -> None:
        self._root = root
        self._account = account
        self._number = number
        self._context = dict(context)

    def is_bootstrapped(self) -> bool:
        """Whether the region has what the CDK deploys with."""
        try:
            self._account.call("ssm", "get_parameter", Name=BOOTSTRAP_PARAMETER)
        except Refused as error:
            if error.aws_code == "ParameterNotFound":
                return False
            raise
        return True

    def run(self, command: str, *arguments: str, context: Mapping[str, str] | None = None, tell: Tell) -> None:
        """One command of the CDK; ``tell`` hears each line. Unavailable ``CDK_FAILED``, with the last ones."""
        lines: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen(  # noqa: S603 - our own interpreter and script
            self._command(command, arguments, {**self._context, **(context or {})}),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                if line.strip():
                    lines.append(line.rstrip())
                    tell(f"{command}: {' '.join(line.split())}"[:_WIDTH])
        if process.returncode:
            raise Unavailable(
                "CDK_FAILED",
                f"`cdk {command}` ended with {process.returncode}; mend what stands above, then run it again",
                details={"log": list(lines)},
            )

    def bootstrap(self, tell: Tell) -> None:
        """Make in the region what the CDK deploys with."""
        self.run("bootstrap", f"aws://{self._number}/{self._account.region}", tell=tell)

    def deploy(self, stack: str, *, new: bool, context: Mapping[str, str] | None = None, tell: Tell) -> None:
        """Make one stack what infra/ says. A ``new`` one takes up what stayed of an earlier one of its name."""
        options = ["--exclusively", "--require-approval", "never", "--progress", "events"]
        if new:
            options.append("--import-existing-resources")
        self.run("deploy", stack, *options, context=context, tell=tell)

    def destroy(self, stack: str, tell: Tell) -> None:
        """Remove one stack."""
        self.run("destroy", stack, "--exclusively", "--force", tell=tell)

    def diff(self) -> None:
        """Print what a deployment would change."""
        command = self._command("diff", (), self._context)
        status = subprocess.run(command, env=self._environment(), stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603
        if status:
            raise Unavailable("CDK_FAILED", f"`cdk diff` ended with status {status}; what went wrong stands above")

    def _command(self, command: str, arguments: Sequence[str], context: Mapping[str, str]) -> list[str]:
        chosen = [word for name, value in context.items() for word in ("-c", f"{name}={value}")]
        return [sys.executable, str(self._root / "infra" / "run.py"), command, *arguments, *chosen]

    def _environment(self) -> dict[str, str]:
        region = self._account.region
        return {**os.environ, "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "CDK_DEFAULT_REGION": region}
