"""Keys by label and id: none, several, or half of one is an error, and none is ever overwritten (D8)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pkcs11 import Attribute, ObjectClass
from pkcs11 import KeyType as CryptokiKeyType

from hsm_enroll.errors import KeyAmbiguousError, KeyMissingError, KeyOriginError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token import keypair, public_key, session
from hsm_enroll.uri import Pkcs11Uri
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed
from tests.support.under_test import KeyName, TokenUnderTest


def test_d8_a_key_that_is_not_there(token: TokenUnderTest, key: KeyName) -> None:
    """D8: neither half of a key that no one made is found, and the error says what was looked for."""
    with token.opened() as opened:
        with pytest.raises(
            KeyMissingError, match=f"no private key labelled '{key.label}' with id {key.id.hex()}"
        ) as caught:
            keypair.find(opened, label=key.label, key_id=key.id)
        with pytest.raises(KeyMissingError, match=f"no public key with id {key.id.hex()}"):
            public_key.find_public(opened, label=None, key_id=key.id)
    assert caught.value.exit_status == 14


def test_a_taken_label_or_id_is_not_overwritten(token: TokenUnderTest, key: KeyName, any_key_type: KeyType) -> None:
    """A label or an id that a key has already makes no other key, and the first one stays as it was."""
    free = KeyName("free-" + key.label, key.id[::-1])
    with token.opened() as opened:
        first = keypair.generate(opened, any_key_type, label=key.label, key_id=key.id)
        for label, key_id in ((key.label, free.id), (free.label, key.id), key):
            with pytest.raises(KeyAmbiguousError) as caught:
                keypair.generate(opened, any_key_type, label=label, key_id=key_id)
            assert caught.value.exit_status == 14
        assert keypair.find(opened, label=key.label, key_id=key.id).public_key_info == first.public_key_info
        for attribute, value in ((Attribute.LABEL, free.label), (Attribute.ID, free.id)):
            assert list(opened.get_objects({attribute: value})) == []


def test_label_and_id_have_to_match_both(token: TokenUnderTest, key: KeyName, any_key_type: KeyType) -> None:
    """A key is found by its label, by its id, and by both, and not by its label with another key's id."""
    other = KeyName("other-" + key.label, key.id[::-1])
    with token.opened() as opened:
        made = keypair.generate(opened, any_key_type, label=key.label, key_id=key.id)
        keypair.generate(opened, any_key_type, label=other.label, key_id=other.id)
        for label, key_id in ((key.label, None), (None, key.id), key):
            assert keypair.find(opened, label=label, key_id=key_id).public_key_info == made.public_key_info
            found = public_key.find_public(opened, label=label, key_id=key_id)
            assert (found.public_key_info, found.key_type) == (made.public_key_info, any_key_type)
        for label, key_id in ((key.label, other.id), (other.label, key.id)):
            with pytest.raises(KeyMissingError):
                keypair.find(opened, label=label, key_id=key_id)


def test_the_public_half_shows_without_a_login(token: TokenUnderTest, key: KeyName, any_key_type: KeyType) -> None:
    """Without a login the public key is found and the private one is not."""
    with token.opened() as opened:
        made = keypair.generate(opened, any_key_type, label=key.label, key_id=key.id)
    with session.opened(token.name, None) as opened:
        found = public_key.find_public(opened, label=key.label, key_id=key.id)
        with pytest.raises(KeyMissingError):
            keypair.find(opened, label=key.label, key_id=key.id)
    assert (found.public_key_info, found.key_type) == (made.public_key_info, any_key_type)


def test_destroy_removes_both_halves_and_may_be_repeated(
    token: TokenUnderTest, key: KeyName, any_key_type: KeyType
) -> None:
    """After ``destroy`` nothing of the key is left, a second time is no error, and another key is not touched."""
    other = KeyName("other-" + key.label, key.id[::-1])
    with token.opened() as opened:
        keypair.generate(opened, any_key_type, label=key.label, key_id=key.id)
        keypair.generate(opened, any_key_type, label=other.label, key_id=other.id)
        keypair.destroy(opened, label=key.label, key_id=other.id)
        assert keypair.find(opened, label=key.label, key_id=key.id).id == key.id
        keypair.destroy(opened, label=key.label, key_id=key.id)
        assert list(opened.get_objects({Attribute.LABEL: key.label})) == []
        keypair.destroy(opened, label=key.label, key_id=key.id)
    with token.opened() as opened:
        assert list(opened.get_objects({Attribute.ID: key.id})) == []
        assert keypair.find(opened, label=other.label, key_id=other.id).id == other.id


