"""What a TPM says about itself, for people and for lists of chips."""

from __future__ import annotations

import struct

from tpm2_pytss.constants import TPM2_PT, TPM2_PT_FIRMWARE, TPM2_PT_VENDOR

from hsm_enroll.token.tpm2.attestation import certifying, endorsement_key
from hsm_enroll.token.tpm2.attestation.tpm import Tpm
from hsm_enroll.token.tpm2.attestation.values import TpmInfo

_VENDOR = (TPM2_PT_VENDOR.STRING_1, TPM2_PT_VENDOR.STRING_2, TPM2_PT_VENDOR.STRING_3, TPM2_PT_VENDOR.STRING_4)
_PROPERTIES = 0x20  # as many as there may be from TPM_PT_MANUFACTURER to TPM_PT_FIRMWARE_VERSION_2, and more


def describe(tpm: Tpm) -> TpmInfo:
    """Ask a TPM for everything; only an endorsement key without a certificate is derived for it."""
    properties = tpm.properties(TPM2_PT.MANUFACTURER, _PROPERTIES)
    password = tpm.has_endorsement_password
    nv = endorsement_key.Nv(tpm)
    known = [one for one in endorsement_key.candidates(nv) if one.certificate is not None or not password]
    return TpmInfo(
        _name(properties[int(TPM2_PT.MANUFACTURER)]),
        b"".join(struct.pack(">I", properties[int(part)]) for part in _VENDOR).decode("latin-1").strip("\0 "),
        _version(properties[int(TPM2_PT_FIRMWARE.VERSION_1)], properties[int(TPM2_PT_FIRMWARE.VERSION_2)]),
        tuple(endorsement_key.describe(tpm, candidate) for candidate in known),
        certifying.failed_tries(tpm),
        password,
    )


def _name(number: int) -> str:
    text = struct.pack(">I", number).rstrip(b"\0 ")
    return text.decode("ascii") if text.isalnum() else f"{number:08X}"


def _version(first: int, second: int) -> str:
    return ".".join(str(part) for half in (first, second) for part in (half >> 16, half & 0xFFFF))
