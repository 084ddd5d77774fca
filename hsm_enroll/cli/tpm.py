"""``hsm-enroll tpm``."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

import click

from hsm_enroll import extras
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.token.tpm2 import attestation
from hsm_enroll.token.tpm2.attestation.attestor import TIME_LIMIT_SECONDS, Attestor
from hsm_enroll.token.tpm2.attestation.values import EndorsementKey, TpmInfo
from hsm_enroll.token.tpm2.lockout import FailedTries


@click.group("tpm")
def tpm() -> None:
    """Show this machine's TPM."""


@command("info", example="hsm-enroll tpm info --json")
def info(invocation: Invocation) -> None:
    """Show what the TPM says about itself, and the keys by which the backend can recognise it.

    Needs the extra tpm, and no PIN. With --json the certificates are included: it is what an operator needs to know
    this device by its chip. Set TPM2_PKCS11_TCTI to use another TPM than /dev/tpmrm0.
    """
    extras.require(attestation.EXTRA, attestation.LIBRARY)
    with Attestor() as attestor:
        attestor.start()
        with invocation.terminal.waiting("the TPM", TIME_LIMIT_SECONDS):
            found = attestor.info()
    for timing in attestor.timings:
        invocation.terminal.detail(str(timing))
    invocation.terminal.result(_document(found), _text(found))


def _document(found: TpmInfo) -> dict[str, Any]:
    return {
        "manufacturer": found.manufacturer,
        "vendor": found.vendor,
        "firmware": found.firmware,
        "endorsementKeys": [_key_document(key) for key in found.endorsement_keys],
        "endorsementPassword": found.endorsement_password,
        "lockout": None if found.tries is None else _lockout_document(found.tries),
    }


def _key_document(key: EndorsementKey) -> dict[str, Any]:
    der = None if key.certificate is None else ssl.PEM_cert_to_DER_cert(key.certificate)
    return {
        "type": key.key_type,
        "publicSha256": key.sha256,
        "certificateSha256": None if der is None else hashlib.sha256(der).hexdigest(),
        "issuer": None if der is None else _issuer(der),
        "certificate": key.certificate,
    }


def _issuer(der: bytes) -> str | None:
    """Return a certificate's issuer; None where it cannot be read, since not all vendors' certificates are valid."""
    from asn1crypto import x509

    from hsm_enroll.x509.certificate import subject_text

    try:
        return subject_text(x509.Certificate.load(der).issuer)
    except (ValueError, TypeError, KeyError):
        return None


def _lockout_document(tries: FailedTries) -> dict[str, Any]:
    return {
        "locked": tries.locked,
        "failedTries": tries.failed_tries,
        "limit": tries.limit,
        "intervalSeconds": tries.interval_seconds,
    }


def _text(found: TpmInfo) -> str:
    vendor = " ".join(found.vendor.split())
    rows = [
        ("TPM", f"{found.manufacturer}, {vendor}" if vendor else found.manufacturer),
        ("Firmware", found.firmware),
        ("Lockout", "it does not count failed tries" if found.tries is None else _lockout_text(found.tries)),
    ]
    for key in found.endorsement_keys:
        rows += _key_rows(key)
    if found.endorsement_password:
        rows.append(("Attestation", "not possible: the endorsement hierarchy has a password"))
    elif not found.endorsement_keys:
        rows.append(("Attestation", "not possible: no endorsement key that hsm-enroll knows"))
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def _lockout_text(tries: FailedTries) -> str:
    state = "locked: " if tries.locked else ""
    return f"{state}it counts {tries.summary}"


def _key_rows(key: EndorsementKey) -> list[tuple[str, str]]:
    document = _key_document(key)
    rows = [("EK", key.key_type), ("  key", key.sha256)]
    if key.certificate is None:
        return [*rows, ("  cert.", "none in the TPM")]
    return [*rows, ("  cert.", document["certificateSha256"]), ("  issuer", document["issuer"] or "cannot be read")]


tpm.add_command(info)
