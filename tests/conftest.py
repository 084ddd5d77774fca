"""Two local clouds for all tests that want the whole, open and by invite, and as many devices as they want."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import documents
from tests.support.devices import Cloud, Device, Observer, Operator
from tests.support.fault_device import FaultyDevice, faulty_device

# No test is timed: what takes long on a busy machine is no failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

TESTS = Path(__file__).parent
_LONGEST_ID = 40

# scripts/test gives whole files to its workers, in this order: what takes longest is not what is left at the end.
LONGEST_FILES = (
    "docs/test_pages.py",
    "faults/test_outbox_faults.py",
    "e2e/test_forward.py",
    "e2e/test_lifecycle.py",
    "e2e/test_export.py",
    "docs/test_pictures.py",
    "faults/test_kill_matrix.py",
    "e2e/test_tpm.py",
    "e2e/test_attestation.py",
    "faults/test_lifecycle_faults.py",
    "faults/test_silence.py",
    "faults/test_outbox_clock.py",
    "local/test_lifecycle.py",
    "docs/test_attestation.py",
    "client/device/test_enrollment.py",
    "faults/test_softhsm.py",
    "docs/test_scripts.py",
    "local/test_keeping.py",
    "faults/test_bad_input.py",
    "e2e/test_export_run.py",
    "e2e/test_aws_credentials.py",
    "web/test_things.py",
    "tokens/test_worker.py",
    "faults/test_token_isolation.py",
    "e2e/test_power_cuts.py",
    "client/device/test_retirement.py",
    "e2e/test_invites.py",
    "backend/test_turns.py",
    "e2e/test_relaying.py",
    "client/iot/test_reconnecting.py",
    "client/iot/test_line.py",
    "client/iot/test_tls.py",
    "testing/test_plugin.py",
    "faults/test_tpm_power.py",
    "faults/test_tpm_power_forward.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files by how long they take, or else, as pytest-xdist does by itself, by how many tests they have."""
    missing = [file for file in LONGEST_FILES if not (TESTS / file).is_file()]
    if missing:
        raise pytest.UsageError(f"LONGEST_FILES in tests/conftest.py names what is not there: {', '.join(missing)}")
    counts = Counter(item.path for item in items)
    ranks = {TESTS / file: rank for rank, file in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: (ranks.get(item.path, len(ranks)), -counts[item.path], item.path))


def pytest_configure() -> None:
    """Let nothing look for garbage while tests are collected: there is hardly any, and it takes a fifth of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for it from now on, but not among what was collected, which stays."""
    gc.freeze()
    gc.enable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test by its parameter's name instead of a long value: random ones would differ between workers."""
    return argname if isinstance(val, bytes | str) and len(val) > _LONGEST_ID else None


@contextmanager
def running_cloud(home: Path, *options: str) -> Iterator[Cloud]:
    """``hsm-enroll local up --detach``, and down at the end."""

    def local(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "hsm_enroll", "local", *arguments, "--json", "--home", str(home)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        written: dict[str, Any] = documents.read(["local", *arguments], run.stdout)
        return written

    up = local("up", "--detach", *options)
    try:
        yield Cloud(up, local("env"))
    finally:
        local("down")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud that is open to everybody."""
    with running_cloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture(scope="session")
def invite_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud that wants invites."""
    with running_cloud(tmp_path_factory.mktemp("invite-cloud"), "--auth", "invite") as running:
        yield running


@pytest.fixture(scope="session")
def fresh_device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device that has made its token, and nothing since."""
    made = Device(tmp_path_factory.mktemp("fresh") / "device", {})
    made.create_token()
    return made


@pytest.fixture
def operator(invite_cloud: Cloud, tmp_path: Path) -> Operator:
    """The operator of the cloud that wants invites."""
    return Operator(tmp_path / "operator", invite_cloud.environment)


@pytest.fixture
def new_gateway(invite_cloud: Cloud, fresh_device: Device, tmp_path: Path) -> Callable[[str], Device]:
    """Makes devices by name that have a token, and know nothing of the cloud that wants invites but its CA."""

    def make(name: str) -> Device:
        made = Device(tmp_path / name, invite_cloud.gateway_environment)
        made.take_token_of(fresh_device)
        return made

    return make


@pytest.fixture
def gateway(new_gateway: Callable[[str], Device]) -> Device:
    """One of them."""
    return new_gateway("gateway")


@pytest.fixture
def new_device(cloud: Cloud, tmp_path: Path) -> Callable[[str], Device]:
    """Makes devices by name."""
    return lambda name: Device(tmp_path / name, cloud.environment)


@pytest.fixture
def device(new_device: Callable[[str], Device], fresh_device: Device) -> Device:
    """A device with a token, not enrolled."""
    made = new_device("device")
    made.take_token_of(fresh_device)
    return made


@pytest.fixture
def faulty(fresh_device: Device, tmp_path: Path) -> Iterator[FaultyDevice]:
    """A device, not enrolled, whose token fails on demand, and an API that issues."""
    with faulty_device(tmp_path, fresh_device) as device:
        yield device


@pytest.fixture
def thing(request: pytest.FixtureRequest) -> str:
    """A Thing's name of this test's own."""
    return f"thing-{zlib.crc32(request.node.nodeid.encode()):08x}-{os.getpid()}"


@pytest.fixture
def observe(cloud: Cloud) -> Iterator[Callable[[str], Observer]]:
    """Starts observers, and ends them."""
    observers: list[Observer] = []

    def start(topic: str) -> Observer:
        observers.append(Observer(cloud.document, topic))
        return observers[-1]

    yield start
    for observer in observers:
        observer.close()
