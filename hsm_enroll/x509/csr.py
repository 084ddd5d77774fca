"""PKCS #10 certification requests (RFC 2986), built with asn1crypto, signed by whoever holds the key.

Pure: bytes in, bytes out. The signer is two members and a key type; it may be a token, or anything else.
"""

from __future__ import annotations

from typing import Protocol

from asn1crypto import algos, core, csr, keys, pem, x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm_enroll.errors import TokenRefusedError, UsageError
from hsm_enroll.key import KeyType

_SIGNATURE_ALGORITHMS = {
    KeyType.EC_P256: "sha256_ecdsa",
    KeyType.EC_P384: "sha384_ecdsa",
}


class Signer(Protocol):
    """Someone who has a private key and signs with it."""

    @property
    def key_type(self) -> KeyType:
        """Type of the key; it decides the signature algorithm."""

    @property
    def public_key_info(self) -> bytes:
        """DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7)."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature value over ``message`` as a BIT STRING of RFC 2986 §4.2 holds it."""


def subject(common_name: str, additions: str | None = None) -> x509.Name:
    """Build the subject: what ``additions`` says, then ``CN=common_name``.

    Args:
        common_name: the Thing's name, at most 64 characters (RFC 5280, ub-common-name), written as UTF8String.
        additions: an RFC 4514 string such as ``OU=Line 3,O=Example,C=CH``, without a CN; None adds nothing.

    Raises:
        UsageError: the common name is too long for a certificate or no Unicode text, or the additions cannot be
            read or hold a CN.
    """
    if not 0 < len(common_name) <= 64:
        raise UsageError(f"a certificate's CN has 1 to 64 characters; {common_name!r} has {len(common_name)}")
    try:
        own = x509.Name.build({"common_name": common_name}).chosen
    except UnicodeEncodeError as error:
        raise UsageError(f"{common_name!r} is no Unicode text, which a certificate's CN has to be") from error
    names = [] if additions is None else list(_parsed(additions).chosen)
    if any(attribute["type"].native == "common_name" for name in names for attribute in name):
        raise UsageError("the subject's additions hold a CN; the CN is the Thing's name")
    return x509.Name(name="", value=x509.RDNSequence([*names, *own]))


def parse_subject(text: str) -> x509.Name:
    """Read a whole subject from an RFC 4514 string, ``CN`` included or not.

    Raises:
        UsageError: it cannot be read.
    """
    return _parsed(text)


def build(signer: Signer, name: x509.Name) -> str:
    """Build a certification request (RFC 2986 §4), have it signed, and verify the signature before it is returned.

    No attributes: extensions are the issuer's business.

    Args:
        signer: the key's holder.
        name: the subject.

    Returns:
        The request in PEM (RFC 7468 §7).

    Raises:
        TokenRefusedError: the signature does not verify with the public key.
        HsmEnrollError: whatever the signer raises.
    """
    algorithm = algos.SignedDigestAlgorithm({"algorithm": _SIGNATURE_ALGORITHMS.get(signer.key_type, "sha256_rsa")})
    try:
        public_key_info = keys.PublicKeyInfo.load(signer.public_key_info, strict=True)
    except ValueError as error:
        raise TokenRefusedError(f"the token's public key is not one: {error}") from error
    information = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": name,
            "subject_pk_info": public_key_info,
            "attributes": csr.CRIAttributes([]),
        }
    )
    message = information.dump()
    signature = signer.sign(message)
    _verify(signer, message, signature)
    request = csr.CertificationRequest(
        {
            "certification_request_info": information,
            "signature_algorithm": algorithm,
            "signature": core.OctetBitString(signature),
        }
    )
    return bytes(pem.armor("CERTIFICATE REQUEST", request.dump())).decode("ascii")


def is_for(request: str, public_key_info: bytes, name: x509.Name) -> bool:
    """Whether a request in PEM that :func:`build` made is for exactly this key and this subject; junk is not."""
    try:
        _, _, der = pem.unarmor(request.encode("ascii"))
        information = csr.CertificationRequest.load(der)["certification_request_info"]
        same_key = information["subject_pk_info"].dump() == public_key_info
        return bool(same_key and information["subject"].dump() == name.dump())
    except (ValueError, TypeError):
        return False


def _verify(signer: Signer, message: bytes, signature: bytes) -> None:
    """Check the signature, and the public key, with another library than the one that builds the request."""
    algorithm = hashes.SHA384() if signer.key_type.digest == "sha384" else hashes.SHA256()
    try:
        key = load_der_public_key(signer.public_key_info)
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != signer.public_key_info:
            # A point may be written in three forms, and the certificate's key is compared byte by byte.
            raise ValueError("it is not written in its usual form")
        if isinstance(key, rsa.RSAPublicKey) and signer.key_type.is_rsa:
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and not signer.key_type.is_rsa:
            key.verify(signature, message, ec.ECDSA(algorithm))
        else:
            raise UnsupportedAlgorithm(f"it is none of type {signer.key_type}")
    except InvalidSignature as error:
        raise TokenRefusedError(
            "the token's signature does not verify with its own public key",
            hint="Do not use this token; if it is a new key, try once more with --new-key.",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TokenRefusedError(f"the token's public key makes no valid CSR: {error}") from error


def _parsed(text: str) -> x509.Name:
    from cryptography.x509 import Name

    try:
        name = x509.Name.load(Name.from_rfc4514_string(text).public_bytes())
        _check_character_sets(name)
    except ValueError as error:
        reason = f": {error}" if str(error) else ""
        raise UsageError(
            f"{text!r} is not an RFC 4514 name{reason}", hint="Write it like OU=Line 3,O=Example,C=CH."
        ) from error
    return name


def _check_character_sets(name: x509.Name) -> None:
    """Refuse what ``cryptography`` writes all the same: UTF-8 in a string type of ASCII (C and DC are such)."""
    for relative in name.chosen:
        for attribute in relative:
            value = attribute["value"]
            text = value.chosen if isinstance(value, core.Choice) else value
            if isinstance(text, core.PrintableString | core.IA5String) and not text.contents.isascii():
                raise ValueError(f"{attribute['type'].human_friendly} holds a letter beyond ASCII")
