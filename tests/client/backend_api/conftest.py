"""What the tests of the HTTP client share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A CA that the client is told to trust."""
    return Authority(tmp_path / "authority")


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no other trust anchor from the surroundings."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
