"""Proofs: requests that a device signs with its own key, as a JWS in compact serialization (RFC 7515 §7.1).

The order of the checks: `read` checks all that needs no ledger, then the caller looks up the key with the hash
`Proof.spki_sha256`, then `Proof.check_signature`, then `use_once`. Everything but `use_once` is pure. A proof says
which URL was called and when, so it cannot be used at another path, with another API, or more than five minutes later.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.errors import RequestRefusedError
from enrollment_backend.proof_errors import (
    ClockSkewError,
    ProofInvalidError,
    ProofMalformedError,
    ProofReplayedError,
)
from enrollment_backend.strict_json import parse_object
from enrollment_backend.table import Table, Write

MAX_SKEW_SECONDS = 300
_TTL_SECONDS = 900  # longer than a proof can be valid: 300 s from now on, if it is dated 300 s ahead

_REQUIRED = frozenset({"alg", "kid", "url", "iat", "jti"})
_KID = re.compile(r"[0-9a-f]{64}")
_JTI = re.compile(r"[A-Za-z0-9_-]{16,64}")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


class _Algorithm(NamedTuple):
    """A signature algorithm of RFC 7518 §3.1.

    Attributes:
        curve: the curve of its keys; None for RSA.
        digest: the hash.
        sizes: how many octets a signature may have.
    """

    curve: type[ec.EllipticCurve] | None
    digest: hashes.HashAlgorithm
    sizes: frozenset[int]


_ALGORITHMS = {
    "ES256": _Algorithm(ec.SECP256R1, hashes.SHA256(), frozenset({64})),
    "ES384": _Algorithm(ec.SECP384R1, hashes.SHA384(), frozenset({96})),
    "RS256": _Algorithm(None, hashes.SHA256(), frozenset({256, 384, 512})),
}


@dataclass(frozen=True)
class Proof:
    """A proof whose form and time are acceptable. Whether its signature is valid, only `check_signature` says.

    Attributes:
        algorithm: ``ES256``, ``ES384`` or ``RS256``.
        spki_sha256: which key signed it: its `kid`, 64 lower-case hexadecimal digits, as the ledger's ids of keys.
        issued_at: when it was signed by the signer's clock, in seconds since the epoch.
        jti: its unique id, chosen by the signer.
        payload: the bytes that were signed; not to be interpreted before the signature has been checked.
        signing_input: what the signature is computed over (RFC 7515 §5.1).
        signature: r and s of ECDSA (RFC 7518 §3.4), or an RSA signature (§3.3).
    """

    algorithm: str
    spki_sha256: str
    issued_at: int
    jti: str
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def check_signature(self, spki: bytes) -> None:
        """Check that a key is the one that the proof names, is of the algorithm's type, and made the signature.

        Args:
            spki: DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) of the key, from the ledger.

        Raises:
            ProofInvalidError: it is not, or did not. Raise the same for a key that the ledger does not know.

        Does not check who the key belongs to, or whether the proof was used before, see `use_once`.
        """
        if hashlib.sha256(spki).hexdigest() != self.spki_sha256:
            raise ProofInvalidError(reason="key")
        try:
            self._verify(spki)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
            raise ProofInvalidError(reason="signature") from error

    def fields(self) -> dict[str, Any]:
        """Return the JSON object that is the payload; to be called once the signature has been checked.

        Raises:
            RequestRefusedError: from `strict_json.parse_object`.
        """
        return parse_object(self.payload)

    def _verify(self, spki: bytes) -> None:
        curve, digest, _ = _ALGORITHMS[self.algorithm]
        key = load_der_public_key(spki)
        if curve is None and isinstance(key, rsa.RSAPublicKey):
            key.verify(self.signature, self.signing_input, padding.PKCS1v15(), digest)
        elif curve is not None and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve):
            half = len(self.signature) // 2
            r, s = (int.from_bytes(part) for part in (self.signature[:half], self.signature[half:]))
            key.verify(encode_dss_signature(r, s), self.signing_input, ec.ECDSA(digest))
        else:
            raise ProofInvalidError(reason="algorithm")


def read(body: bytes, url: str, now: float) -> Proof:
    """Parse a proof, and check its header and its time.

    Args:
        body: the body of the request; the caller has bounded its size.
        url: the URL that was called, see `http.called_url`.
        now: the time, in seconds since the epoch.

    Raises:
        ProofMalformedError: it is not a compact JWS in canonical base64url, its header has a member that is missing,
            unknown or invalid, its algorithm is not accepted, or its `url` is another one.
        ClockSkewError: it is dated more than five minutes before or after `now`.

    Does not check the signature, the payload, or whether the proof was used before.
    """
    encoded_header, encoded_payload, encoded_signature = _segments(body)
    header = _header(_decode(encoded_header, "header"))
    payload, signature = _decode(encoded_payload, "payload"), _decode(encoded_signature, "signature")
    if len(signature) not in _ALGORITHMS[header["alg"]].sizes:
        raise ProofMalformedError("its signature must have the length that its alg requires")
    if header["url"] != url:
        raise ProofMalformedError(
            "its url must be exactly the URL that was called, with the host in lower case and without a query"
        )
    if abs(now - header["iat"]) > MAX_SKEW_SECONDS:
        raise ClockSkewError
    return Proof(
        algorithm=header["alg"],
        spki_sha256=header["kid"],
        issued_at=header["iat"],
        jti=header["jti"],
        payload=payload,
        signing_input=f"{encoded_header}.{encoded_payload}".encode("ascii"),
        signature=signature,
    )


def use_once(table: Table, proof: Proof, now: float) -> None:
    """Record that a proof was used, so that it is refused from now on; for a proof whose signature was checked.

    Args:
        table: the ledger's table.
        proof: the proof.
        now: the time, in seconds since the epoch.

    Raises:
        ProofReplayedError: its key has used its `jti` before.
        EnrollmentError: from `aws.call`.
    """
    key = ("proof", f"{proof.spki_sha256}#{proof.jti}")
    use = uuid.uuid4().hex
    try:
        table.update(Write(key, {"use": use, "ttl": int(now) + _TTL_SECONDS}, "attribute_not_exists(#id)", {}))
    except ConditionFailedError as error:
        if table.get([key]).get(key, {}).get("use") != use:  # otherwise it was written, and the response was lost
            raise ProofReplayedError from error


def _segments(body: bytes) -> list[str]:
    try:
        segments = body.decode("ascii").split(".")
    except UnicodeDecodeError as error:
        raise ProofMalformedError("it is not ASCII") from error
    if len(segments) != 3:
        raise ProofMalformedError("it must be a JWS in compact serialization, three parts joined by dots")
    return segments


def _decode(segment: str, part: str) -> bytes:
    """Decode base64url (RFC 7515 §2) in its one canonical form: no padding, and no bits set that are not used."""
    if _BASE64URL.fullmatch(segment) and len(segment) % 4 != 1:
        content = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        if base64.urlsafe_b64encode(content).rstrip(b"=") == segment.encode("ascii"):
            return content
    raise ProofMalformedError(f"its {part} is not canonical base64url without padding")


def _header(content: bytes) -> dict[str, Any]:
    try:
        header = parse_object(content)
    except RequestRefusedError as error:
        raise ProofMalformedError("its header is not a JSON object as RFC 8259 has it") from error
    if not header.keys() >= _REQUIRED or not header.keys() <= _REQUIRED | {"typ"}:
        raise ProofMalformedError("its header must have the members alg, kid, url, iat and jti, and no others")
    for name, (is_valid, requirement) in _MEMBERS.items():
        if name in header and not is_valid(header[name]):
            raise ProofMalformedError(f"its {name} must be {requirement}")
    return header


def _is_text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


_MEMBERS: dict[str, tuple[Callable[[object], bool], str]] = {
    "alg": (lambda value: isinstance(value, str) and value in _ALGORITHMS, "ES256, ES384 or RS256"),
    "kid": (lambda value: _is_text(value, _KID), "the key's SHA-256 in 64 lower-case hexadecimal digits"),
    "iat": (lambda value: type(value) is int, "an integer"),  # to isinstance, true is one
    "jti": (lambda value: _is_text(value, _JTI), "16 to 64 characters of base64url"),
    "typ": (lambda value: value in ("JOSE", "jose"), "JOSE, if there is one"),
}
