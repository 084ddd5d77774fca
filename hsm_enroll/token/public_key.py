"""Find objects in a token by CKA_LABEL and CKA_ID, and read public keys, which most tokens show without a login."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from asn1crypto import core, keys
from pkcs11 import Attribute, Key, ObjectClass
from pkcs11 import KeyType as CryptokiKeyType

from hsm_enroll.errors import KeyAmbiguousError, KeyMissingError, KeyOriginError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import PrivateKey, PublicKey, Session

_USABLE_TYPES = f"Use a key of type {', '.join(KeyType)}."


class PublicKeyReport(NamedTuple):
    """The public half of a key pair; members as in :class:`keypair.KeyPair`."""

    key_type: KeyType
    public_key_info: bytes


def find_public(session: Session, *, label: str | None, key_id: bytes | None) -> PublicKeyReport:
    """Find one public key by the label and id of its key pair; see :func:`find_half`.

    Raises:
        KeyMissingError, KeyAmbiguousError, KeyOriginError: there is none, there are several, or its type is not one of
            ``KeyType``.
    """
    public: PublicKey = find_half(session, ObjectClass.PUBLIC_KEY, label=label, key_id=key_id)
    with translated("read a key's attributes", f"token {session.token.label!r}"):
        return described(public)


def described(public: PublicKey) -> PublicKeyReport:
    """Read a public key that was found.

    Raises:
        KeyMissingError: its label is not UTF-8.
        KeyOriginError: its type is not one of ``KeyType``.
        PKCS11Error: the token does not show an attribute.
    """
    label = label_of(public)
    info = _public_key_info(public, label)
    return PublicKeyReport(_key_type(info, label), bytes(info.dump()))


def find_half(session: Session, object_class: ObjectClass, *, label: str | None, key_id: bytes | None) -> Any:
    """Find one half of a key pair by the id, which both halves share (PKCS#11 v2.40 §4.8, §4.9).

    Their labels may differ. The label decides only if there is no id, or if several objects have it.

    Raises:
        KeyMissingError, KeyAmbiguousError, TokenRefusedError: as for :func:`find_one`.
    """
    if label is None or not key_id:
        return find_one(session, object_class, label, key_id)
    try:
        return find_one(session, object_class, None, key_id)
    except KeyAmbiguousError:
        return find_one(session, object_class, label, key_id)


def find_one(session: Session, object_class: ObjectClass, label: str | None, key_id: bytes | None) -> Any:
    """Find one object by class, label and id; None matches any label, or any id.

    Raises:
        KeyMissingError, KeyAmbiguousError: there is none, or there are several.
        TokenRefusedError: the token cannot be searched.
    """
    template: dict[Attribute, Any] = {Attribute.CLASS: object_class}
    criteria = []
    if label is not None:
        template[Attribute.LABEL] = label
        criteria.append(f"labelled {label!r}")
    if key_id is not None:
        template[Attribute.ID] = key_id
        criteria.append(f"with id {key_id.hex()}" if key_id else "with an empty id")
    with translated("look for keys", f"token {session.token.label!r}"):
        found = list(session.get_objects(template))
    half = "private" if object_class is ObjectClass.PRIVATE_KEY else "public"
    wanted = " ".join(criteria)
    if not found:
        raise KeyMissingError(f"token {session.token.label!r} has no {half} key {wanted}")
    if len(found) > 1:
        raise KeyAmbiguousError(f"token {session.token.label!r} has {len(found)} {half} keys {wanted}")
    if not isinstance(found[0], Key):
        # python-pkcs11 returns a plain object where it cannot read CKA_CLASS.
        raise TokenRefusedError(f"token {session.token.label!r} does not show the class of its {half} key {wanted}")
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
            f"the label of key {key.id.hex()} is not valid UTF-8",
            hint="Relabel it with the token's own tool.",
        ) from error


def _public_key_info(public: PublicKey, label: str) -> keys.PublicKeyInfo:
    kind = _cryptoki_type(public)
    if kind is CryptokiKeyType.RSA:
        numbers = {
            "modulus": int.from_bytes(public[Attribute.MODULUS]),
            "public_exponent": int.from_bytes(public[Attribute.PUBLIC_EXPONENT]),
        }
        return keys.PublicKeyInfo.wrap(keys.RSAPublicKey(numbers), "rsa")
    if kind is not CryptokiKeyType.EC:
        name = "an unknown type" if kind is None else f"type {kind.name}"
        raise KeyOriginError(f"key {label!r} is of {name}, which AWS IoT does not accept", hint=_USABLE_TYPES)
    parameters = keys.ECDomainParameters.load(public[Attribute.EC_PARAMS])
    return keys.PublicKeyInfo(
        {
            "algorithm": {"algorithm": "ec", "parameters": parameters},
            "public_key": keys.ECPointBitString(_ec_point(public[Attribute.EC_POINT])),
        }
    )


def _cryptoki_type(public: PublicKey) -> CryptokiKeyType | None:
    """Return CKA_KEY_TYPE; None if python-pkcs11 does not know the type."""
    try:
        return public.key_type
    except ValueError:
        return None


def _ec_point(point: bytes) -> bytes:
    """Unwrap an EC point from its DER OCTET STRING (PKCS#11 v2.40, mechanisms, §2.3.3), which some tokens omit.

    An uncompressed point has one octet more than its two coordinates; wrapped it has at least two more.
    """
    unwrapped_sizes = {1 + 2 * math.ceil(key_type.bits / 8) for key_type in KeyType if not key_type.is_rsa}
    return point if len(point) in unwrapped_sizes else bytes(core.OctetString.load(point, strict=True))


def _key_type(info: keys.PublicKeyInfo, label: str) -> KeyType:
    for key_type in KeyType:
        if _is_of_type(info, key_type):
            return key_type
    raise KeyOriginError(
        f"key {label!r} is of a type that AWS IoT or its MQTT client cannot use",
        hint=_USABLE_TYPES,
    )


def _is_of_type(info: keys.PublicKeyInfo, key_type: KeyType) -> bool:
    if info.algorithm == "rsa":
        return bool(key_type.is_rsa and info.bit_size == key_type.bits)
    return bool(info.curve == ("named", key_type.curve))
