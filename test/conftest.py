"""What all tests share: system parts by name, no silent skips in CI, and a running platform."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from platform_process import Platform

_IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(program, ...): skipped where a program is not installed")


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
    return Path(os.environ.get("MIP_SAMPLES") or "~/.cache/mip").expanduser()


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
