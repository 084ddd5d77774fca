"""What an enrolled device says when its key is missing, halved or doubled, on both tokens (D8)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pkcs11 import Attribute, ObjectClass

from hsm_enroll.device import enrollment
from hsm_enroll.device.plan import Request
from hsm_enroll.device.ports import Ports
from hsm_enroll.errors import BackendRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.store.journal import Attempt
from hsm_enroll.token import keypair, selection, session
from hsm_enroll.token.tokens import Tokens
from tests.support import commands, documents
from tests.support.authority import Authority
from tests.support.broker import free_port
from tests.support.identities import identity
from tests.support.under_test import KeyName, OwnToken
from tests.support.world import World

pytestmark = pytest.mark.own_token


@dataclass(frozen=True)
class Enrolled:
    """A device that holds an identity for a key of the token, and what its commands answer."""

    folder: Path
    token: OwnToken
    key: KeyName

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command; return its exit status and the code of its error, or "". Its hint says what to do."""
        status, document = self.document(*arguments)
        error = document.get("error", {})
        assert status == 0 or error["hint"]
        return status, error.get("code", "")

    def document(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run a command with ``--json``; return its exit status and what it wrote."""
        told = {"HSM_ENROLL_HOME": str(self.folder), "HSM_ENROLL_PIN": self.token.pin.reveal()}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.token.environment, **told}
        run = commands.run([*arguments, "--json"], environment, time_limit=60)
        written: dict[str, Any] = documents.read(arguments, run.stdout)
        return run.returncode, written

    def diagnosis(self) -> tuple[str, str]:
        """Return what the doctor finds about the key: a status and a hint."""
        _, document = self.document("doctor")
        (check,) = [check for check in document["checks"] if check["id"] == "key.matches-certificate"]
        return check["status"], check["hint"]

    def destroy(self, *halves: ObjectClass) -> None:
        """Destroy halves of the key."""
        with self.token.opened() as opened:
            for half in halves:
                for found in list(opened.get_objects({Attribute.CLASS: half, Attribute.LABEL: self.key.label})):
                    found.destroy()

    def double(self, key_id: bytes) -> None:
        """Have another program make a second key of the same label."""
        named = ["--label", self.key.label, "--id", key_id.hex()]
        self.token.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", *named)


@pytest.fixture
def enrolled(token: OwnToken, key: KeyName, tmp_path: Path) -> Enrolled:
    """Provide a device that holds an identity; the broker that it names is not there."""
    with token.opened() as opened:
        pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    certificate = Authority(tmp_path / "ca").issue_client(pair.public_key_info, "press-1")
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    identity(
        thing_name="press-1",
        certificate_pem=certificate.public_bytes(Encoding.PEM).decode(),
        token=token.name,
        key_label=key.label,
        key_id=key.id,
        api="https://localhost:1",
        mqtt_endpoint="localhost",
        mqtt_port=free_port(),
    ).save(folder)
    return Enrolled(folder, token, key)


def test_a_device_with_its_key_is_well(enrolled: Enrolled) -> None:
    """D8: with the key in place nothing is wrong but the broker, which is not there."""
    assert enrolled.run("status") == (0, "")
    assert enrolled.run("init", "--thing", "press-1") == (0, "")
    assert enrolled.diagnosis() == ("ok", "")
    assert enrolled.run("publish", "press-1/x", "x") == (40, "mqtt-unreachable")


@pytest.mark.parametrize(
    "halves", [(ObjectClass.PUBLIC_KEY,), (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY)], ids=["public", "both"]
)
def test_d8_a_key_that_is_gone(enrolled: Enrolled, halves: tuple[ObjectClass, ...]) -> None:
    """D8: without the public half, or the whole key, ``status`` and ``init`` end with 14, and the doctor fails."""
    enrolled.destroy(*halves)
    assert enrolled.run("status") == (14, "key-missing")
    assert enrolled.run("init", "--thing", "press-1") == (14, "key-missing")
    status, hint = enrolled.diagnosis()
    assert status == "failed"
    assert "init --new-key" in hint


def test_d8_a_public_key_without_its_private_one(enrolled: Enrolled) -> None:
    """D8: what asks for no PIN cannot see that the private half is gone; the next use of the key says so."""
    enrolled.destroy(ObjectClass.PRIVATE_KEY)
    assert enrolled.run("status") == (0, "")
    assert enrolled.run("publish", "press-1/x", "x") == (14, "key-missing")
    uri = f"pkcs11:token={enrolled.token.label};object={enrolled.key.label}"
    assert enrolled.run("csr", "--key", uri, "--module", str(enrolled.token.module)) == (14, "key-missing")


def test_d8_two_keys_of_one_label(enrolled: Enrolled) -> None:
    """D8: label and id still find the device's key; MQTT, which goes by the label alone, takes neither."""
    enrolled.double(enrolled.key.id[::-1])
    assert enrolled.run("status") == (0, "")
    assert enrolled.diagnosis()[0] == "ok"
    assert enrolled.run("publish", "press-1/x", "x") == (14, "key-missing")


def test_d8_two_keys_of_one_label_and_id(enrolled: Enrolled) -> None:
    """D8: where label and id name two keys, none is taken for the device's."""
    enrolled.double(enrolled.key.id)
    assert enrolled.run("status") == (14, "key-ambiguous")
    assert enrolled.run("init", "--thing", "press-1") == (14, "key-ambiguous")
    assert enrolled.diagnosis()[0] == "failed"


def test_d8_a_key_from_outside_is_not_enrolled(token: OwnToken, key: KeyName, tmp_path: Path) -> None:
    """D8: where the key under way turns out not to be born in the token, ``init`` destroys it and makes its own."""
    file = tmp_path / "imported.pem"
    outside = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(outside.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    token.import_key(file, key)
    # tpm2-pkcs11 reads its store when it is initialised, so a fresh copy of the module is asked.
    (tmp_path / "fresh").mkdir()
    name = token.name._replace(module=token.module_copy(tmp_path / "fresh"))
    with session.opened(name, token.ask_pin) as opened:
        imported = keypair.find(opened, label=key.label, key_id=None)
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    Attempt(name, KeyType.EC_P256, key.label, imported.id, new_key=False).save(folder)
    with Tokens() as tokens:
        ports = Ports(
            tokens=tokens,
            start_finding=lambda: lambda: selection.enrolled(name, tokens.listed),
            pin=lambda _: token.pin,
            client=lambda: World(refusal="thing-enrolled"),
            message=None,
            tpm=World().tpm,
        )
        with pytest.raises(BackendRefusedError):
            enrollment.enroll(Request("press-1"), folder, ports)
    with Tokens() as tokens:
        report = selection.enrolled(name, tokens.listed)
        with tokens.session(report, lambda _: token.pin, lambda _: None) as logged_in:
            made = logged_in.find(label=key.label, key_id=imported.id)
    assert made.origin.is_hardware_born
    assert made.public_key_info != imported.public_key_info
