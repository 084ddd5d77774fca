"""Proofs as the device builds them: what they say, that other programs verify them, and which signatures go nowhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws as foreign
from joserfc.jwk import ECKey, RSAKey

from hsm_enroll.errors import HsmEnrollError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.x509 import jws
from tests.support.software_signer import SoftwareSigner, public_key_info, software_key

URL = "https://api.example.com/v1/renewals"
NOW = 1_800_000_000.75
JTI = "0123456789abcdef_-ABCD"
ALGORITHMS = {"ec-p256": "ES256", "ec-p384": "ES384", "rsa-2048": "RS256", "rsa-3072": "RS256", "rsa-4096": "RS256"}
_TOKEN_PULLED_OUT = HsmEnrollError("the token was pulled out")


def decoded(segment: str) -> bytes:
    """Decode base64url without padding."""
    return base64.urlsafe_b64decode(segment + "==")


def header_of(proof: str) -> dict[str, object]:
    """Return a proof's header."""
    header: dict[str, object] = json.loads(decoded(proof.split(".")[0]))
    return header


@pytest.mark.parametrize("key_type", KeyType)
def test_a_proof_says_what_the_contract_asks_for(key_type: KeyType) -> None:
    """Algorithm by the key's type, hash of its public key, URL, time in whole seconds, id; then exactly the payload."""
    signer = SoftwareSigner(key_type)
    proof = jws.build(signer, URL, b'{"csr": "text"}', NOW, JTI)
    assert header_of(proof) == {
        "alg": ALGORITHMS[key_type],
        "kid": hashlib.sha256(signer.public_key_info).hexdigest(),
        "url": URL,
        "iat": 1_800_000_000,
        "jti": JTI,
    }
    assert decoded(proof.split(".")[1]) == b'{"csr": "text"}'
    assert signer.signed == [proof.rpartition(".")[0].encode("ascii")]


@pytest.mark.parametrize("key_type", KeyType)
def test_another_program_verifies_a_proof(key_type: KeyType) -> None:
    """joserfc accepts it, with the one algorithm that goes with the key."""
    signer = SoftwareSigner(key_type)
    proof = jws.build(signer, URL, b"{}", NOW, JTI)
    public = load_der_public_key(signer.public_key_info).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key = RSAKey.import_key(public) if key_type.is_rsa else ECKey.import_key(public)
    registry = foreign.JWSRegistry(algorithms=[ALGORITHMS[key_type]], strict_check_header=False)
    assert foreign.deserialize_compact(proof, key, registry=registry).payload == b"{}"


@pytest.mark.parametrize(
    ("called", "signed"),
    [
        ("https://API.Example.COM/v1/renewals", URL),
        ("https://api.example.com:443/v1/renewals", URL),
        ("HTTPS://api.example.com/v1/renewals", URL),
        ("https://localhost:8443/v1/renewals", "https://localhost:8443/v1/renewals"),
        ("https://localhost:4430/v1/renewals", "https://localhost:4430/v1/renewals"),
        ("https://[2001:DB8::1]:443/v1/renewals", "https://[2001:db8::1]/v1/renewals"),
        ("https://a.example.com/Edge/v1/renewals", "https://a.example.com/Edge/v1/renewals"),
    ],
)
def test_the_url_is_signed_as_the_api_knows_it(called: str, signed: str) -> None:
    """Whatever a user has written: the host in lower case, no default port; the path stays as it is."""
    assert header_of(jws.build(SoftwareSigner(), called, b"{}", NOW, JTI))["url"] == signed


class _FaultySigner(SoftwareSigner):
    """A signer whose signatures are changed on their way."""

    def __init__(self, key_type: KeyType, change: Callable[[bytes], bytes]) -> None:
        super().__init__(key_type)
        self._change = change

    def sign(self, message: bytes) -> bytes:
        return self._change(super().sign(message))


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048])
@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda signature: signature[:-1],
        lambda signature: signature + b"\x00",
        lambda signature: bytes([*signature[:-1], signature[-1] ^ 1]),
        lambda signature: b"\x00" * len(signature),
        lambda _: encode_dss_signature(0, 0),
    ],
    ids=["empty", "short", "long", "last bit", "zeros", "two zeros"],
)
def test_a_signature_that_does_not_verify_goes_nowhere(key_type: KeyType, change: Callable[[bytes], bytes]) -> None:
    """D9: the API would take it for a stranger's; it is TokenRefusedError, exit status 15, before anything is sent."""
    with pytest.raises(TokenRefusedError, match="signature") as caught:
        jws.build(_FaultySigner(key_type, change), URL, b"{}", NOW, JTI)
    assert caught.value.exit_status == 15


def test_another_keys_signature_is_refused() -> None:
    """D9: a signer that signs with another key than the one it shows is refused."""
    signer = SoftwareSigner(KeyType.EC_P256)
    signer.public_key_info = public_key_info(software_key(KeyType.EC_P384))
    with pytest.raises(TokenRefusedError):
        jws.build(signer, URL, b"{}", NOW, JTI)


def test_what_the_signer_raises_comes_through() -> None:
    """D7: the signer's own error, such as a token pulled out, is not dressed as another."""

    class PulledOut(SoftwareSigner):
        def sign(self, message: bytes) -> bytes:
            del message
            raise _TOKEN_PULLED_OUT

    with pytest.raises(HsmEnrollError) as caught:
        jws.build(PulledOut(), URL, b"{}", NOW, JTI)
    assert caught.value is _TOKEN_PULLED_OUT


class _RememberingSigner(SoftwareSigner):
    """A signer that keeps its last signature."""

    def sign(self, message: bytes) -> bytes:
        self.signature = super().sign(message)
        return self.signature


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384])
def test_r_and_s_have_their_full_size(key_type: KeyType) -> None:
    """RFC 7518 §3.4: leading zeros stay, which one of a hundred signatures has; DER leaves them out."""
    signer, size = _RememberingSigner(key_type), key_type.bits // 8
    has_leading_zeros = False
    while not has_leading_zeros:
        octets = decoded(jws.build(signer, URL, b"{}", NOW, JTI).rpartition(".")[2])
        pair = decode_dss_signature(signer.signature)
        assert octets == b"".join(number.to_bytes(size) for number in pair)
        has_leading_zeros = min(pair) < 1 << 8 * (size - 1)


@given(payload=st.binary(max_size=200), now=st.floats(0, 1e11), jti=st.text(max_size=70))
def test_any_payload_is_signed_as_it_is(payload: bytes, now: float, jti: str) -> None:
    """Three parts of base64url in ASCII, whatever is in them."""
    proof = jws.build(SoftwareSigner(), URL, payload, now, jti)
    assert re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{86}", proof)
    header, body, _ = proof.split(".")
    assert (decoded(body), json.loads(decoded(header))["jti"]) == (payload, jti)
