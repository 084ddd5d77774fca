"""S19: signatures of proofs: the accepted algorithms, each with its own type of key, and nothing that only looks so."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from joserfc.jwk import ECKey, RSAKey

from enrollment_backend.proof import Proof, read
from enrollment_backend.proof_errors import ClockSkewError, ProofInvalidError, ProofMalformedError
from tests.support.csr_factory import KEY_TYPES, ec_key, key_of_type, rsa_key, spki_of
from tests.support.proofs import (
    NOW,
    URL,
    PrivateKey,
    accepted,
    base64url,
    header,
    sign,
    signature_of,
    with_header,
)

P256, P384, P521 = ec_key(), ec_key(ec.SECP384R1), ec_key(ec.SECP521R1)
ORDERS = {
    P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    P384: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}
CURVES = pytest.mark.parametrize("key", [P256, P384])
PAYLOAD = base64url(b"{}")


@pytest.fixture(params=KEY_TYPES)
def key(request: pytest.FixtureRequest) -> PrivateKey:
    """A key of each type, made only where a test has it."""
    return key_of_type(request.param)


# RFC 7515, appendices A.2 and A.3: the same payload, signed with an RSA key and with a key on P-256.
RFC_PAYLOAD = (
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
)  # fmt: skip
RFC_KEYS: dict[str, ECKey | RSAKey] = {
    "RS256": RSAKey.import_key(
        {
            "kty": "RSA",
            "n": (
                "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-"
                "SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS"
                "-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2"
                "ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
            ),
            "e": "AQAB",
        }
    ),
    "ES256": ECKey.import_key(
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    ),
}
RFC_SIGNATURES = {
    "RS256": (
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr"
        "7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--x"
        "i12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_Ioy"
        "pGlUPQGe77Rw"
    ),
    "ES256": "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
}


def rfc_proof(algorithm: str, payload: str = RFC_PAYLOAD) -> tuple[Proof, bytes]:
    """Return an example of the RFC as a proof, and its key."""
    spki = RFC_KEYS[algorithm].as_der(private=False)
    protected = base64url(f'{{"alg":"{algorithm}"}}'.encode())
    proof = Proof(
        algorithm=algorithm,
        spki_sha256=hashlib.sha256(spki).hexdigest(),
        issued_at=NOW,
        jti="0123456789abcdef_-ABCD",
        payload=b"",
        signing_input=f"{protected}.{payload}".encode(),
        signature=decoded(RFC_SIGNATURES[algorithm]),
    )
    return proof, spki


def decoded(segment: str) -> bytes:
    """Decode base64url without padding."""
    return base64.urlsafe_b64decode(segment + "==")


@pytest.mark.parametrize("algorithm", RFC_KEYS)
def test_the_signatures_of_the_standards_examples_are_accepted(algorithm: str) -> None:
    """RFC 7515, appendices A.2 and A.3: accepted as they are, refused for a payload that differs in one bit."""
    proof, spki = rfc_proof(algorithm)
    proof.check_signature(spki)
    changed, _ = rfc_proof(algorithm, RFC_PAYLOAD[:-1] + "R")
    with pytest.raises(ProofInvalidError):
        changed.check_signature(spki)


@pytest.mark.parametrize(
    "algorithm",
    [
        *("none", "None", "NONE", "nOnE", ""),
        *("HS256", "HS384", "HS512"),
        *("ES512", "ES256K", "EdDSA", "Ed25519", "ML-DSA-44"),
        *("PS256", "PS384", "PS512", "RS384", "RS512", "RS1"),
        *("es256", "Es256", "ES256 ", " ES256", "ES256\x00", "ECDSA", "ecdsa-with-SHA256"),
        *(None, True, 0, 256, ["ES256"], {"ES256": "ES256"}),
    ],
)
def test_other_algorithms_are_refused_before_any_key_is_looked_up(algorithm: object) -> None:
    """Names are compared with regard to case (RFC 7515 §4.1.1); `none`, HMAC and the rest do not get past `read`."""
    with pytest.raises(ProofMalformedError, match="alg"):
        read(with_header(P256, alg=algorithm), URL, NOW)


def test_an_unsecured_jws_is_refused() -> None:
    """RFC 7518 §3.6: `none` and an empty signature, and an empty signature under the name of an algorithm."""
    for algorithm in ("none", "ES256"):
        protected = base64url(json.dumps(header(P256, URL, NOW, alg=algorithm)).encode())
        with pytest.raises(ProofMalformedError):
            read(f"{protected}.{PAYLOAD}.".encode(), URL, NOW)


@pytest.mark.parametrize(
    ("algorithm", "key", "digest"),
    [
        ("ES256", P384, hashes.SHA256()),
        ("ES256", P384, hashes.SHA384()),
        ("ES384", P256, hashes.SHA384()),
        ("ES384", P256, hashes.SHA256()),
        ("ES256", P521, hashes.SHA256()),
        ("ES384", P521, hashes.SHA384()),
        ("ES256", rsa_key(), hashes.SHA256()),
        ("ES384", rsa_key(), hashes.SHA256()),
        ("RS256", P256, hashes.SHA256()),
        ("RS256", P384, hashes.SHA384()),
    ],
)
def test_an_algorithm_goes_with_its_own_type_of_key(
    algorithm: str, key: PrivateKey, digest: hashes.HashAlgorithm
) -> None:
    """RFC 7518 §3.4 binds the curve to the algorithm: another's has another length, and filled up it is wrong."""
    content = f"{base64url(json.dumps(header(key, URL, NOW, alg=algorithm)).encode())}.{PAYLOAD}"
    signature = signature_of(key, content.encode(), digest)
    with pytest.raises(ProofMalformedError, match="length"):
        read(f"{content}.{base64url(signature)}".encode(), URL, NOW)
    size = {"ES256": 64, "ES384": 96, "RS256": 256}[algorithm]
    fitting = read(f"{content}.{base64url(signature[:size].rjust(size, bytes(1)))}".encode(), URL, NOW)
    with pytest.raises(ProofInvalidError) as caught:
        fitting.check_signature(spki_of(key))
    assert caught.value.facts == {"reason": "algorithm"}


