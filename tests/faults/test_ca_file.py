"""A CA file that cannot be used, as ``init`` tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.devices import Device


@pytest.mark.parametrize("variable", ["HSM_ENROLL_CA_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_an_unusable_ca_file_is_told_before_a_key_is_made(device: Device, variable: str) -> None:
    """D24: exit 2, with the file and the variable that named it, and neither key nor journal."""
    anchor = Path(device.cloud["HSM_ENROLL_CA_FILE"])
    ca_file = device.folder / "ca.pem"
    ca_file.write_text(anchor.read_text(), encoding="utf-16")
    device.cloud = {name: text for name, text in device.cloud.items() if name != "HSM_ENROLL_CA_FILE"}
    device.extra[variable] = str(ca_file)
    before = sorted(device.home.iterdir())
    error = device.error("init", "--thing", "x", "--no-publish")
    assert (error["exitStatus"], error["code"]) == (2, "usage")
    assert f"{ca_file} does not contain PEM certificates: it is UTF-16" in error["message"]
    assert variable in error["hint"]
    assert device.key_ids() == []
    assert sorted(device.home.iterdir()) == before
