"""Objects in a token, found by CKA_LABEL and CKA_ID, and the public half of a key pair, which needs no login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from asn1crypto import core, keys
from pkcs11 import Attribute, Key, ObjectClass
from pkcs11 import KeyType as CryptokiKeyType

from hsm_enroll.errors import KeyAmbiguousError, KeyMissingError, KeyOriginError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import PrivateKey, PublicKey, Session

CURVES = {KeyType.EC_P256: "secp256r1", KeyType.EC_P384: "secp384r1"}


class PublicKeyReport(NamedTuple):
    """The public half, which most tokens show without a login; members as in :class:`keypair.KeyPair`."""

    key_type: KeyType
    public_key_info: bytes


def find_public(session: Session, *, label: str | None, key_id: bytes | None) -> PublicKeyReport:
    """Find one public key by label and id.

    Raises:
        KeyMissingError, KeyAmbiguousError, KeyOriginError: there is none, there are several, or its type is not one of
            ``KeyType``.
    """
    public: PublicKey = find_one(session, ObjectClass.PUBLIC_KEY, label, key_id)
    with translated("tell a key's attributes", f"token {session.token.label!r}"):
        info, label = _public_key_info(public), label_of(public)
    return PublicKeyReport(_key_type(info, label), bytes(info.dump()))


def find_one(session: Session, object_class: ObjectClass, label: str | None, key_id: bytes | None) -> Any:
    """Find one object by class, label and id; None matches any label, or any id.

    Raises:
        KeyMissingError, KeyAmbiguousError: there is none, or there are several.
        TokenRefusedError: the token does not tell.
    """
    template: dict[Attribute, Any] = {Attribute.CLASS: object_class}
    if label is not None:
        template[Attribute.LABEL] = label
    if key_id is not None:
        template[Attribute.ID] = key_id
    with translated("look for keys", f"token {session.token.label!r}"):
        found = list(session.get_objects(template))
    half = "private" if object_class is ObjectClass.PRIVATE_KEY else "public"
    wanted = f"labelled {label!r}" if label is not None else f"of id {key_id.hex() if key_id else '(any)'}"
    if not found:
        raise KeyMissingError(f"token {session.token.label!r} has no {half} key {wanted}")
    if len(found) > 1:
        raise KeyAmbiguousError(f"token {session.token.label!r} has {len(found)} {half} keys {wanted}")
    if not isinstance(found[0], Key):
        # python-pkcs11 makes a bare object of one whose CKA_CLASS it cannot read.
        raise TokenRefusedError(f"token {session.token.label!r} does not tell what its {half} key {wanted} is")
    return found[0]


def label_of(key: PrivateKey | PublicKey) -> str:
    """Return CKA_LABEL.

    Raises:
        KeyMissingError: it is not UTF-8 (PKCS#11 v2.40 §4.4).
    """
    try:
        return key.label
    except UnicodeDecodeError as error:
        raise KeyMissingError(
            f"the label of key {key.id.hex()} is not UTF-8, so that it cannot be named",
            hint="Relabel it with the token's own tool.",
        ) from error


def _public_key_info(public: PublicKey) -> keys.PublicKeyInfo:
    if public.key_type is CryptokiKeyType.RSA:
        numbers = {
            "modulus": int.from_bytes(public[Attribute.MODULUS]),
            "public_exponent": int.from_bytes(public[Attribute.PUBLIC_EXPONENT]),
        }
        return keys.PublicKeyInfo.wrap(keys.RSAPublicKey(numbers), "rsa")
    parameters = keys.ECDomainParameters.load(public[Attribute.EC_PARAMS])
    return keys.PublicKeyInfo(
        {
            "algorithm": {"algorithm": "ec", "parameters": parameters},
            "public_key": keys.ECPointBitString(_ec_point(public[Attribute.EC_POINT])),
        }
    )


def _ec_point(point: bytes) -> bytes:
    """PKCS#11 v2.40 (mechanisms) §2.3.3 says DER OCTET STRING; some tokens give the bare point, which is odd in length.

    An uncompressed point of P-256 or P-384 has 65 or 97 bytes; wrapped it has two more.
    """
    if len(point) in {65, 97}:
        return point
    return bytes(core.OctetString.load(point, strict=True))


def _key_type(info: keys.PublicKeyInfo, label: str) -> KeyType:
    name = f"rsa-{info.bit_size}" if info.algorithm == "rsa" else f"ec-p{info.bit_size}"
    known = info.algorithm == "rsa" or info.curve[1] in CURVES.values()
    if not known or name not in set(KeyType):
        raise KeyOriginError(
            f"key {label!r} is of a type that AWS IoT or its MQTT client cannot use",
            hint=f"Use one of {', '.join(KeyType)}.",
        )
    return KeyType(name)
