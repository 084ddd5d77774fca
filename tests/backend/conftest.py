"""Fixtures of the backend's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backend.fleet import Device
from tests.support.csr_factory import THING
from tests.support.deployment import Deployment, deployed, without_pauses


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """An open deployment."""
    with deployed() as deployment:
        yield deployment


@pytest.fixture
def device(backend: Deployment) -> Device:
    """An enrolled device; the calls of its enrollment are forgotten."""
    enrolled = Device(backend, THING)
    assert enrolled.enroll().status == 201
    backend.calls.clear()
    return enrolled


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Let AWS's library retry without its pauses."""
    with without_pauses():
        yield
