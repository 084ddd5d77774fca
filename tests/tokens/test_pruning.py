"""Which keys of a token are of this program's making, and that no other object is ever destroyed with one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pkcs11 import Attribute, ObjectClass, Session

from hsm_enroll.errors import TokenRefusedError
from hsm_enroll.key import KeyType, key_label
from hsm_enroll.token import keypair, pruning, session
from hsm_enroll.token.reports import OwnKey
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.self_signed import der, self_signed
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tpm2 import Tpm2
from tests.support.tpm_device import TpmDevice
from tests.support.under_test import KeyName, TokenUnderTest


@pytest.fixture
def ours(key: KeyName) -> KeyName:
    """A name as this program gives it."""
    return KeyName(key_label(key.id), key.id)


def _find(session: Session, key_id: bytes) -> OwnKey:
    (found,) = [own for own in pruning.own_keys(session) if own.id == key_id]
    return found


def test_a_key_of_ours_is_listed_and_destroyed(
    token: TokenUnderTest, key: KeyName, ours: KeyName, any_key_type: KeyType
) -> None:
    """A key with a name of ours is listed with both halves, and destroyed; a key with another name is neither."""
    foreign = KeyName(key.label, key.id[::-1])
    with token.opened() as opened:
        # In this order: tpm2-pkcs11 1.9 gives a handle twice once a process has destroyed the first of several objects.
        other = keypair.generate(opened, any_key_type, label=foreign.label, key_id=foreign.id)
        made = keypair.generate(opened, any_key_type, label=ours.label, key_id=ours.id)
        assert foreign.id not in {own.id for own in pruning.own_keys(opened)}
        assert _find(opened, ours.id) == OwnKey(
            label=ours.label,
            id=ours.id,
            halves=("private", "public"),
            key_type=any_key_type,
            public_keys=(made.public_key_info,),
            has_certificate=False,
            is_changed=False,
        )
        pruning.destroy(opened, label=ours.label, key_id=ours.id)
        pruning.destroy(opened, label=ours.label, key_id=ours.id)
    with token.opened() as opened:
        assert list(opened.get_objects({Attribute.ID: ours.id})) == []
        assert keypair.find(opened, label=foreign.label, key_id=foreign.id).public_key_info == other.public_key_info


@pytest.mark.parametrize("lost", ["private", "public"])
def test_half_a_key_is_listed_and_destroyed(
    token: TokenUnderTest, ours: KeyName, lost: str, any_key_type: KeyType
) -> None:
    """Half a key pair is one of ours too; its type is known only if it is the public half."""
    left = "public" if lost == "private" else "private"
    object_class = ObjectClass.PRIVATE_KEY if lost == "private" else ObjectClass.PUBLIC_KEY
    with token.opened() as opened:
        keypair.generate(opened, any_key_type, label=ours.label, key_id=ours.id)
        (half,) = list(opened.get_objects({Attribute.CLASS: object_class, Attribute.ID: ours.id}))
        half.destroy()
        found = _find(opened, ours.id)
        assert (found.halves, found.is_changed) == ((left,), False)
        assert found.key_type == (any_key_type if left == "public" else None)
        pruning.destroy(opened, label=ours.label, key_id=ours.id)
        assert list(opened.get_objects({Attribute.ID: ours.id})) == []


@pytest.mark.parametrize(
    ("label", "key_id"),
    [
        pytest.param("hsm-enroll-0102030405060708", "0807060504030201", id="the id of another"),
        pytest.param("hsm-enroll-0102", "0102", id="a short id"),
        pytest.param("hsm-enroll-0102030405060708-old", "0102030405060708", id="a longer label"),
        pytest.param("HSM-ENROLL-0102030405060708", "0102030405060708", id="upper case"),
        pytest.param("", "0102030405060708", id="no label"),
    ],
)
def test_a_name_that_is_almost_ours_is_not(softhsm: SoftHsmUnderTest, label: str, key_id: str) -> None:
    """A key whose label and id do not belong together as this program chooses them is somebody else's."""
    softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", label, "--id", key_id)
    with softhsm.opened() as opened:
        assert pruning.own_keys(opened) == []


