"""Fixtures of the backend's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backend.deployment import Deployment, deployed


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """An open deployment."""
    with deployed() as deployment:
        yield deployment
