"""What all tests share: system parts by name, no silent skips in CI, and a running platform."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from aws_emulator import AwsEmulator, EmulatorMissing, running_emulator
from docker_engine import (
    DockerEngine,
    EngineMissing,
    add_layer,
    build_image,
    ensure_debian_image,
    install_puppet,
    running_engine,
)
from platform_process import Platform

ROOT = Path(__file__).resolve().parents[1]
IMAGES_S = 900

_IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(program, ...): skipped where a program is not installed")
    # An example may take as long as the machine needs; in CI hypothesis's own profile says so already.
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("patient", patient)
    settings.load_profile("patient")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The first test that needs an image waits for Debian and mip-base to be made.

    Where several processes test, what takes long comes first, so that small files are left for the end, when one
    process would wait for the other. The order of what is one process's stays as it is.
    """
    for item in items:
        if {"debian_image", "mip_base_image"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(IMAGES_S), append=False)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _place_in_line(item.nodeid))


_LONGEST_FIRST = ("containers", "test/web/", "test/system/", "test/contract/", "test/infra/", "test/unit/")


def _place_in_line(nodeid: str) -> int:
    """Containers and, after them, browsers, which are one process's, before all others."""
    known = "containers" if _needs_containers(nodeid) else nodeid
    return next((place for place, start in enumerate(_LONGEST_FIRST) if known.startswith(start)), 0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Where several processes test, one has all that needs containers and browsers.

    There is one Docker engine. The rest goes by files, since what their tests share is made once for each.
    (xdist's own groups, which would do, are without effect under this pytest.)
    """
    return _ByFile(config, log)


_CONTAINER_FIXTURES = ("docker_engine", "debian_image", "mip_base_image", "InContainers", "OnFargate")


class _ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _scope_of(nodeid)


def _scope_of(nodeid: str) -> str:
    """What is one process's. Browsers wait for the containers to be done: each that starts or ends changes the
    machine's network, and Chromium then breaks off what it fetches (ERR_NETWORK_CHANGED)."""
    if _needs_containers(nodeid) or nodeid.startswith("test/web/"):
        return "containers and browsers"
    return nodeid.partition("::")[0]


def _needs_containers(nodeid: str) -> bool:
    file, _, name = nodeid.partition("::")
    return _names_containers(file) and "OnProcesses" not in name  # the half of a contract's file that needs none


@cache
def _names_containers(file: str) -> bool:
    text = (ROOT / file).read_text()
    return any(name in text for name in _CONTAINER_FIXTURES)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        missing = [program for program in marker.args if shutil.which(program) is None]
        if missing:
            pytest.skip(f"{', '.join(missing)} not installed; as root, ./mip test installs what it can")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing may be left out: a skip is a failure."""
    report = yield
    if _IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """As above, for modules that skip themselves."""
    report = yield
    if _IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)


@pytest.fixture(scope="session")
def samples_cache() -> Path:
    """Where sample images are kept between runs."""
    from medical_image_processing import samples

    return samples.default_cache()


@pytest.fixture(scope="session")
def small_pacs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds pydicom's CT_small."""
    from medical_image_processing import samples

    folder = tmp_path_factory.mktemp("pacs")
    shutil.copy(samples.ct_small(), folder / "CT_small.dcm")
    return folder


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, small_pacs: Path) -> Iterator[Platform]:
    """One platform for tests that don't disturb each other: each brings its own algorithm id."""
    with Platform(tmp_path_factory.mktemp("platform") / "home", pacs=small_pacs) as running:
        yield running


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """A Docker engine; what a test starts finds it by ``docker_engine.environment``."""
    with _or_skip(), running_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def aws_emulator(samples_cache: Path) -> Iterator[AwsEmulator]:
    """AWS without containers and without IAM, for tests that each take a ``fresh_account``."""
    with _or_skip(), running_emulator(samples_cache) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def movable_aws_emulator(samples_cache: Path) -> Iterator[AwsEmulator]:
    """As above, for tests that let time pass in it."""
    with _or_skip(), running_emulator(samples_cache, movable_clock=True) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def debian_image(docker_engine: DockerEngine, samples_cache: Path) -> str:
    """Debian with Python, in the place of python:3.11-slim, which can't be pulled here."""
    with _or_skip():
        return ensure_debian_image(docker_engine, samples_cache)


@pytest.fixture(scope="session")
def mip_base_image(docker_engine: DockerEngine, debian_image: str) -> str:
    """mip-base, as ``mip build`` makes it. A build of the same files before is used again by the engine."""
    tag = f"mip-test-base:{debian_image.partition(':')[2]}"
    build_image(docker_engine, ROOT / "containers" / "base", tag=tag, base=debian_image)
    return tag


@pytest.fixture(scope="session")
def puppet_image(docker_engine: DockerEngine, mip_base_image: str) -> str:
    """mip-base with the puppet in it, as an algorithm's author would install it."""
    return add_layer(docker_engine, mip_base_image, "puppet", install_puppet)


@contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except (EngineMissing, EmulatorMissing) as error:
        pytest.skip(str(error))
