"""Proofs for the tests of the backend: honest ones, and those that no honest signer makes."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from enrollment_backend.proof import Proof, read
from tests.support.csr_factory import spki_of
from tests.support.deployment import Answer, Deployment, event

API = "https://api.example.com"
"""The API of `deployment.event`."""

URL = f"{API}/v1/renewals"
NOW = 1_800_000_000  # seconds since the epoch

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def base64url(content: bytes) -> str:
    """Encode without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def algorithm_of(key: PrivateKey) -> str:
    """Return the one algorithm that is accepted for a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256"
    return f"ES{key.key_size}"


def kid_of(key: PrivateKey) -> str:
    """Return a key's id in the header of a proof."""
    return hashlib.sha256(spki_of(key)).hexdigest()


def header(key: PrivateKey, url: str, now: float, /, **changes: object) -> dict[str, object]:
    """Return the header of a good proof with some members changed, or removed with `...`."""
    members: dict[str, object] = {
        "alg": algorithm_of(key),
        "kid": kid_of(key),
        "url": url,
        "iat": int(now),
        "jti": secrets.token_urlsafe(16),
        **changes,
    }
    return {name: value for name, value in members.items() if value is not ...}


def signature_of(key: PrivateKey, message: bytes, digest: hashes.HashAlgorithm | None = None) -> bytes:
    """Sign in the form that JWS has: an RSA signature, or r and s of ECDSA."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), digest or hashes.SHA256())
    usual: hashes.HashAlgorithm = hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()
    size = (key.key_size + 7) // 8
    pair = decode_dss_signature(key.sign(message, ec.ECDSA(digest or usual)))
    return b"".join(number.to_bytes(size) for number in pair)


def sign(key: PrivateKey, protected: Mapping[str, object] | bytes, payload: bytes = b"{}") -> bytes:
    """Return a JWS in compact serialization, whatever the header says, that a key has really signed."""
    encoded = protected if isinstance(protected, bytes) else json.dumps(protected).encode()
    content = f"{base64url(encoded)}.{base64url(payload)}"
    return f"{content}.{base64url(signature_of(key, content.encode()))}".encode()


def accepted(body: bytes, key: PrivateKey, url: str = URL, now: float = NOW) -> Proof:
    """Read a proof and check its signature, as the backend does."""
    proof = read(body, url, now)
    proof.check_signature(spki_of(key))
    return proof


def with_header(key: PrivateKey, **changes: object) -> bytes:
    """Return a proof for `URL` at `NOW`, correctly signed, whose header has some members changed; see `header`."""
    return sign(key, header(key, URL, NOW, **changes))


def prove(
    backend: Deployment, key: PrivateKey, path: str, fields: Mapping[str, object] | None = None, **changes: object
) -> Answer:
    """Send a good proof of a key to a path, or one whose header has some members changed."""
    protected = header(key, f"{API}{path}", backend.clock.time(), **changes)
    return send(backend, path, sign(key, protected, json.dumps(fields or {}).encode()))


def send(backend: Deployment, path: str, body: bytes, content_type: str = "application/jose") -> Answer:
    """POST a proof as API Gateway passes it on, in base64."""
    encoded = base64.b64encode(body).decode("ascii")
    return backend.send(event("POST", path, encoded, encoded=True, content_type=content_type))
