"""PKCS #10 certification requests (RFC 2986), built with asn1crypto and signed by whoever holds the key.

Pure: bytes in, bytes out. The signer may be a token, or anything else that signs.
"""

from __future__ import annotations

import re
from typing import Protocol

from asn1crypto import algos, core, csr, keys, pem, x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm_enroll.errors import TokenRefusedError, UsageError
from hsm_enroll.key import KeyType

# The ASN.1 types in which a subject's attributes are written, but for UTF8String (X.680 §41.4 and table 8).
_CHARACTER_SETS = (
    (core.PrintableString, re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*"), "A to Z, a to z, 0 to 9, blanks and '()+,-./:=?"),
    (core.IA5String, re.compile(r"[\x00-\x7f]*"), "ASCII characters"),
)
_EXAMPLE = (
    "Write it like OU=Line 3,O=Example,C=CH. The types are CN, OU, O, L, ST, C, STREET, DC and UID; write any other as "
    "an OID, such as 2.5.4.5 for a serial number."
)


class Signer(Protocol):
    """Holds a private key and signs with it."""

    @property
    def key_type(self) -> KeyType:
        """Type of the key, which determines the signature algorithm."""

    @property
    def public_key_info(self) -> bytes:
        """DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7)."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message``, as the BIT STRING ``signature`` of RFC 2986 §4.2 holds it."""


def subject(common_name: str, additions: str | None = None) -> x509.Name:
    """Build the subject: ``additions``, then ``CN=common_name``.

    Args:
        common_name: the Thing's name, at most 64 characters (RFC 5280, ub-common-name), written as UTF8String.
        additions: an RFC 4514 string such as ``OU=Line 3,O=Example,C=CH``, without a CN; None adds nothing.

    Raises:
        UsageError: the common name is too long for a certificate or not valid Unicode, or the additions are not an
            RFC 4514 string, contain a CN, or have a character that its attribute's ASN.1 type does not allow.
    """
    if not 0 < len(common_name) <= 64:
        raise UsageError(f"a certificate's CN must have 1 to 64 characters; {common_name!r} has {len(common_name)}")
    try:
        own = x509.Name.build({"common_name": common_name}).chosen
    except UnicodeEncodeError as error:
        raise UsageError(f"a certificate's CN must be Unicode text; {common_name!r} is not") from error
    names = [] if additions is None else list(_parsed(additions).chosen)
    if any(attribute["type"].native == "common_name" for name in names for attribute in name):
        raise UsageError(
            "the subject must not contain a CN: it is always the Thing's name", hint="Leave the CN out of the subject."
        )
    return x509.Name(name="", value=x509.RDNSequence([*names, *own]))


def parse_subject(text: str) -> x509.Name:
    """Read a whole subject from an RFC 4514 string, with or without a ``CN``.

    Raises:
        UsageError: it is not an RFC 4514 string, or has a character that its attribute's ASN.1 type does not allow.
    """
    return _parsed(text)


def build(signer: Signer, name: x509.Name) -> str:
    """Build a certification request (RFC 2986 §4), have it signed, and verify the signature before returning it.

    It has no attributes: the issuer decides on extensions.

    Args:
        signer: holds the key.
        name: the subject.

    Returns:
        The request in PEM (RFC 7468 §7).

    Raises:
        TokenRefusedError: the public key is invalid or not of the signer's key type, or the signature is wrong.
        HsmEnrollError: whatever the signer raises.
    """
    algorithm = algos.SignedDigestAlgorithm({"algorithm": signer.key_type.signature_algorithm})
    try:
        public_key_info = keys.PublicKeyInfo.load(signer.public_key_info, strict=True)
    except ValueError as error:
        raise _invalid_key(error) from error
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
    verify(signer, message, signature)
    request = csr.CertificationRequest(
        {
            "certification_request_info": information,
            "signature_algorithm": algorithm,
            "signature": core.OctetBitString(signature),
        }
    )
    return bytes(pem.armor("CERTIFICATE REQUEST", request.dump())).decode("ascii")


def verify(signer: Signer, message: bytes, signature: bytes) -> None:
    """Check a signer's public key and its signature, with a library other than the one that builds requests.

    Raises:
        TokenRefusedError: the public key is invalid or not of the signer's key type, or the signature is wrong.
    """
    key_type = signer.key_type
    algorithm: hashes.HashAlgorithm = getattr(hashes, key_type.digest.upper())()
    try:
        key = load_der_public_key(signer.public_key_info)
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != signer.public_key_info:
            # An EC point has three encodings, and the certificate's key is compared byte by byte.
            raise ValueError("not in the usual encoding")
        if isinstance(key, rsa.RSAPublicKey) and (key_type.is_rsa and key.key_size == key_type.bits):
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == key_type.curve:
            key.verify(signature, message, ec.ECDSA(algorithm))
        else:
            raise UnsupportedAlgorithm(f"not a key of type {key_type}")
    except InvalidSignature as error:
        raise TokenRefusedError(
            "the token's signature does not verify with its own public key",
            hint="If the key is new, try once more with --new-key; if that fails too, do not use this token.",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _invalid_key(error) from error


def is_for(request: str, public_key_info: bytes, name: x509.Name) -> bool:
    """Whether a PEM request made by :func:`build` is for exactly this key and this subject; False for anything else."""
    try:
        _, _, der = pem.unarmor(request.encode("ascii"))
        information = csr.CertificationRequest.load(der)["certification_request_info"]
        same_key = information["subject_pk_info"].dump() == public_key_info
        return bool(same_key and information["subject"].dump() == name.dump())
    except (ValueError, TypeError):
        return False


def der(request: str) -> bytes:
    """Return the DER of a PEM request made by :func:`build`."""
    return bytes(pem.unarmor(request.encode("ascii"))[2])


def common_name(request: str) -> str:
    """Return the common name in a PEM request made by :func:`build`; "" for anything else."""
    try:
        _, _, der = pem.unarmor(request.encode("ascii"))
        name = csr.CertificationRequest.load(der)["certification_request_info"]["subject"].native["common_name"]
    except (ValueError, TypeError, KeyError):
        return ""
    return name if isinstance(name, str) else ""


def _invalid_key(reason: Exception) -> TokenRefusedError:
    return TokenRefusedError(f"the token's public key cannot be used: {reason}")


def _parsed(text: str) -> x509.Name:
    from cryptography.x509 import Name

    try:
        name = x509.Name.load(Name.from_rfc4514_string(text).public_bytes())
        _check_character_sets(name)
    except ValueError as error:
        reason = f": {error}" if str(error) else ""
        raise UsageError(f"{text!r} is not an RFC 4514 name{reason}", hint=_EXAMPLE) from error
    return name


def _check_character_sets(name: x509.Name) -> None:
    """Refuse what an attribute's string type cannot hold; ``cryptography`` writes UTF-8 into every type."""
    for relative in name.chosen:
        for attribute in relative:
            value = attribute["value"]
            string = value.chosen if isinstance(value, core.Choice) else value
            for kind, allowed, description in _CHARACTER_SETS:
                if isinstance(string, kind) and not allowed.fullmatch(text := string.contents.decode("utf-8")):
                    raise UsageError(
                        f"the subject's {attribute['type'].human_friendly} {text!r} is not valid: its type "
                        f"{kind.__name__} allows only {description}",
                        hint="Leave the other characters out.",
                    )
