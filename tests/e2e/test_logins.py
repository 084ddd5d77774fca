"""Tokens that nobody gives a PIN to: one with a PIN pad, and one that wants no login; the whole way, and afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.devices import Device, Observer
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.under_test import LABEL

# What makes it such a token, and each login of the whole way: of this program's session, then of awscrt's.
_KINDS = {"pin pad": ("TYPED_PIN", ["typed", "typed"]), "no login": ("LOGIN_FREE", ["empty"])}

_ASKED = f"Enter the PIN of token '{LABEL}' at the token itself."


@pytest.mark.parametrize("kind", _KINDS)
def test_a_token_without_a_pin_of_ours_goes_the_whole_way(
    new_device: Callable[[str], Device], tmp_path: Path, thing: str, observe: Callable[[str], Observer], kind: str
) -> None:
    """``init`` and ``publish`` ask nobody for a PIN, log in no more than once each, and say when one is to be typed."""
    logins = _KINDS[kind][1]
    log = tmp_path / "logins"
    device = new_device("device")
    _give_token(device, tmp_path, kind, log)
    observer = observe(f"certtest/{thing}")

    init = device.run("init", "--thing", thing)
    assert init.returncode == 0, init.stderr
    assert thing in observer.message()[1]
    assert log.read_text().split() == logins

    publish = device.run("publish", f"certtest/{thing}", "again")
    assert publish.returncode == 0, publish.stderr
    assert observer.message()[1] == "again"
    assert log.read_text().split() == [*logins, logins[-1]]

    (source,) = [check for check in device.json("doctor")["checks"] if check["id"] == "pin.source"]
    assert source["status"] == "ok"

    typed = [init.stderr.count(_ASKED), publish.stderr.count(_ASKED)]
    assert typed == ([2, 1] if kind == "pin pad" else [0, 0])


def test_d1_csr_at_a_pin_pad_is_one_login(tmp_path: Path) -> None:
    """D1: ``csr`` tells the person, once, to type the PIN at the token, and makes and uses its key in that login."""
    log = tmp_path / "logins"
    device = Device(tmp_path / "device", {})
    _give_token(device, tmp_path, "pin pad", log)
    csr = device.run("csr")
    assert csr.returncode == 0, csr.stderr
    assert x509.load_pem_x509_csr(csr.stdout.encode()).is_signature_valid
    assert log.read_text().split() == ["typed"]
    assert csr.stderr.count(_ASKED) == 1


def _give_token(device: Device, folder: Path, kind: str, log: Path) -> None:
    """Give a device a token of this kind, which logs its logins."""
    softhsm = SoftHsmUnderTest(folder)
    softhsm.add_token(LABEL)
    module = softhsm.other_module(**{_KINDS[kind][0]: f'"{softhsm.pin.reveal()}"', "LOGIN_LOG": f'"{log}"'})
    device.extra.update(softhsm.environment, HSM_ENROLL_MODULE=str(module))