def test_a_destroyed_name_is_free_again(token: TokenUnderTest, key: KeyName, any_key_type: KeyType) -> None:
    """A label and an id whose key was destroyed may name a new one, which is another key."""
    with token.opened() as opened:
        first = keypair.generate(opened, any_key_type, label=key.label, key_id=key.id)
        keypair.destroy(opened, label=key.label, key_id=key.id)
        second = keypair.generate(opened, any_key_type, label=key.label, key_id=key.id)
    assert first.public_key_info != second.public_key_info


@pytest.mark.parametrize(
    ("lost", "missing"), [(ObjectClass.PUBLIC_KEY, "no public key"), (ObjectClass.PRIVATE_KEY, "no private key")]
)
def test_d8_half_a_key_is_missing(softhsm: SoftHsmUnderTest, key: KeyName, lost: ObjectClass, missing: str) -> None:
    """D8: a public key without its private one, or the other way round, is a missing key; the half is named."""
    with softhsm.opened() as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        [half] = list(opened.get_objects({Attribute.CLASS: lost}))
        half.destroy()
        with pytest.raises(KeyMissingError, match=missing):
            keypair.find(opened, label=key.label, key_id=key.id)
        with pytest.raises(KeyAmbiguousError):
            keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        keypair.destroy(opened, label=key.label, key_id=key.id)
        assert list(opened.get_objects()) == []