def test_rsa_signatures_are_pkcs1_with_sha256() -> None:
    """RFC 7518 §3.3: neither PSS nor another hash, however the same key made it."""
    key = rsa_key()
    content = f"{base64url(json.dumps(header(key, URL, NOW)).encode())}.{PAYLOAD}"
    message = content.encode()
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    signatures = [
        key.sign(message, pss, hashes.SHA256()),
        *(key.sign(message, padding.PKCS1v15(), digest) for digest in (hashes.SHA1(), hashes.SHA384())),  # noqa: S303
    ]
    for signature in signatures:
        proof = read(f"{content}.{base64url(signature)}".encode(), URL, NOW)
        with pytest.raises(ProofInvalidError):
            proof.check_signature(spki_of(key))


@CURVES
def test_numbers_that_are_no_ecdsa_signature_are_refused(key: ec.EllipticCurvePrivateKey) -> None:
    """r and s are from 1 to n - 1 (FIPS 186-5 §6.4.2): neither 0, which once was valid for any message, nor beyond."""
    n, size = ORDERS[key], key.key_size // 8
    content = f"{base64url(json.dumps(header(key, URL, NOW)).encode())}.{PAYLOAD}"
    good = signature_of(key, content.encode())
    r, s = int.from_bytes(good[:size]), int.from_bytes(good[size:])
    largest = (1 << 8 * size) - 1
    assert 0 < r < n
    assert 0 < s < n
    pairs = [(0, 0), (0, s), (r, 0), (n, s), (r, n), (n, n), (1, 0), (0, 1), (1, 1), (s, r), (largest, largest)]
    beyond = [(r + n, s), (r, s + n)]
    for pair in pairs + [pair for pair in beyond if max(pair) <= largest]:
        signature = b"".join(number.to_bytes(size) for number in pair)
        proof = read(f"{content}.{base64url(signature)}".encode(), URL, NOW)
        with pytest.raises(ProofInvalidError):
            proof.check_signature(spki_of(key))


def test_a_signature_has_its_algorithms_length(key: PrivateKey) -> None:
    """RFC 7518 §3.4: not DER, not cut, not extended, not without its leading zeros."""
    content = f"{base64url(json.dumps(header(key, URL, NOW)).encode())}.{PAYLOAD}"
    good = signature_of(key, content.encode())
    others = [b"", good[:-1], good[1:], good + b"\x00", b"\x00" + good, good * 2, good[: len(good) // 2]]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        others.append(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
    lengths = {256, 384, 512} if not isinstance(key, ec.EllipticCurvePrivateKey) else set[int]()
    for signature in others:
        if len(signature) in lengths:
            continue  # that of a larger RSA key
        with pytest.raises(ProofMalformedError, match="length"):
            read(f"{content}.{base64url(signature)}".encode(), URL, NOW)


def test_a_body_or_header_swapped_under_a_signature_is_refused(key: PrivateKey) -> None:
    """The signature covers both; each alone is what another proof of the same key has."""
    one = sign(key, header(key, URL, NOW), b'{"csr": "one"}').split(b".")
    two = sign(key, header(key, URL, NOW), b'{"csr": "two"}').split(b".")
    for mixed in ([one[0], two[1], one[2]], [two[0], one[1], one[2]], [one[0], one[1], two[2]]):
        with pytest.raises(ProofInvalidError):
            accepted(b".".join(mixed), key)


def test_another_keys_signature_is_refused() -> None:
    """Whoever signs, a proof is one of the key whose hash it names: neither is enough alone."""
    stranger = ec.generate_private_key(ec.SECP256R1())
    forged = read(sign(stranger, header(P256, URL, NOW)), URL, NOW)
    with pytest.raises(ProofInvalidError):
        forged.check_signature(spki_of(P256))
    with pytest.raises(ProofInvalidError):
        forged.check_signature(spki_of(stranger))


UNKNOWN_KIND = bytes.fromhex("300a 3005 0603 2a0304 0301 00")  # SubjectPublicKeyInfo with the algorithm 1.2.3.4


@pytest.mark.parametrize(
    "spki",
    [b"", b"junk", b"\x30\x00", spki_of(P256)[:-1], spki_of(ec_key(ec.SECP256K1)), UNKNOWN_KIND],
    ids=["nothing", "text", "empty", "cut off", "another curve", "an unknown kind"],
)
def test_a_key_that_is_none_proves_nothing(spki: bytes) -> None:
    """Whatever the ledger may hold, it is refused like any other key."""
    with pytest.raises(ProofInvalidError):
        read(with_header(P256, kid=hashlib.sha256(spki).hexdigest()), URL, NOW).check_signature(spki)


def flipped(body: bytes) -> list[bytes]:
    """Return a body with one bit changed, for every bit."""
    return [
        bytes([*body[:place], body[place] ^ 1 << bit, *body[place + 1 :]])
        for place in range(len(body))
        for bit in range(8)
    ]


def test_any_flipped_bit_is_refused(key: PrivateKey) -> None:
    """Each single bit of a proof, in header, payload, signature and dots, with an error that says so."""
    good = sign(key, header(key, URL, NOW), b'{"csr": "text"}')
    accepted(good, key)
    for body in flipped(good):
        with pytest.raises((ProofMalformedError, ProofInvalidError, ClockSkewError)):
            accepted(body, key)
