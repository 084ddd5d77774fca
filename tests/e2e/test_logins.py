"""Tokens that nobody gives a PIN to: one with a PIN pad, and one that wants no login; the whole way, and afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.devices import Device, Observer
from tests.tokens.softhsm import SoftHsm
from tests.tokens.under_test import LABEL

# What makes it such a token, and each login of the whole way: of this program's session, then of awscrt's.
_KINDS = {"pin pad": ("TYPED_PIN", ["typed", "typed"]), "no login": ("LOGIN_FREE", ["empty"])}


@pytest.mark.parametrize("kind", _KINDS)
def test_a_token_without_a_pin_of_ours_goes_the_whole_way(
    new_device: Callable[[str], Device], tmp_path: Path, thing: str, observe: Callable[[str], Observer], kind: str
) -> None:
    """``init`` and ``publish`` ask nobody for a PIN, log in no more than once each, and say when one is to be typed."""
    made_by, logins = _KINDS[kind]
    log = tmp_path / "logins"
    softhsm = SoftHsm(tmp_path)
    softhsm.add_token(LABEL)
    device = new_device("device")
    module = softhsm.other_module(**{made_by: f'"{softhsm.pin.reveal()}"', "LOGIN_LOG": f'"{log}"'})
    device.extra.update(softhsm.environment, HSM_ENROLL_MODULE=str(module))
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

    asked = f"Type the PIN of token '{LABEL}' at the token itself."
    typed = [init.stderr.count(asked), publish.stderr.count(asked)]
    assert typed == ([2, 1] if kind == "pin pad" else [0, 0])
