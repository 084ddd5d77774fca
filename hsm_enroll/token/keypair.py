"""Key pairs in a token: generate, find, prove their origin, sign, destroy.

A key pair is named by CKA_LABEL and CKA_ID together, and by nothing else: none or several is an error.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asn1crypto import algos, core
from pkcs11 import Attribute, Mechanism, MechanismFlag, ObjectClass, SignMixin
from pkcs11 import KeyType as CryptokiKeyType
from pkcs11.constants import DEFAULT
from pkcs11.util.ec import encode_ecdsa_signature, encode_named_curve_parameters

from hsm_enroll.errors import KeyAmbiguousError, KeyOriginError, TokenRefusedError
from hsm_enroll.key import KeyOrigin, KeyType
from hsm_enroll.token import capabilities
from hsm_enroll.token.public_key import CURVES, find_one, find_public, label_of
from hsm_enroll.token.translation import translated

if TYPE_CHECKING:
    from pkcs11 import PrivateKey, Session

# tpm2-pkcs11 refuses a template that says what it cannot do, even when it says "no". DEFAULT leaves the attribute out.
_PUBLIC_TEMPLATE = {Attribute.ENCRYPT: DEFAULT, Attribute.WRAP: DEFAULT}
_PRIVATE_TEMPLATE = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.DECRYPT: DEFAULT,
    Attribute.UNWRAP: DEFAULT,
    Attribute.DERIVE: DEFAULT,
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair in an open session; it ends with the session. Signs as ``csr.Signer`` asks.

    Attributes:
        label: CKA_LABEL.
        id: CKA_ID.
        key_type: its type.
        public_key_info: DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), from the token's public key object.
        origin: what the token says of the private key's birth.
    """

    label: str
    id: bytes
    key_type: KeyType
    public_key_info: bytes
    origin: KeyOrigin
    _private: Any

    def sign(self, message: bytes) -> bytes:
        """Sign a message with the key type's hash; ECDSA as DER ECDSA-Sig-Value (RFC 3279 §2.2.3), RSA as PKCS #1.

        The hash is computed here for EC keys, for tokens with CKM_ECDSA only, and for RSA where the token lacks
        the combined mechanism. Does *not* verify the signature; ``csr.build`` does.

        Raises:
            TokenRefusedError: the token does not sign.
        """
        if not isinstance(self._private, SignMixin):
            raise TokenRefusedError(
                f"key {self.label!r} is not meant for signing (CKA_SIGN)", hint="Use another key, or make a new one."
            )
        digest = hashlib.new(self.key_type.digest, message).digest()
        with translated("sign", f"token {self._private.session.token.label!r}"):
            if not self.key_type.is_rsa:
                return bytes(encode_ecdsa_signature(self._private.sign(digest, mechanism=Mechanism.ECDSA)))
            if capabilities.signs(self._private.session.token.slot, Mechanism.SHA256_RSA_PKCS):
                return bytes(self._private.sign(message, mechanism=Mechanism.SHA256_RSA_PKCS))
            return bytes(self._private.sign(_digest_info(digest), mechanism=Mechanism.RSA_PKCS))


def generate(session: Session, key_type: KeyType, *, label: str, key_id: bytes) -> KeyPair:
    """Generate a key pair that cannot leave its token (PKCS#11 v2.40 §5.13, C_GenerateKeyPair).

    The token's word is checked: CKA_LOCAL, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_NEVER_EXTRACTABLE and
    CKA_ALWAYS_SENSITIVE are read back, and a key that is not what was asked for is destroyed.

    Args:
        session: writable and logged in.
        key_type: what to make.
        label: CKA_LABEL; the caller sees to it that it is unique in the token, as awscrt wants.
        key_id: CKA_ID.

    Raises:
        KeyAmbiguousError: the token has a key of that label or id already; none is overwritten.
        KeyOriginError: the token made a key that could leave it.
        TokenRefusedError: the token does not make one.
    """
    token = session.token.label
    with translated("look for keys", f"token {token!r}"):
        taken = [
            *session.get_objects({Attribute.LABEL: label}),
            *session.get_objects({Attribute.ID: key_id}),
        ]
    if taken:
        raise KeyAmbiguousError(f"token {token!r} already has an object labelled {label!r} or with its id")
    arguments: dict[str, Any] = {
        "id": key_id,
        "label": label,
        "store": True,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
        "public_template": _PUBLIC_TEMPLATE,
        "private_template": _PRIVATE_TEMPLATE,
    }
    with translated(f"generate a key of type {key_type}", f"token {token!r}"):
        if key_type.is_rsa:
            session.generate_keypair(CryptokiKeyType.RSA, key_type.bits, **arguments)
        else:
            curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(CURVES[key_type])}
            parameters = session.create_domain_parameters(CryptokiKeyType.EC, curve, local=True)
            parameters.generate_keypair(**arguments)
    pair = find(session, label=label, key_id=key_id)
    if not pair.origin.is_hardware_born:
        destroy(session, label=label, key_id=key_id)
        raise KeyOriginError(
            f"token {token!r} made a key that could leave it ({_flaws(pair.origin)}); it was destroyed",
            hint="Use a token that keeps its keys.",
        )
    return pair


def find(session: Session, *, label: str | None, key_id: bytes | None) -> KeyPair:
    """Find one key pair by label and id; None matches anything. Its origin is told, not judged.

    Raises:
        KeyMissingError: there is none, or only its public or its private half.
        KeyAmbiguousError: there are several.
        KeyOriginError: its type is not one of ``KeyType``.
    """
    private: PrivateKey = find_one(session, ObjectClass.PRIVATE_KEY, label, key_id)
    with translated("tell a key's attributes", f"token {session.token.label!r}"):
        label, key_id = label_of(private), private.id
    public = find_public(session, label=label, key_id=key_id)
    with translated("tell a key's attributes", f"token {session.token.label!r}"):
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
    """Whether the token holds any object of this label and id, such as half a key pair.

    Raises:
        TokenRefusedError: the token does not tell.
    """
    with translated("look for keys", f"token {session.token.label!r}"):
        return bool(list(session.get_objects({Attribute.LABEL: label, Attribute.ID: key_id})))


def destroy(session: Session, *, label: str, key_id: bytes) -> None:
    """Destroy both halves of a key pair; missing ones are no error (PKCS#11 v2.40 §5.7, C_DestroyObject).

    Raises:
        TokenRefusedError: the token keeps it.
    """
    with translated("destroy a key", f"token {session.token.label!r}"):
        for found in list(session.get_objects({Attribute.LABEL: label, Attribute.ID: key_id})):
            found.destroy()


def _digest_info(digest: bytes) -> bytes:
    """DigestInfo of RFC 8017 §9.2 for SHA-256, for tokens that have CKM_RSA_PKCS alone."""
    algorithm = algos.DigestAlgorithm({"algorithm": "sha256", "parameters": core.Null()})
    return bytes(algos.DigestInfo({"digest_algorithm": algorithm, "digest": digest}).dump())


def _flaws(origin: KeyOrigin) -> str:
    flaws = {
        "not generated in it": not origin.local,
        "not sensitive": not origin.sensitive,
        "extractable": origin.extractable,
        "extractable at some time": not origin.never_extractable,
        "not always sensitive": not origin.always_sensitive,
    }
    return ", ".join(flaw for flaw, present in flaws.items() if present)
