"""Key pairs in a token: generate, find, check their origin, sign, destroy.

A key pair is identified by its private key's CKA_LABEL and CKA_ID together: no match, or several, is an error. Its two
halves belong together by their CKA_ID.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asn1crypto import algos, core
from pkcs11 import Attribute, MechanismFlag, ObjectClass, SignMixin
from pkcs11 import KeyType as CryptokiKeyType
from pkcs11.constants import DEFAULT
from pkcs11.exceptions import AttributeReadOnly, AttributeTypeInvalid, AttributeValueInvalid, TemplateInconsistent
from pkcs11.util.ec import encode_ecdsa_signature, encode_named_curve_parameters

from hsm_enroll.errors import KeyAmbiguousError, KeyOriginError, TokenRefusedError
from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.token import capabilities
from hsm_enroll.token.public_key import find_half, find_one, find_public, label_of
from hsm_enroll.token.tpm2 import is_tpm2
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import PrivateKey, PublicKey, Session, Token

# What a key pair is for: the private key signs, and nothing else. SoftHSM allows what the template does not mention.
_SIGNS_ONLY = (
    {Attribute.ENCRYPT: False, Attribute.WRAP: False, Attribute.VERIFY_RECOVER: False},
    {Attribute.DECRYPT: False, Attribute.UNWRAP: False, Attribute.DERIVE: False, Attribute.SIGN_RECOVER: False},
)
# A token may reject that, even where it has the same by default. DEFAULT omits the attribute.
_UNMENTIONED = tuple(dict.fromkeys(template, DEFAULT) for template in _SIGNS_ONLY)
_STAYS_IN_TOKEN = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
_TEMPLATE_REFUSED = (AttributeReadOnly, AttributeTypeInvalid, AttributeValueInvalid, TemplateInconsistent)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair in an open session, usable until the session ends; a ``csr.Signer``.

    Attributes:
        label: CKA_LABEL.
        id: CKA_ID.
        key_type: its type.
        public_key_info: DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), from the token's public key object.
        origin: where the private key was generated, according to the token.
    """

    label: str
    id: bytes
    key_type: KeyType
    public_key_info: bytes
    origin: KeyOrigin
    _private: Any

    def sign(self, message: bytes) -> bytes:
        """Sign a message with the key type's hash; ECDSA as DER ECDSA-Sig-Value (RFC 3279 §2.2.3), RSA as PKCS #1.

        Does *not* verify the signature; ``csr.build`` does.

        Raises:
            TokenRefusedError: the token does not sign.
        """
        if not isinstance(self._private, SignMixin):
            raise TokenRefusedError(
                f"key {self.label!r} is not a signing key (CKA_SIGN is false)",
                hint="Use another key, or generate a new one.",
            )
        with translated("sign", f"token {self._private.session.token.label!r}"):
            return self._sign(message)

    def _sign(self, message: bytes) -> bytes:
        slot = self._private.session.token.slot
        *preferred, last = self.key_type.signing_mechanisms
        name = next((name for name in preferred if capabilities.signs(slot, name)), last)
        mechanism = capabilities.mechanism(name)
        digest = hashlib.new(self.key_type.digest, message).digest()
        if name == "CKM_ECDSA":
            return bytes(encode_ecdsa_signature(self._private.sign(digest, mechanism=mechanism)))
        if name == "CKM_RSA_PKCS":
            return bytes(self._private.sign(_digest_info(digest, self.key_type), mechanism=mechanism))
        return bytes(self._private.sign(message, mechanism=mechanism))


def generate(session: Session, key_type: KeyType, *, label: str, key_id: bytes) -> KeyPair:
    """Generate a key pair that cannot leave its token (PKCS#11 v2.40 §5.13, C_GenerateKeyPair).

    CKA_LOCAL, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_NEVER_EXTRACTABLE and CKA_ALWAYS_SENSITIVE are read back, and a key
    without the required values is destroyed. The key may only sign, unless the token refuses such a template: then it
    may do what the token allows by default.

    Args:
        session: writable and logged in.
        key_type: type of the new key.
        label: CKA_LABEL; no key in the token may have it yet, since awscrt selects a key by its label alone.
        key_id: CKA_ID; no key in the token may have it yet.

    Raises:
        KeyAmbiguousError: the token already has a key with that label or id, which is left as it is.
        KeyOriginError: the token generated a key that could leave it.
        TokenRefusedError: the token cannot generate the key.
    """
    token = session.token.label
    with translated("look for keys", f"token {token!r}"):
        taken = [
            *session.get_objects({Attribute.LABEL: label}),
            *session.get_objects({Attribute.ID: key_id}),
        ]
    if taken:
        raise KeyAmbiguousError(f"token {token!r} already has an object with label {label!r} or id {key_id.hex()}")
    with translated(f"generate a key of type {key_type}", f"token {token!r}"):
        if _is_tpm2(session.token):
            # It makes keys that may also decrypt, rejects the template once its TPM has made the key, and leaks that.
            _generate(session, key_type, label, key_id, _UNMENTIONED)
        else:
            _generate_least(session, key_type, label, key_id)
    pair = find(session, label=label, key_id=key_id)
    if not pair.origin.is_hardware_born:
        destroy(session, label=label, key_id=key_id)
        raise KeyOriginError(
            f"token {token!r} generated a key that could leave it ({_flaws(pair.origin)}); the key was destroyed",
            hint="Use another token.",
        )
    return pair


