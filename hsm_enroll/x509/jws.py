"""Proofs for the API: JWS in compact serialization (RFC 7515 §7.1), signed by whoever holds the key.

Pure: values in, text out. The signer may be a token, or anything else that signs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from urllib.parse import urlsplit, urlunsplit

from asn1crypto import algos

from hsm_enroll.key import KeyType
from hsm_enroll.x509.csr import Signer, verify

MEDIA_TYPE = "application/jose"
"""The Content-Type of a proof (RFC 7515 §9.2.1)."""

_EC_ALGORITHMS = {KeyType.EC_P256: "ES256", KeyType.EC_P384: "ES384"}
_RSA_ALGORITHM = "RS256"


def build(signer: Signer, url: str, payload: bytes, now: float, jti: str) -> str:
    """Build a proof, have it signed, and verify the signature before returning it.

    The API accepts each proof once and for five minutes, so every request needs a new one, a repeated request too.

    Args:
        signer: holds the key.
        url: the URL that is called, ``https://HOST[:PORT]/PATH`` without a query; written into the proof as API Gateway
            knows it, with the host in lower case and without the default port.
        payload: a JSON object in UTF-8.
        now: the time, in seconds since the epoch.
        jti: unique among all proofs of this key: 16 random bytes in base64url, as from ``secrets.token_urlsafe(16)``.

    Returns:
        The proof, in ASCII: the body of a POST with the Content-Type `MEDIA_TYPE`.

    Raises:
        TokenRefusedError: the public key is invalid or not of the signer's key type, or the signature is wrong.
        HsmEnrollError: whatever the signer raises.

    Does not check the payload or whether the URL is an API's.
    """
    header = {
        "alg": _EC_ALGORITHMS.get(signer.key_type, _RSA_ALGORITHM),
        "kid": hashlib.sha256(signer.public_key_info).hexdigest(),
        "url": _as_called(url),
        "iat": int(now),
        "jti": jti,
    }
    content = f"{_base64url(json.dumps(header, separators=(',', ':')).encode('ascii'))}.{_base64url(payload)}"
    message = content.encode("ascii")
    signature = signer.sign(message)
    verify(signer, message, signature)
    return f"{content}.{_base64url(_octets(signer.key_type, signature))}"


def _as_called(url: str) -> str:
    scheme, host, path, _, _ = urlsplit(url)
    return urlunsplit((scheme, host.lower().removesuffix(":443"), path, "", ""))


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _octets(key_type: KeyType, signature: bytes) -> bytes:
    """Return a verified signature as JWS has it: one of ECDSA is r and s, each of fixed size (RFC 7518 §3.4)."""
    if key_type.is_rsa:
        return signature
    pair = algos.DSASignature.load(signature)
    return b"".join(pair[name].native.to_bytes(key_type.bits // 8) for name in ("r", "s"))
