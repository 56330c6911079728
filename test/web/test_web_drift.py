"""What the client knows of the API is what the API says, and its own checks pass."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from web_client import CLIENT, built_client, run_npm

from medical_image_processing.engines.aws import bucket_archive, outputs

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/medical_image_processing"
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|UNAUTHORIZED")
MAKERS = {
    "AlgorithmFailed",
    "Conflict",
    "Ending",
    "Forbidden",
    "InputRejected",
    "InvalidRequest",
    "JobError",
    "NotFound",
    "PermanentError",
    "StaleRevision",
    "Throttled",
    "TransientError",
    "Unauthorized",
    "Unavailable",
}
"""What an error is made with: its code comes first, or is named so."""
NOT_MET = {
    "about a service of the platform itself, said in its log or in a record's reason": """
        AWS_BUSY AWS_CALL AWS_CREDENTIALS AWS_REFUSED BAD_ENVIRONMENT BAD_ISSUER COMMAND_NOT_ALLOWED
        COMMAND_NOT_FOUND DATABASE_TOO_NEW DATABASE_UNUSABLE DOCKER_UNAVAILABLE ENV_NOT_ALLOWED FIREWALL_REFUSED
        IMAGE_HAS_VOLUMES
        IMAGE_IN_ANOTHER_REGION IMAGE_NOT_PINNED LOG_GROUP_NOT_SETTLED NETWORK_REFUSED NO_AUDIENCE NO_CREDENTIALS
        PACS_KEY_TAKEN PROCESSOR_UNUSABLE PUSH_FAILED QUEUE_DELETED_RECENTLY ROLE_NOT_KNOWN_YET ROLE_NOT_SETTLED
        ROLE_TAKEN SAMPLE_UNAVAILABLE SECRET_UNREADABLE SERVICE_DRAINING SETTING_MISSING SETTING_WRONG
        TOO_MANY_WORKERS UNKNOWN_PROCESSOR UNKNOWN_QUEUE UNKNOWN_TASK_DEFINITION WRONG_ARCHITECTURE""",
    "of C-STORE, whose jobs are a node's": """
        DISK_FULL NODE_UNAVAILABLE PARAMETERS_NEEDED SEND_REFUSED UNKNOWN_TITLE WRONG_SOP_CLASS""",
    "of calls that the client does not make": """
        FILTER_NEEDED INVALID_HOST ISSUER_UNAVAILABLE KEY_NAME_TAKEN NOT_REPLAYABLE NO_RESULT UNKNOWN_KEY
        UNKNOWN_ROUTE""",
    "which can't come up, or is dealt with": "INVALID_CURSOR JOB_ID_TAKEN LINK_EXPIRED LINK_INVALID NO_PICTURE",
}
"""What nobody who uses the client is told, and why."""


def test_the_description_and_the_sizes_are_the_apis_own() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import make_web_api

    assert make_web_api.OPENAPI.read_text() == make_web_api.openapi(), "run docs/make_web_api.py"
    assert make_web_api.SIZES.read_text() == make_web_api.sizes(), "run docs/make_web_api.py"


def test_the_types_are_made_of_the_description(tmp_path: Path) -> None:
    built_client()  # so that the packages are there
    made = tmp_path / "openapi.d.ts"
    run_npm("exec", "--no", "--", "openapi-typescript", "openapi.json", "--output", str(made))
    assert (CLIENT / "src/api/openapi.d.ts").read_text() == made.read_text(), "run npm run types"


def test_the_codes_that_the_client_explains_are_the_platforms_and_none_is_left_out() -> None:
    words = [(CLIENT / "src/i18n" / f"{lang}.ts").read_text() for lang in ("en", "it")]
    explained, in_italian = (set(re.findall(r'"error\.([A-Z0-9_]+)"', text)) for text in words)
    mended, mended_in_italian = (set(re.findall(r'"fix\.([A-Z0-9_]+)"', text)) for text in words)
    assert explained == in_italian and mended == mended_in_italian
    assert mended <= explained, "how to mend what is not explained"
    trees = [ast.parse(file.read_text()) for file in sources()]
    assert explained <= {value for tree in trees for value in texts(tree)}, "no part of the platform says this"
    left_out = {code for tree in trees for code in stated_codes(tree)} - explained
    assert left_out == {code for codes in NOT_MET.values() for code in codes.split()}


def sources() -> list[Path]:
    """All but the command line, the platform's own start, and tests."""
    files = PACKAGE.rglob("*.py")
    return [file for file in files if file.relative_to(PACKAGE).parts[0] not in ("entrypoints", "testing")]


def texts(tree: ast.AST) -> set[str]:
    """The strings in it."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def stated_codes(tree: ast.AST) -> set[str]:
    """The codes of the errors that it makes."""
    constants = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
            for given in [*node.args[:1], *(one.value for one in node.keywords if one.arg == "code")]:
                one = constants.get(given.id, given) if isinstance(given, ast.Name) else given
                code = one.value if isinstance(one, ast.Constant) else None
                if isinstance(code, str) and CODE.fullmatch(code):
                    found.add(code)
    return found


def test_lint_and_unit_tests_of_the_client_pass() -> None:
    built_client()
    run_npm("run", "check")


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (CLIENT / "package-lock.json").read_text()


@pytest.mark.parametrize("most_kb", [400])
def test_the_first_page_is_small(most_kb: int) -> None:
    import gzip
    import re

    built = built_client()
    page = (built / "index.html").read_text()
    names = re.findall(r'(?:src|href)="/(assets/[^"]+\.js)"', page)
    assert names, page
    # And what the entry imports at once.
    for name in list(names):
        text = (built / name).read_text()
        names += [f"assets/{one}" for one in re.findall(r'from"\./([^"]+\.js)"', text)]
    size = sum(len(gzip.compress((built / name).read_bytes())) for name in set(names))
    assert size <= most_kb * 1000, f"{size} bytes in {sorted(set(names))}"


def test_links_are_kept_for_less_long_than_they_are_good() -> None:
    """Over a bucket and for results on AWS: elsewhere they are good for longer."""
    lifetimes = {"viewer/images.ts": bucket_archive.LINK_LIFETIME_S, "state/jobs.ts": outputs.LIFETIME_S}
    for module, lifetime_s in lifetimes.items():
        [minutes] = re.findall(r"_MS = (\d+) \* 60_000;", (CLIENT / "src" / module).read_text())
        assert int(minutes) * 60 + 60 <= lifetime_s, module
