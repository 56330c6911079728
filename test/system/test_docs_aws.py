"""What the AWS pages tell a person to type with ``mip`` runs: here against a platform of this machine."""

import os
import re
import subprocess
from pathlib import Path

from platform_process import Platform

ROOT = Path(__file__).resolve().parents[2]
EVAL = 'eval "$(mip env --stack ImgPipeline)"'


def blocks(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def shell(script: str, platform: Platform) -> str:
    """Run a page's ``mip`` commands as a person would; what they printed. Those of ``aws`` need AWS."""
    kept = re.sub(r"^aws .*\n", "", script, flags=re.MULTILINE).replace(EVAL, f". {platform.home / 'env'}")
    ran = subprocess.run(
        ["/bin/sh", "-eu", "-c", re.sub(r"^mip ", f"{ROOT / 'mip'} ", kept, flags=re.MULTILINE)],
        cwd=platform.home,
        env={"PATH": os.environ["PATH"], "HOME": str(platform.home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_an_earlier_algorithm_is_registered_and_looked_after_as_the_pages_say(
    small_pacs: Path, tmp_path: Path
) -> None:
    with Platform(tmp_path / "home", pacs=small_pacs) as running, running.client() as client:
        (register,) = [
            block for block in blocks("migration.md") if "legacy_output_keys" in block and EVAL in block
        ]
        assert "ACTIVE" in shell(register, running)
        record = client.call("GET", "admin", "algorithms", "processing_1")
        assert record["legacy_output_keys"] is True

        variables = f". {running.home / 'env'}\n"
        (show,) = [block for block in blocks("troubleshooting.md") if "mip algorithms logs" in block]
        assert "ACTIVE" in shell(variables + show, running)

        (patch,) = [block for block in blocks("migration.md") if "curl -X PATCH" in block]
        shell(variables + patch, running)
        record = client.call("GET", "admin", "algorithms", "processing_1")
        assert (record["legacy_output_keys"], record["image_uri"][-4:]) == (False, "-new")
