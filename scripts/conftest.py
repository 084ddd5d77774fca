"""A release, whose packages are tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.releases import Releases, released


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """A repository that can be released."""
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def dist(releases: Releases) -> Path:
    """What scripts/release has built, where an older release was before."""
    clone = releases.clone("clone")
    (clone / "dist").mkdir()
    for name in ("hsm_enroll-0.0.1.tar.gz", "hsm-enroll_0.0.1-1_amd64.deb", "hsm-enroll-0.0.1-1.x86_64.rpm"):
        (clone / "dist" / name).touch()
    status, said = released(clone)
    assert status == 0, said
    return clone / "dist"
