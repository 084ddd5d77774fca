"""Fixtures of the backend's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.deployment import Deployment, deployed, without_pauses


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """An open deployment."""
    with deployed() as deployment:
        yield deployment


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Let AWS's library retry without its pauses."""
    with without_pauses():
        yield
