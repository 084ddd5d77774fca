"""The odd CSRs that `cryptography` is tested with itself: each has a verdict here, and a new one has to get one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cryptography_vectors
import pytest
from asn1crypto import pem as armour

from enrollment_backend.csr_policy import accept
from enrollment_backend.errors import CsrRefusedError
from tests.backend.csr_factory import pem

REQUESTS = Path(cryptography_vectors.__file__).parent / "x509" / "requests"


class Verdict(NamedTuple):
    """What becomes of the file as it is, and of its request with nothing around it: a refusal's code, or accepted."""

    file: str
    request: str


def on_the_request(verdict: str) -> Verdict:
    """Return the verdict on a file whose text is in order, so that only its request counts."""
    return Verdict(verdict, verdict)


ACCEPTED = on_the_request("accepted")
DER = on_the_request("csr-der-invalid")
KEY = on_the_request("csr-key-not-allowed")
ALGORITHM = on_the_request("csr-signature-algorithm-not-allowed")
ATTRIBUTES = on_the_request("csr-attributes-not-allowed")

VERDICTS = {
    "bad-version.pem": DER,  # RFC 2986 §4.1 knows version 0 only
    "basic_constraints.pem": Verdict("csr-pem-invalid", "csr-attributes-not-allowed"),  # text before; CA:TRUE
    "challenge-invalid.der": ATTRIBUTES,
    "challenge-multi-valued.der": ATTRIBUTES,
    "challenge-unstructured.pem": Verdict("csr-pem-invalid", "csr-attributes-not-allowed"),  # an empty line behind
    "challenge.pem": ATTRIBUTES,
    "dsa_sha1.der": KEY,
    "dsa_sha1.pem": KEY,
    "ec_sha256.der": ACCEPTED,  # P-384
    "ec_sha256.pem": ACCEPTED,
    "ec_sha256_old_header.pem": Verdict("csr-pem-invalid", "accepted"),  # NEW CERTIFICATE REQUEST
    "freeipa-bad-critical.pem": Verdict("csr-pem-invalid", "csr-attributes-not-allowed"),  # an empty line behind
    "invalid_signature.pem": KEY,  # RSA of 1024 bits; the key is judged before the signature
    "long-form-attribute.pem": ATTRIBUTES,
    "rsa_md4.der": ALGORITHM,
    "rsa_md4.pem": ALGORITHM,
    "rsa_sha1.der": ALGORITHM,
    "rsa_sha1.pem": ALGORITHM,
    "rsa_sha256.der": ACCEPTED,  # 2048 bits
    "rsa_sha256.pem": ACCEPTED,
    "san_rsa_sha1.der": ATTRIBUTES,
    "san_rsa_sha1.pem": ATTRIBUTES,
    "two_basic_constraints.pem": Verdict("csr-pem-invalid", "csr-attributes-not-allowed"),  # text before
    "unsupported_extension.pem": Verdict("csr-pem-invalid", "csr-attributes-not-allowed"),  # text before
    "unsupported_extension_critical.pem": Verdict("csr-pem-invalid", "csr-attributes-not-allowed"),  # text before
    "zero-element-attribute.pem": ATTRIBUTES,
}


def outcome(text: str) -> str:
    """Return ``accepted`` or the refusal's code. The names in the files are no Things': the common name is free."""
    try:
        accepted = accept(text, None)
    except CsrRefusedError as refusal:
        return refusal.code
    assert accepted.common_name == "cryptography.io"
    return "accepted"


def test_every_file_has_its_verdict() -> None:
    """A new version of the vectors may bring files: someone has to say what should become of them."""
    assert {file.name for file in REQUESTS.iterdir()} == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_on_the_file_stands(name: str) -> None:
    """S4 to S9: the file as a device might send it; what is DER gets the one PEM block that goes on the wire."""
    content = (REQUESTS / name).read_bytes()
    text = pem(content) if name.endswith(".der") else content.decode("ascii")
    assert outcome(text) == VERDICTS[name].file


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_on_the_request_stands(name: str) -> None:
    """S5 to S9: its request alone, so that strictness about PEM hides nothing that is wrong behind it."""
    content = (REQUESTS / name).read_bytes()
    der = content if name.endswith(".der") else armour.unarmor(content)[2]
    assert outcome(pem(der)) == VERDICTS[name].request
