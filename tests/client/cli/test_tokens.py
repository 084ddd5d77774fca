"""``tokens`` as a person reads it."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.uri import Pkcs11Uri
from tests.support.devices import Device
from tests.support.screen import Screen


def test_the_uris_that_tokens_prints_fit_and_select(fresh_device: Device, tmp_path: Path) -> None:
    """At 80 columns each token and key has a line of its own, below its module, and the URIs there select them."""
    device = Device(tmp_path / "device", {})
    device.take_token_of(fresh_device)
    made = Pkcs11Uri.parse(device.json("csr")["key"]["uri"])
    with Screen(device, "tokens") as screen:
        assert screen.end() == 0
    lines = screen.text.splitlines()
    start = lines.index(next(line for line in lines if line.endswith("libsofthsm2.so")))
    token, key = lines[start + 1], lines[start + 2]
    label, uri = key.split()
    assert (token[:9], key.removeprefix(f"    {label}  ")) == ("  pkcs11:", uri)
    assert max(len(token), len(key)) < 80
    selected = device.json("csr", "--token", token.strip())
    assert Pkcs11Uri.parse(selected["key"]["uri"]).serial == made.serial
    assert label == made.object
    used = Pkcs11Uri.parse(device.json("csr", "--key", uri, "--token", token.strip())["key"]["uri"])
    assert (used.object, used.id, used.serial) == (made.object, made.id, made.serial)