def test_a_key_that_was_renamed_in_part_is_changed(softhsm: SoftHsmUnderTest, ours: KeyName) -> None:
    """If one half has another label, somebody has renamed it: the key is marked as changed."""
    with softhsm.opened() as opened:
        keypair.generate(opened, KeyType.EC_P256, label=ours.label, key_id=ours.id)
        (public,) = list(opened.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY}))
        public[Attribute.LABEL] = "line 3"
        found = _find(opened, ours.id)
    assert (found.halves, found.is_changed) == (("private", "public"), True)


def test_a_key_of_a_type_that_is_not_ours_is_changed(softhsm: SoftHsmUnderTest, ours: KeyName) -> None:
    """A key of a type that this program does not generate is marked as changed, whatever its name."""
    named = ("--label", ours.label, "--id", ours.id.hex())
    softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:edwards25519", *named)
    with softhsm.opened() as opened:
        found = _find(opened, ours.id)
    assert (found.key_type, found.is_changed) == (None, True)


def test_a_certificate_is_seen_and_never_destroyed(softhsm: SoftHsmUnderTest, ours: KeyName, tmp_path: Path) -> None:
    """A key with a certificate of the same id is marked; and destroying a key leaves an object of another class."""
    with softhsm.opened() as opened:
        keypair.generate(opened, KeyType.EC_P256, label=ours.label, key_id=ours.id)
    file = tmp_path / "certificate.der"
    file.write_bytes(der(self_signed()))
    named = ("--label", ours.label, "--id", ours.id.hex())
    softhsm.pkcs11_tool("--write-object", str(file), "--type", "cert", *named)
    with softhsm.opened() as opened:
        assert _find(opened, ours.id).has_certificate
        pruning.destroy(opened, label=ours.label, key_id=ours.id)
        (left,) = list(opened.get_objects({Attribute.ID: ours.id}))
        assert left.object_class is ObjectClass.CERTIFICATE


def test_all_keys_of_one_name_are_destroyed(softhsm: SoftHsmUnderTest, ours: KeyName) -> None:
    """SoftHSM lets two keys have one label and one id: they are listed once, with both public keys, and both go."""
    for _ in range(2):
        named = ("--label", ours.label, "--id", ours.id.hex())
        softhsm.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", *named)
    with softhsm.opened() as opened:
        found = _find(opened, ours.id)
        assert len(set(found.public_keys)) == 2
        pruning.destroy(opened, label=ours.label, key_id=ours.id)
        assert list(opened.get_objects()) == []


def test_a_refusal_names_the_key(softhsm: SoftHsmUnderTest, ours: KeyName, tmp_path: Path) -> None:
    """Where the token does not destroy a key, the error says which one."""
    module = FaultModule(softhsm.module, tmp_path, f"C_DestroyObject 1+ fail {CKR['CKR_ACTION_PROHIBITED']:x}")
    name = softhsm.name._replace(module=module.file)
    with session.opened(name, softhsm.ask_pin, writable=True) as opened:
        keypair.generate(opened, KeyType.EC_P256, label=ours.label, key_id=ours.id)
        with pytest.raises(TokenRefusedError, match=f"destroy the key '{ours.label}'") as caught:
            pruning.destroy(opened, label=ours.label, key_id=ours.id)
    assert caught.value.exit_status == 15


def test_prune_works_in_a_tpm(shared_tpm: Tpm2, tmp_path: Path) -> None:
    """In a TPM the command destroys the keys of ours and no other, and the next key is generated as ever."""
    device = TpmDevice(tmp_path / "device", {}, tpm=shared_tpm)
    device.create_token()
    device.json("csr")
    device.pkcs11_tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "somebody's", "--id", "99")
    device.json("csr")
    destroyed = device.json("token", "prune", "--yes")["destroyed"]
    assert len(destroyed) == 2
    assert device.key_ids() == ["99"]
    device.json("csr")
    assert len(device.key_ids()) == 2