def find(session: Session, *, label: str | None, key_id: bytes | None, by_public: bool = False) -> KeyPair:
    """Find one key pair by the label and id of its private key; None matches anything. Does *not* check its origin.

    The other half is the key with the same id; its label may differ.

    Args:
        session: logged in.
        label: CKA_LABEL.
        key_id: CKA_ID.
        by_public: whether they are the public key's label and id instead.

    Raises:
        KeyMissingError: there is none, or only its public or private half.
        KeyAmbiguousError: there are several.
        KeyOriginError: its type is not one of ``KeyType``.
    """
    token = f"token {session.token.label!r}"
    if by_public:
        named: PublicKey = find_one(session, ObjectClass.PUBLIC_KEY, label, key_id)
        with translated("read a key's attributes", token):
            label, key_id = label_of(named), named.id
        private: PrivateKey = find_half(session, ObjectClass.PRIVATE_KEY, label=label, key_id=key_id)
    else:
        private = find_one(session, ObjectClass.PRIVATE_KEY, label, key_id)
    with translated("read a key's attributes", token):
        label, key_id = label_of(private), private.id
    public = find_public(session, label=label, key_id=key_id)
    with translated("read a key's attributes", token):
        origin = KeyOrigin(
            local=private[Attribute.LOCAL],
            sensitive=private[Attribute.SENSITIVE],
            extractable=private[Attribute.EXTRACTABLE],
            never_extractable=private[Attribute.NEVER_EXTRACTABLE],
            always_sensitive=private[Attribute.ALWAYS_SENSITIVE],
        )
    return KeyPair(
        label=label,
        id=key_id,
        key_type=public.key_type,
        public_key_info=public.public_key_info,
        origin=origin,
        _private=private,
    )


def is_there(session: Session, *, label: str, key_id: bytes) -> bool:
    """Whether the token has any object with this label and id, such as half a key pair.

    Raises:
        TokenRefusedError: the token cannot be searched.
    """
    with translated("look for keys", f"token {session.token.label!r}"):
        return bool(list(session.get_objects({Attribute.LABEL: label, Attribute.ID: key_id})))


def destroy(session: Session, *, label: str, key_id: bytes) -> None:
    """Destroy both halves of a key pair, or those that exist (PKCS#11 v2.40 §5.7, C_DestroyObject).

    Raises:
        TokenRefusedError: the token does not destroy one.
    """
    with translated("destroy a key", f"token {session.token.label!r}"):
        for found in list(session.get_objects({Attribute.LABEL: label, Attribute.ID: key_id})):
            found.destroy()


def _is_tpm2(token: Token) -> bool:
    serial = token.serial.decode("utf-8", "replace")
    return is_tpm2(TokenName(Path(), token.label, serial, token.manufacturer_id, token.model))


def _generate_least(session: Session, key_type: KeyType, label: str, key_id: bytes) -> None:
    try:
        _generate(session, key_type, label, key_id, _SIGNS_ONLY)
    except _TEMPLATE_REFUSED:
        _generate(session, key_type, label, key_id, _UNMENTIONED)


def _generate(
    session: Session, key_type: KeyType, label: str, key_id: bytes, uses: tuple[dict[Attribute, Any], ...]
) -> None:
    for_public, for_private = uses
    arguments: dict[str, Any] = {
        "id": key_id,
        "label": label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "public_template": for_public,
        "private_template": _STAYS_IN_TOKEN | for_private,
    }
    if key_type.curve_oid is None:
        session.generate_keypair(CryptokiKeyType.RSA, key_type.bits, **arguments)
        return
    curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(key_type.curve_oid)}
    session.create_domain_parameters(CryptokiKeyType.EC, curve, local=True).generate_keypair(**arguments)


def _digest_info(digest: bytes, key_type: KeyType) -> bytes:
    """Return the DigestInfo (RFC 8017 §9.2) that CKM_RSA_PKCS signs."""
    algorithm = algos.DigestAlgorithm({"algorithm": key_type.digest, "parameters": core.Null()})
    return bytes(algos.DigestInfo({"digest_algorithm": algorithm, "digest": digest}).dump())


def _flaws(origin: KeyOrigin) -> str:
    flaws = {
        "CKA_LOCAL is false": not origin.local,
        "CKA_SENSITIVE is false": not origin.sensitive,
        "CKA_EXTRACTABLE is true": origin.extractable,
        "CKA_NEVER_EXTRACTABLE is false": not origin.never_extractable,
        "CKA_ALWAYS_SENSITIVE is false": not origin.always_sensitive,
    }
    return ", ".join(flaw for flaw, present in flaws.items() if present)
