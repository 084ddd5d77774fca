"""The odd CSRs that `cryptography` is tested with itself: each has a verdict here, and a new one has to get one."""

from __future__ import annotations

from pathlib import Path

import cryptography_vectors
import pytest
from asn1crypto import pem as armour
from cryptography import x509

from enrollment_backend.csr_errors import CsrRefusedError
from enrollment_backend.csr_policy import accept
from tests.support.csr_factory import pem

REQUESTS = Path(cryptography_vectors.__file__).parent / "x509" / "requests"


ACCEPTED = "accepted"
DER = "csr-der-invalid"
KEY = "csr-key-not-allowed"
ALGORITHM = "csr-signature-algorithm-not-allowed"
ATTRIBUTES = "csr-attributes-not-allowed"

VERDICTS = {
    "bad-version.pem": DER,  # RFC 2986 §4.1 knows version 0 only
    "basic_constraints.pem": ATTRIBUTES,  # CA:TRUE, text before
    "challenge-invalid.der": ATTRIBUTES,  # the password is an INTEGER
    "challenge-multi-valued.der": ATTRIBUTES,
    "challenge-unstructured.pem": ACCEPTED,  # an empty line behind
    "challenge.pem": ACCEPTED,
    "dsa_sha1.der": KEY,
    "dsa_sha1.pem": KEY,
    "ec_sha256.der": ACCEPTED,  # P-384
    "ec_sha256.pem": ACCEPTED,
    "ec_sha256_old_header.pem": ACCEPTED,  # NEW CERTIFICATE REQUEST
    "freeipa-bad-critical.pem": ATTRIBUTES,  # friendlyName, and a `critical` that says FALSE in so many words
    "invalid_signature.pem": KEY,  # RSA of 1024 bits; the key is judged before the signature
    "long-form-attribute.pem": ATTRIBUTES,
    "rsa_md4.der": ALGORITHM,
    "rsa_md4.pem": ALGORITHM,
    "rsa_sha1.der": ALGORITHM,
    "rsa_sha1.pem": ALGORITHM,
    "rsa_sha256.der": ACCEPTED,  # 2048 bits
    "rsa_sha256.pem": ACCEPTED,
    "san_rsa_sha1.der": ALGORITHM,  # its subject alternative name would do no harm
    "san_rsa_sha1.pem": ALGORITHM,
    "two_basic_constraints.pem": ATTRIBUTES,
    "unsupported_extension.pem": ALGORITHM,  # SHA-1; the extension is unknown and not critical
    "unsupported_extension_critical.pem": ATTRIBUTES,
    "zero-element-attribute.pem": ATTRIBUTES,
}


def outcome(text: str) -> str:
    """Return ``accepted`` or the refusal's code. The names in the files are no Things': the subject is free."""
    try:
        accepted = accept(text, "press-17", any_subject=True)
    except CsrRefusedError as refusal:
        return refusal.code
    assert x509.load_pem_x509_csr(accepted.pem.encode("ascii")).is_signature_valid
    return ACCEPTED


def test_every_file_has_its_verdict() -> None:
    """A new version of the vectors may bring files: someone has to say what should become of them."""
    assert {file.name for file in REQUESTS.iterdir()} == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_on_the_file_stands(name: str) -> None:
    """S4 to S9: the file as a device might send it, text around it included; what is DER gets its PEM block."""
    content = (REQUESTS / name).read_bytes()
    text = pem(content) if name.endswith(".der") else content.decode("ascii")
    assert outcome(text) == VERDICTS[name]


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_on_the_request_stands(name: str) -> None:
    """S5 to S9: its request alone, in the strict form of PEM."""
    content = (REQUESTS / name).read_bytes()
    der = content if name.endswith(".der") else armour.unarmor(content)[2]
    assert outcome(pem(der)) == VERDICTS[name]
