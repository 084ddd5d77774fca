"""Keys that are born in a token, and keys that were not."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from pkcs11 import Attribute, MechanismFlag
from pkcs11 import KeyType as CryptokiKeyType
from pkcs11.constants import DEFAULT
from pkcs11.exceptions import AttributeValueInvalid
from pkcs11.util.ec import encode_named_curve_parameters

from hsm_enroll.errors import KeyMissingError, KeyOriginError, TokenRefusedError
from hsm_enroll.key import KeyOrigin, KeyType
from hsm_enroll.token import keypair, session
from tests.support.fault_codes import CKR
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tpm2 import Tpm2
from tests.support.under_test import KeyName, OwnToken, TokenUnderTest

_HARDWARE_BORN = KeyOrigin(local=True, sensitive=True, extractable=False, never_extractable=True, always_sensitive=True)
_CKA_SENSITIVE, _CKA_EXTRACTABLE = 0x103, 0x162


def test_a_generated_key_is_born_in_the_token_and_stays_there(
    token: TokenUnderTest, key: KeyName, key_type: KeyType, tmp_path: Path
) -> None:
    """A key is of the type, label and id asked for, hardware-born, and the same key in the next session.

    So OpenSC's pkcs11-tool says: it calls the private key born in the token and closed, and reads the same public key.
    """
    with token.opened() as opened:
        made = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
    with token.opened() as opened:
        found = keypair.find(opened, label=key.label, key_id=key.id)
    for pair in (made, found):
        assert (pair.label, pair.id, pair.key_type, pair.origin) == (key.label, key.id, key_type, _HARDWARE_BORN)
    assert made.origin.is_hardware_born
    assert found.public_key_info == made.public_key_info
    printed = token.pkcs11_tool("--list-objects", "--type", "privkey")
    assert _line(printed, key, "Access:") == "sensitive, always sensitive, never extractable, local"
    public = load_der_public_key(made.public_key_info)
    if isinstance(public, ec.EllipticCurvePublicKey):
        assert public.curve.name == key_type.curve
        # It reads no P-384 key out as a file (OpenSC 0.23), but prints the point, a DER OCTET STRING.
        printed = token.pkcs11_tool("--list-objects", "--type", "pubkey")
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        assert _line(printed, key, "EC_POINT:") == f"04{len(point):02x}{point.hex()}"
    else:
        assert isinstance(public, rsa.RSAPublicKey)
        assert (public.key_size, public.public_numbers().e) == (key_type.bits, 65537)
        file = tmp_path / "public.der"
        token.pkcs11_tool("--read-object", "--type", "pubkey", "--id", key.id.hex(), "--output-file", str(file))
        assert load_der_public_key(file.read_bytes()) == public


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.RSA_2048])
def test_a_generated_key_signs_and_does_nothing_else(
    softhsm_of_module: SoftHsmUnderTest, key: KeyName, key_type: KeyType
) -> None:
    """Where the token lets us say so, the private key may only sign and the public one only verify, RSA keys too."""
    with softhsm_of_module.opened() as opened:
        keypair.generate(opened, key_type, label=key.label, key_id=key.id)
    printed = softhsm_of_module.pkcs11_tool("--list-objects")
    halves = [part for part in printed.split(" Key Object; ") if key.id.hex() in part]
    assert sorted(line.strip() for part in halves for line in part.splitlines() if "Usage:" in line) == [
        "Usage:      sign",
        "Usage:      verify",
    ]


@pytest.mark.parametrize("ckr", ["CKR_ATTRIBUTE_VALUE_INVALID", "CKR_TEMPLATE_INCONSISTENT"])
def test_a_token_that_refuses_the_strict_template_is_asked_again(
    softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path, ckr: str
) -> None:
    """A token that rejects attributes for what a key does not do is asked a second time without, and makes one key."""
    module = FaultModule(softhsm.module, tmp_path, f"C_GenerateKeyPair 1 fail {CKR[ckr]:x}")
    with session.opened(softhsm.name._replace(module=module.file), softhsm.ask_pin, writable=True) as opened:
        made = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        assert made.origin.is_hardware_born
        assert len(list(opened.get_objects())) == 2
    assert len(module.calls("C_GenerateKeyPair")) == 2


def test_a_tpm_is_asked_once(tpm: Tpm2, key: KeyName, tmp_path: Path) -> None:
    """tpm2-pkcs11 would reject the strict template after its TPM has made the key, so it is not asked with it."""
    module = FaultModule(tpm.module, tmp_path)
    with session.opened(tpm.name._replace(module=module.file), tpm.ask_pin, writable=True) as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    assert len(module.calls("C_GenerateKeyPair")) == 1


@pytest.mark.own_token
def test_an_imported_key_is_told_from_a_born_one(token: OwnToken, key: KeyName, tmp_path: Path) -> None:
    """A key that came from a file is found, and its origin says that it was not born in the token."""
    file = tmp_path / "imported.pem"
    imported = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(imported.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    token.import_key(file, key)
    # tpm2-pkcs11 reads its store when it is initialised, so a fresh copy of the module is asked.
    name = token.name._replace(module=token.module_copy(tmp_path))
    with session.opened(name, token.ask_pin) as opened:
        found = keypair.find(opened, label=key.label, key_id=None)
    assert load_der_public_key(found.public_key_info) == imported.public_key()
    assert not found.origin.local
    assert not found.origin.is_hardware_born


@pytest.mark.parametrize("key_type", ["EC:prime256v1", "rsa:2048"])
def test_d8_an_extractable_key_is_told_from_a_closed_one(
    softhsm: SoftHsmUnderTest, key: KeyName, key_type: str
) -> None:
    """D8: a key that was born in the token and may be taken out of it is found, and is not hardware-born."""
    named = ["--label", key.label, "--id", key.id.hex()]
    softhsm.pkcs11_tool("--keypairgen", "--key-type", key_type, *named, "--usage-sign", "--extractable")
    with softhsm.opened() as opened:
        origin = keypair.find(opened, label=key.label, key_id=key.id).origin
    assert origin.local
    assert origin.extractable
    assert not origin.is_hardware_born


def test_d8_a_tpm_makes_no_extractable_key(tpm: Tpm2, key: KeyName) -> None:
    """D8: tpm2-pkcs11 refuses a key that could leave the TPM, whoever asks for it, so that none can be found there."""
    uses = (Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE)
    template = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True, **dict.fromkeys(uses, DEFAULT)}
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    with tpm.opened() as opened:
        parameters = opened.create_domain_parameters(CryptokiKeyType.EC, curve, local=True)
        with pytest.raises(AttributeValueInvalid):
            parameters.generate_keypair(
                id=key.id,
                label=key.label,
                store=True,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                public_template={Attribute.ENCRYPT: DEFAULT, Attribute.WRAP: DEFAULT},
                private_template=template,
            )
        assert list(opened.get_objects({Attribute.LABEL: key.label})) == []


@pytest.mark.parametrize(
    ("key_type", "attribute", "flaw"),
    [
        (KeyType.EC_P256, _CKA_SENSITIVE, "CKA_SENSITIVE is false"),
        (KeyType.EC_P256, _CKA_EXTRACTABLE, "CKA_EXTRACTABLE is true"),
        (KeyType.RSA_2048, _CKA_EXTRACTABLE, "CKA_EXTRACTABLE is true"),
    ],
)
def test_a_token_that_makes_another_key_than_asked_is_refused(
    softhsm: SoftHsmUnderTest, key: KeyName, key_type: KeyType, attribute: int, flaw: str
) -> None:
    """A token that answers CKR_OK and makes a key that could leave it gets an error, and the key is destroyed."""
    name = softhsm.name._replace(module=softhsm.faulty_module(LEAK=attribute))
    with session.opened(name, softhsm.ask_pin, writable=True) as opened:
        with pytest.raises(KeyOriginError, match=rf"\({flaw}[,)].*destroyed"):
            keypair.generate(opened, key_type, label=key.label, key_id=key.id)
        assert list(opened.get_objects()) == []


def test_a_read_only_session_makes_no_key(token: TokenUnderTest, key: KeyName, any_key_type: KeyType) -> None:
    """D7: a session that was not opened for writing makes no key and says why."""
    with session.opened(token.name, token.ask_pin) as opened:
        with pytest.raises(TokenRefusedError, match=r"generate a key of type [a-z0-9-]+: the session is read-only"):
            keypair.generate(opened, any_key_type, label=key.label, key_id=key.id)
        with pytest.raises(KeyMissingError):
            keypair.find(opened, label=key.label, key_id=key.id)


def _line(printed: str, key: KeyName, title: str) -> str:
    """Return what pkcs11-tool prints after a title in its paragraph about one key."""
    [paragraph] = [paragraph for paragraph in printed.split(" Key Object; ") if key.id.hex() in paragraph]
    [line] = [line for line in paragraph.splitlines() if line.strip().startswith(title)]
    return line.partition(title)[2].strip()
