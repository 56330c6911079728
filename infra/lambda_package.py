"""The zip that every Lambda runs: our code that a Lambda needs, and the packages of ``requirements-lambda.lock``.

Made without Docker: all packages are wheels for the Lambdas' platform, whatever this machine is. Made
reproducibly: names sorted, times and modes fixed, nothing in it that depends on the folder or on this
machine, so that the same code is the same asset and a second deployment changes nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from environment import INFRA, ROOT, step, uv

LOCK = ROOT / "requirements-lambda.lock"
SOURCE = ROOT / "src"
BUILD = INFRA / "build"
ZIP = BUILD / "lambda.zip"

OURS = (
    "__init__.py",
    "errors.py",
    "memory.py",
    "naming.py",
    "api",
    "control",
    "engines/__init__.py",
    "engines/aws",
    "entrypoints/__init__.py",
    "entrypoints/lambdas",
    "model",
    "ports",
)
"""Below ``medical_image_processing``. Worker, algorithms and the embedded engine stay out."""

PLATFORM = ("--python-platform", "x86_64-manylinux2014", "--python-version", "3.11")
"""Lambda's Python 3.11 runs on Amazon Linux 2, whose glibc is 2.26."""

AWS_SERVICES = (
    "apigatewaymanagementapi",
    "cloudwatch",
    "dynamodb",
    "ecr",
    "ecs",
    "iam",
    "lambda",
    "logs",
    "s3",
    "secretsmanager",
    "sqs",
    "ssm",
    "sts",
)
"""botocore describes over four hundred services in 25 MB; the Lambdas call these."""

LEFT_OUT = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
"""Notes of an installation, which differ from one to the next."""

FIXED_TIME = (1980, 1, 1, 0, 0, 0)
MODE = 0o100644 << 16


def ensure_zip() -> Path:
    """The zip, made anew when the lock or our code has changed. InfraError."""
    wanted = content_hash()
    stamp = BUILD / "lambda.stamp"
    if not (ZIP.exists() and stamp.exists() and stamp.read_text() == wanted):
        stamp.unlink(missing_ok=True)
        write_zip(ZIP, ensure_packages())
        stamp.write_text(wanted)
        print(f"infra: zip of the Lambdas: {ZIP.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
    return ZIP


def content_hash() -> str:
    """A hash of everything that the zip is made from."""
    digest = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes())
    for name, file in our_files():
        digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def ensure_packages() -> Path:
    """A folder with the packages of the lock, unpacked."""
    folder = BUILD / f"packages-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        for old in BUILD.glob("packages-*"):
            shutil.rmtree(old)
        unfinished = BUILD / "packages.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        only_wheels = ["--only-binary", ":all:", "--require-hashes", "--no-deps"]
        target = [*PLATFORM, "--target", str(unfinished)]
        install = [uv(), "pip", "install", "--system-certs", *target, *only_wheels, "-r", str(LOCK)]
        step("packages of requirements-lambda.lock", install)
        unfinished.rename(folder)
    return folder


def write_zip(target: Path, packages: Path) -> None:
    """Write the zip of ``packages`` and our own files. The same content gives the same bytes."""
    files = dict(package_files(packages))
    files.update(our_files())
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, file in sorted(files.items()):
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.create_system = 3  # Unix, so that the mode is read on whatever machine made it
            entry.external_attr = MODE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())


def package_files(packages: Path) -> Iterator[tuple[str, Path]]:
    """Name in the zip and file, of what the installed packages need to run."""
    for file in packages.rglob("*"):
        name = file.relative_to(packages)
        if file.is_file() and is_needed(name):
            yield name.as_posix(), file


def is_needed(name: Path) -> bool:
    """Whether a package's file is needed: no programs, no compiled Python, no service nobody calls."""
    parts = name.parts
    if parts[0] in ("bin", ".lock") or name.suffix == ".pyc" or name.name in LEFT_OUT:
        return False
    described = parts[:2] == ("botocore", "data") and len(parts) > 3
    return not described or parts[2] in AWS_SERVICES


def our_files() -> Iterator[tuple[str, Path]]:
    """Name in the zip and file, of our own code."""
    package = SOURCE / "medical_image_processing"
    for part in OURS:
        place = package / part
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and file.suffix != ".pyc":
                yield file.relative_to(SOURCE).as_posix(), file
