"""Fixtures of the backend's tests."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.support.deployment import Deployment, deployed


@pytest.fixture
def backend() -> Iterator[Deployment]:
    """An open deployment."""
    with deployed() as deployment:
        yield deployment


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let AWS's library retry without its pauses."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _seconds: None))
