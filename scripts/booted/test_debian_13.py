"""The package on Debian 13, which is not booted: systemd of that release needs another kind of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from booted import debian, traces
from booted.packages import Packages


def test_it_runs_with_the_python_of_debian_13(request: pytest.FixtureRequest, place: Path, packages: Packages) -> None:
    """apt installs it there; a key is made in a SoftHSM token and signs; it is purged without a trace."""
    system = place / "debian-13"
    debian.copy(debian.image(request.config.getoption("systems"), "trixie"), system)
    packages.copy_to(system)
    debian.run(system, "apt-get", "update", "--quiet=2")
    debian.run(system, "apt-get", "install", "--yes", "--quiet=2", packages.current)
    debian.run(system, "hsm-enroll", "token", "create", "--label", "gateway")
    pem = debian.run(system, "hsm-enroll", "csr", "--subject", "CN=gateway-1")
    assert x509.load_pem_x509_csr(pem.encode()).is_signature_valid
    debian.run(system, "apt-get", "purge", "--yes", "--quiet=2", packages.name)
    assert {path for path in traces.named(system, {packages.name}) if not path.startswith("srv/")} == set()
