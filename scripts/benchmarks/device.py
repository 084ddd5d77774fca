"""The device's commands, as whole processes, on SoftHSM: against OpenSC and OpenSSL, and against bare libraries."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from benchmarks.figures import Figure
from benchmarks.measuring import process_seconds, ratios, runs
from benchmarks.softhsm import COMMAND, SoftHsm
from hsm_enroll.key import KeyType
from hsm_enroll.secret import Secret
from hsm_enroll.store.identity import Identity
from hsm_enroll.token import inventory, keypair, session

_IMPORTS = [sys.executable, "-c", "import pkcs11, asn1crypto.x509"]
_BARE = Path(__file__).with_name("bare_csr.py")
_RUNS = 21
# Two small C programs: one makes the key, the other signs the request.
_TOOLS = """
set -e
pkcs11-tool --module "$MODULE" --token-label gateway --login --pin env:PIN --keypairgen --key-type EC:prime256v1 \
  --label csr --id 01
openssl req -new -engine pkcs11 -keyform engine -subj /CN=gateway-17 \
  -key "pkcs11:token=gateway;object=csr;type=private;pin-source=$PIN_FILE"
"""


def measure(*, quick: bool) -> Iterator[Figure]:
    """Measure."""
    pairs = runs(_RUNS, quick=quick)
    with tempfile.TemporaryDirectory() as folder:
        hsm = SoftHsm(Path(folder))
        _enroll(hsm)

        def seconds(*command: str) -> float:
            """Run a command on the token as it was made: with the one key of an enrolled device."""
            hsm.restore()
            return process_seconds(command, hsm.environment)

        csr = partial(seconds, *COMMAND, "csr")
        tools = partial(seconds, "sh", "-c", _TOOLS)
        bare = partial(seconds, sys.executable, str(_BARE))
        verified = partial(bare, "verify")
        status = partial(seconds, *COMMAND, "status")
        not_due = partial(seconds, *COMMAND, "renew", "--if-due")
        imports = partial(seconds, *_IMPORTS)
        yield Figure.of("csr-tools", "csr", "pkcs11-tool and openssl req", ratios(csr, tools, pairs), at_most=4.0)
        yield Figure.of("csr-bare", "csr", "bare python-pkcs11 and asn1crypto", ratios(csr, bare, pairs), at_most=1.3)
        same = "the same two and cryptography, which verifies"
        yield Figure.of("csr-verified", "csr", same, ratios(csr, verified, pairs), at_most=1.2)
        peer = "importing pkcs11 and asn1crypto.x509"
        yield Figure.of("status-imports", "status", peer, ratios(status, imports, pairs), at_most=1.5)
        what = "renew --if-due that is not due"
        yield Figure.of("renew-not-due", what, "status", ratios(not_due, status, pairs), at_most=1.2)


def _enroll(hsm: SoftHsm) -> None:
    """Make a key in the token, and an identity with it."""
    os.environ |= {**hsm.environment, "HSM_ENROLL_THING": "gateway-17"}
    (token,) = (report.name for report in inventory.list_tokens(hsm.module) if report.initialized)
    with session.opened(token, lambda: Secret(hsm.pin), writable=True) as opened:
        key = keypair.generate(opened, KeyType.EC_P256, label="device", key_id=b"device")
    Identity(
        thing_name="gateway-17",
        certificate_id="0" * 64,
        certificate_pem=_certificate(key.public_key_info),
        token=token,
        key_label=key.label,
        key_id=key.id,
        key_type=key.key_type,
        key_origin=key.origin,
        api="https://localhost",
        mqtt_endpoint="localhost",
        mqtt_port=8883,
        attested=False,
    ).save(hsm.home)
    hsm.keep()


def _certificate(public_key_info: bytes) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway-17")])
    public_key = load_der_public_key(public_key_info)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, public_key, 1, now, now + timedelta(days=1))  # type: ignore[arg-type]
    certificate = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return certificate.public_bytes(Encoding.PEM).decode()
