"""The packages of a release, unpacked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from built.unpacked import PACKAGES, Unpacked


@pytest.fixture(scope="session", params=PACKAGES)
def unpacked(request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """Each package, unpacked."""
    package = dist / request.param
    root = tmp_path_factory.mktemp("unpacked")
    if package.suffix == ".deb":
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    else:
        with subprocess.Popen(["rpm2cpio", package], stdout=subprocess.PIPE) as archive:
            subprocess.run(["cpio", "-idm", "--quiet"], cwd=root, stdin=archive.stdout, check=True)
        assert archive.returncode == 0
    return Unpacked(package, root)
