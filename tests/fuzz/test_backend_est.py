"""S3, S4, S12, S19 of EST by the thousand: whatever is sent, the answer is a 4xx, and AWS hears nothing of it."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enrollment_backend import pem_block
from enrollment_backend.csr_errors import CsrRefusedError
from enrollment_backend.csr_policy import accept
from tests.support.csr_factory import THING, der_of, request, rsa_key
from tests.support.deployment import Answer, Deployment, deployed
from tests.support.est import est_event

FUZZ = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CSRS = [der_of(request()), der_of(request(rsa_key()))]
BASE64 = [base64.b64encode(csr) for csr in CSRS]
BITS = st.sampled_from(CSRS).flatmap(
    lambda csr: st.tuples(st.just(csr), st.lists(st.integers(0, len(csr) * 8 - 1), min_size=1, max_size=3, unique=True))
)
PEM_MARKERS = st.sampled_from([b"-----BEGIN CERTIFICATE REQUEST-----\n", b"-----END CERTIFICATE REQUEST-----\n"])
NOISE = st.binary(min_size=1, max_size=4) | PEM_MARKERS | st.sampled_from([b"=", b"-", b"_", b"\x00", b"\xa0", b"\x0b"])


@pytest.fixture(scope="module")
def backend() -> Iterator[Deployment]:
    """An open deployment, in which nothing but the request itself can be the matter."""
    with deployed() as deployment:
        yield deployment


def refused(backend: Deployment, answer: Answer) -> bool:
    """Assert that an answer is a refusal, with a code, that AWS has heard nothing of."""
    assert 400 <= answer.status < 500, answer
    assert answer.json["code"] not in {"", "internal"}
    assert backend.calls == []
    return True


def simpleenroll(backend: Deployment, body: bytes, authorization: str | None = None) -> Answer:
    """Send a body to simpleenroll."""
    return backend.send(est_event("POST", "simpleenroll", body, authorization=authorization))


def flipped(csr: bytes, bits: list[int]) -> bytes:
    """Return a CSR with some bits the other way round."""
    changed = bytearray(csr)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def is_acceptable(der: bytes) -> bool:
    """Ask the policy: a flipped bit can be one that is put right, such as those of the algorithm's parameters."""
    try:
        accept(pem_block.encode(der), None)
    except CsrRefusedError:
        return False
    return True


@FUZZ
@given(body=st.binary(max_size=400) | st.binary(max_size=300).map(base64.b64encode))
@example(b"")
@example(b"A" * 20_000)
@example(b"\n" * 16_384)
def test_s4_junk_is_refused(backend: Deployment, body: bytes) -> None:
    """S3, S4: no base64, and base64 of what is no PKCS#10."""
    assert refused(backend, simpleenroll(backend, body))


@FUZZ
@given(csr=st.sampled_from(BASE64), at=st.integers(0, 2_000), noise=NOISE)
def test_s4_what_is_not_base64_is_refused(backend: Deployment, csr: bytes, at: int, noise: bytes) -> None:
    """S4: one foreign character is enough, unless it is white space or a digit of base64 itself."""
    at %= len(csr)
    body = csr[:at] + noise + csr[at:]
    if noise.strip(b" \t\r\n"):
        assert refused(backend, simpleenroll(backend, body))


@FUZZ
@given(csr=st.sampled_from(CSRS), length=st.integers(0, 2_000))
def test_s4_a_cut_csr_is_refused(backend: Deployment, csr: bytes, length: int) -> None:
    """S4: at whichever byte."""
    assert refused(backend, simpleenroll(backend, base64.b64encode(csr[: length % len(csr)])))


@FUZZ
@given(mutant=BITS)
def test_s4_a_flipped_bit_is_refused(backend: Deployment, mutant: tuple[bytes, list[int]]) -> None:
    """S4, S5: anywhere in the CSR."""
    der = flipped(*mutant)
    if not is_acceptable(der):
        assert refused(backend, simpleenroll(backend, base64.b64encode(der)))


@FUZZ
@given(
    authorization=st.text(max_size=40)
    | st.binary(max_size=40).map(lambda one: f"Basic {base64.b64encode(one).decode()}")
)
def test_s12_whatever_stands_in_authorization_is_no_invite(backend: Deployment, authorization: str) -> None:
    """S12: nothing in the header is taken for an invite; an empty one is refused like any other."""
    answer = simpleenroll(backend, BASE64[0][:-4], authorization)
    assert answer.status in {400, 401}
    assert backend.calls == []


@FUZZ
@given(
    certificate=st.text(max_size=60)
    | st.binary(max_size=300).map(lambda one: pem_block.encode(one).replace(" REQUEST", ""))
)
def test_s19_junk_in_place_of_a_certificate_is_refused(backend: Deployment, certificate: str) -> None:
    """S19: API Gateway would not pass it on; the ledger would not know it."""
    answer = backend.send(est_event("POST", "simplereenroll", BASE64[0], certificate=certificate))
    assert (answer.status, THING in answer.body) == (403, False)
    assert backend.calls == []
