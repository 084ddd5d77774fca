"""SoftHSM behind p11-kit's proxy, as SoftHSM 2.7 needs it for MQTT: the whole way through it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_enroll.token import discovery
from tests.support.devices import Device, Observer
from tests.support.pages import ROOT
from tests.support.processes import program, run
from tests.support.softhsm import MODULE

_FRONT = Path(__file__).parents[1] / "support" / "front.c"


def _proxy() -> Path:
    proxy = discovery.proxy()
    assert proxy is not None, "these tests need p11-kit-proxy.so, from the Debian package p11-kit-modules"
    return proxy


@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p384", "rsa-2048"])
def test_a_device_lives_behind_the_proxy(
    new_device: Callable[[str], Device], thing: str, observe: Callable[[str], Observer], key_type: str
) -> None:
    """Token, key, request, first message and another one: every command works with --module p11-kit-proxy.so."""
    device = new_device("device")
    device.extra["HSM_ENROLL_MODULE"] = str(_proxy())
    # p11-kit loads tpm2-pkcs11 too, if it is installed.
    device.extra["TPM2_PKCS11_STORE"] = str(device.folder)
    created = device.create_token("gateway")
    assert created["module"] == str(_proxy())
    observer = observe(f"certtest/{thing}")
    document = device.json("init", "--thing", thing, "--key-type", key_type)
    assert observer.message()[0] == f"certtest/{thing}"
    assert (document["key"]["type"], document["token"]["manufacturer"]) == (key_type, "SoftHSM project")
    device.json("publish", f"certtest/{thing}", "21.5")
    assert observer.message() == (f"certtest/{thing}", "21.5")
    statuses = {check["id"]: check["status"] for check in device.json("doctor", "--login")["checks"]}
    assert {statuses[name] for name in ("token", "token.mqtt", "key.matches-certificate", "mqtt.login")} == {"ok"}


def test_a_module_that_became_too_new_is_explained_everywhere(new_device: Callable[[str], Device], thing: str) -> None:
    """After an upgrade to Cryptoki 3.2, publish, doctor and a new init say the same: p11-kit's proxy is the way."""
    device = new_device("device")
    module = Path(shutil.copy(MODULE, device.folder / "libsofthsm2.so"))
    device.extra["HSM_ENROLL_MODULE"] = str(module)
    device.create_token("gateway")
    device.json("init", "--thing", thing)
    module.rename(behind := device.folder / "libsofthsm2-old.so")
    newer = [f'-DTARGET="{behind}"', "-DCRYPTOKI_MAJOR=3", "-DCRYPTOKI_MINOR=2"]
    run([program("gcc", package="gcc"), "-shared", "-fPIC", *newer, "-o", str(module), str(_FRONT)])
    errors = [
        device.error("publish", f"certtest/{thing}", "21.5"),
        device.error("init", "--new-key", "--thing", thing),
    ]
    [finding] = [check for check in device.json("doctor", status=1)["checks"] if check["id"] == "token.mqtt"]
    for said in (*errors, finding):
        assert "it implements Cryptoki 3.2" in said["message"]
        assert f"--module {_proxy()}" in said["hint"]
    assert {error["exitStatus"] for error in errors} == {10}


def test_the_page_about_tokens_names_the_proxy() -> None:
    """Who reads docs/tokens.md before they run anything finds the way that the hint names, and what to install."""
    page = (ROOT / "docs/tokens.md").read_text(encoding="utf-8")
    assert f"--module {discovery.PROXY}" in page
    assert "`p11-kit-modules`" in page
