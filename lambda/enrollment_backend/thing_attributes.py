"""What a Thing's attributes in AWS IoT say about its key. Pure.

    attested    true or false
    key         its type; with a TPM, also which one: ec-p256,ek=0f0f...,manufacturer=IFX,firmware=7.85.4555.0

A Thing without a thing type has at most three attributes (AWS IoT quotas), and the third one is that of its claim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from enrollment_backend.claims import Attestation, Certificate, Claim
from enrollment_backend.public_keys import key_type_of

_NOT_ALLOWED = re.compile(r"[^a-zA-Z0-9_.@/:#-]")  # in AWS IoT's attribute values; without the characters used here
_EK = re.compile(r"[0-9a-f]{64}")


def describe(key_type: str | None, attestation: Attestation | None) -> dict[str, str]:
    """Return the attributes for a key.

    Args:
        key_type: such as ``ec-p256``; None if it is not known.
        attestation: the TPM that holds it; None if that was not proven.
    """
    parts = [key_type or "unknown"]
    if attestation is not None:
        known = {
            "ek": attestation.ek_sha256,
            "manufacturer": attestation.manufacturer,
            "firmware": attestation.firmware,
        }
        parts += [f"{name}={_NOT_ALLOWED.sub('-', value)}" for name, value in known.items() if value]
    return {"attested": "false" if attestation is None else "true", "key": ",".join(parts)}


def change(claim: Claim, renewal: Claim, certificate: Certificate) -> bool:
    """Whether a Thing's attributes change, or may not have changed yet, when it gets the key of its renewal.

    Args:
        claim: the Thing's claim.
        renewal: its renewal.
        certificate: the renewal's certificate.
    """
    if claim.undescribed or claim.attestation != renewal.attestation or claim.certificate is None:
        return True
    return key_type_of(claim.certificate.pem) != key_type_of(certificate.pem)


def attestation_in(attributes: Mapping[str, str]) -> Attestation | None:
    """Return the TPM that attributes name; None if they name none, or are not as `describe` returns them."""
    _, *parts = attributes.get("key", "").split(",")
    said = dict(part.partition("=")[::2] for part in parts)
    if attributes.get("attested") != "true" or not _EK.fullmatch(said.get("ek", "")):
        return None
    return Attestation(said["ek"], None, said.get("manufacturer"), said.get("firmware"))
