"""The machine that the packages are installed on."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from booted import cloud, debian
from booted.machine import Machine
from booted.packages import Packages


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what ``scripts/test-package`` passes on."""
    parser.addoption("--systems", type=Path, help="folder that systems are kept in")
    parser.addoption("--place", type=Path, help="empty folder beside it for the machines, which the caller removes")


def pytest_configure() -> None:
    """Have SIGTERM end the machines in the same way as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> Path:
    """The folder for the machines."""
    folder: Path = request.config.getoption("place")
    return folder


@pytest.fixture(scope="session")
def packages(dist: Path, place: Path) -> Packages:
    """The package for this machine's architecture, and the one before it."""
    architecture = subprocess.run(["dpkg", "--print-architecture"], stdout=subprocess.PIPE, text=True, check=True)
    (file,) = dist.glob(f"*_{architecture.stdout.strip()}.deb")
    return Packages(file, place / "packages")


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, place: Path, packages: Packages) -> Iterator[Machine]:
    """A bare Debian 12, which is running."""
    system = place / "machine"
    debian.copy(debian.image(request.config.getoption("systems"), "bookworm"), system)
    packages.copy_to(system)
    debian.fetch_dependencies(system, [packages.current, "sudo"])
    running = Machine(system, cloud.MOUNTS)
    try:
        running.boot()
        yield running
    finally:
        running.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the journal of the machine whose test has failed."""
    report = yield
    running = getattr(item, "funcargs", {}).get("machine")
    if report.failed and running is not None:
        report.sections.append(("the machine's journal", running.journal()))
    return report


def _interrupt(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one would interrupt that
    raise KeyboardInterrupt