def test_d8_two_keys_of_one_label(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """D8: a label that two keys have finds neither half, and each id finds its own key."""
    other = key.id[::-1]
    for key_id in (key.id, other):
        named = ["--label", key.label, "--id", key_id.hex()]
        softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", *named)
    with softhsm.opened() as opened:
        for find in (keypair.find, public_key.find_public):
            with pytest.raises(KeyAmbiguousError, match=r"2 .* keys labelled"):
                find(opened, label=key.label, key_id=None)
        found = [keypair.find(opened, label=key.label, key_id=key_id) for key_id in (key.id, other)]
        assert [pair.id for pair in found] == [key.id, other]
        assert found[0].public_key_info != found[1].public_key_info


def test_d8_two_keys_of_one_label_and_id(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """D8: SoftHSM lets two keys share label and id; neither is used, by whatever name."""
    for _ in range(2):
        named = ["--label", key.label, "--id", key.id.hex()]
        softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", *named)
    with softhsm.opened() as opened:
        for label, key_id in ((key.label, None), (None, key.id), key):
            with pytest.raises(KeyAmbiguousError):
                keypair.find(opened, label=label, key_id=key_id)


@pytest.mark.parametrize("half", ["pubkey", "privkey"])
def test_d22_halves_of_a_key_with_different_labels(softhsm: SoftHsmUnderTest, key: KeyName, half: str) -> None:
    """D22: after one half of a key was relabelled, its id finds it, and so does each half's label as that half's."""
    with softhsm.opened() as opened:
        made = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    other = "other-" + key.label
    with softhsm.opened() as opened:
        kind = ObjectClass.PUBLIC_KEY if half == "pubkey" else ObjectClass.PRIVATE_KEY
        [found] = list(opened.get_objects({Attribute.CLASS: kind}))
        found[Attribute.LABEL] = other
        private, public = (key.label, other) if half == "pubkey" else (other, key.label)
        assert keypair.find(opened, label=None, key_id=key.id).public_key_info == made.public_key_info
        for label, by_public in ((private, False), (public, True)):
            for key_id in (key.id, None):
                pair = keypair.find(opened, label=label, key_id=key_id, by_public=by_public)
                assert (pair.label, pair.public_key_info) == (private, made.public_key_info)
        for label, by_public in ((public, False), (private, True)):
            with pytest.raises(KeyMissingError, match=f"labelled '{label}' with id {key.id.hex()}"):
                keypair.find(opened, label=label, key_id=key.id, by_public=by_public)
        assert public_key.find_public(opened, label=private, key_id=key.id).public_key_info == made.public_key_info


def test_d22_two_keys_of_one_id_are_told_apart_by_label(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """D22: where two keys have one id, their labels pair the halves, and the id alone chooses neither."""
    for label in (key.label, "other-" + key.label):
        named = ["--label", label, "--id", key.id.hex()]
        softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", *named)
    with softhsm.opened() as opened:
        found = [keypair.find(opened, label=label, key_id=key.id) for label in (key.label, "other-" + key.label)]
        assert found[0].public_key_info != found[1].public_key_info
        with pytest.raises(KeyAmbiguousError, match=f"2 private keys with id {key.id.hex()}"):
            keypair.find(opened, label=None, key_id=key.id)


def test_a_key_without_an_id(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """A key whose id is empty is paired by its label."""
    with softhsm.opened() as opened:
        made = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        for half in list(opened.get_objects()):
            half[Attribute.ID] = b""
        assert keypair.find(opened, label=key.label, key_id=None).public_key_info == made.public_key_info
        with pytest.raises(KeyMissingError, match="labelled 'x' with an empty id"):
            keypair.find(opened, label="x", key_id=b"")
        [public] = list(opened.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY}))
        public[Attribute.LABEL] = "another key's"
        with pytest.raises(KeyMissingError, match="no public key"):
            keypair.find(opened, label=key.label, key_id=None)


@pytest.mark.parametrize("key_type", ["EC:edwards25519", "dsa"])
def test_a_key_type_that_aws_iot_does_not_accept(softhsm: SoftHsmUnderTest, key: KeyName, key_type: str) -> None:
    """An Ed25519 or DSA key is found and refused as one that AWS IoT does not accept, with exit status 14."""
    _generate_other(softhsm, key, key_type)
    with softhsm.opened() as opened, pytest.raises(KeyOriginError, match="which AWS IoT does not accept") as caught:
        keypair.find(opened, label=key.label, key_id=key.id)
    assert caught.value.exit_status == 14
    assert "ec-p256" in caught.value.hint


@pytest.mark.parametrize("key_type", ["rsa:1024", "EC:secp256k1", "EC:secp521r1", "EC:brainpoolP256r1"])
def test_a_key_type_that_is_of_no_use_here(softhsm: SoftHsmUnderTest, key: KeyName, key_type: str) -> None:
    """A key of a type that AWS IoT or its MQTT client cannot use is found and refused as such."""
    named = ["--label", key.label, "--id", key.id.hex()]
    softhsm.pkcs11_tool("--keypairgen", "--key-type", key_type, "--usage-sign", *named)
    with softhsm.opened() as opened, pytest.raises(KeyOriginError, match="of a type that"):
        keypair.find(opened, label=key.label, key_id=key.id)


def test_a_label_that_is_no_utf_8(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """A key that another program gave a label in Latin-1 is listed by its id, and hides no other key."""
    with softhsm.opened() as opened:
        made = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    named = ["--label", os.fsdecode("Größe".encode("latin-1")), "--id", "77"]
    softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", *named)
    [report] = [report for report in listed(softhsm.module) if report.initialized]
    uris = [Pkcs11Uri.parse(uri) for uri in report.public_keys]
    assert {(uri.object, uri.id) for uri in uris} == {(key.label, key.id), (None, b"\x77")}
    with softhsm.opened() as opened:
        assert keypair.find(opened, label=key.label, key_id=None).public_key_info == made.public_key_info
        with pytest.raises(KeyMissingError, match="UTF-8"):
            keypair.find(opened, label=None, key_id=b"\x77")


def test_a_token_that_keeps_a_key(softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path) -> None:
    """A token that does not destroy a key is an error, and the key is still there."""
    module = FaultModule(softhsm.module, tmp_path, f"C_DestroyObject 1+ fail {CKR['CKR_ACTION_PROHIBITED']:x}").file
    with softhsm.opened() as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    with session.opened(softhsm.name._replace(module=module), softhsm.ask_pin, writable=True) as opened:
        with pytest.raises(TokenRefusedError, match="failed to destroy a key"):
            keypair.destroy(opened, label=key.label, key_id=key.id)
        assert keypair.find(opened, label=key.label, key_id=key.id).id == key.id


def _generate_other(softhsm: SoftHsmUnderTest, key: KeyName, key_type: str) -> None:
    if key_type != "dsa":
        named = ["--label", key.label, "--id", key.id.hex()]
        softhsm.pkcs11_tool("--keypairgen", "--key-type", key_type, *named)
        return
    with softhsm.opened() as opened:
        parameters = opened.generate_domain_parameters(CryptokiKeyType.DSA, 1024)
        parameters.generate_keypair(id=key.id, label=key.label, store=True)
