"""The CPU time that the backend takes to verify a TPM's word, against one verification of an ECDSA signature."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from benchmarks.figures import Figure
from benchmarks.measuring import ratios, runs
from enrollment_backend.attestation.certificates import read_pem
from enrollment_backend.attestation.credential import make_credential
from enrollment_backend.attestation.endorsement import read_endorsement
from enrollment_backend.attestation.evidence import Evidence, Statement, read_attestation_key, verify
from tests.support.ek_authority import pem
from tests.support.software_tpm import EkType, SoftwareTpm

_RUNS = 100
_SECRET, _NONCE = bytes(32), bytes(32)


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure three figures for each type of endorsement key."""
    wanted = runs(_RUNS, quick=quick)
    for ek in get_args(EkType):
        tpm = SoftwareTpm(ek)
        start, check = _session(tpm), _check(tpm)
        what = f"own CPU per attestation ({ek})"
        parts = [(_cpu(start), _cpu(check)) for _ in range(wanted)]
        milliseconds = [1000 * sum(part) for part in parts]
        yield Figure.of(f"attestation-cpu-ms-{ek}", what, "", milliseconds, unit="ms", at_most=5.0)
        shares = [checking / (starting + checking) for starting, checking in parts]
        yield Figure.of(f"attestation-cpu-evidence-{ek}", "checking the evidence", what, shares, unit="share")
        figures = _against_peer(start, check, wanted)
        yield Figure.of(f"attestation-cpu-{ek}", what, "one ECDSA verification", figures)


def _against_peer(start: Callable[[], object], check: Callable[[], object], pairs: int) -> list[float]:
    peer = _peer()
    return ratios(lambda: _cpu(start) + _cpu(check), lambda: _cpu(peer), pairs)


def _session(tpm: SoftwareTpm) -> Callable[[], object]:
    """Return what starts a session: the chain of root, intermediate and endorsement key, and a challenge."""
    request = tpm.request()
    authorities = read_pem(pem(tpm.authority.root))
    ek_public, ak_public = base64.b64decode(request["ekPublic"]), base64.b64decode(request["akPublic"])

    def start() -> object:
        endorsement = read_endorsement(ek_public, request["ekCertificate"])
        endorsement.check_chain(authorities, datetime.now(UTC))
        return make_credential(endorsement.public, read_attestation_key(ak_public).name, _SECRET)

    return start


def _check(tpm: SoftwareTpm) -> Callable[[], object]:
    """Return what checks the evidence about a new key of a request."""
    key = tpm.make_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench-1")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    csr_der = csr.public_bytes(Encoding.DER)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    evidence = Evidence(_SECRET, *tpm.certify(csr_der, _NONCE, key))
    statement = Statement(_NONCE, hashlib.sha256(_SECRET).digest(), tpm.ak_public())
    return lambda: verify(evidence, statement, csr_der, spki)


def _peer() -> Callable[[], object]:
    """Return what verifies one ECDSA signature with P-256 and SHA-256, by OpenSSL."""
    key, message = ec.generate_private_key(ec.SECP256R1()), bytes(200)
    signature, algorithm = key.sign(message, ec.ECDSA(hashes.SHA256())), ec.ECDSA(hashes.SHA256())
    public_key = key.public_key()
    return lambda: public_key.verify(signature, message, algorithm)


def _cpu(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
