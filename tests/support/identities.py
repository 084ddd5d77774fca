"""Identities as devices hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.store.identity import Identity
from tests.support.self_signed import pem, self_signed

HARDWARE_BORN = KeyOrigin(local=True, sensitive=True, extractable=False, never_extractable=True, always_sensitive=True)
TOKEN = TokenName(
    Path("/usr/lib/softhsm/libsofthsm2.so"), "gateway", "0123456789abcdef", "SoftHSM project", "SoftHSM v2"
)


def identity(**members: Any) -> Identity:
    """Return an identity with these members; the others are an example's."""
    example: dict[str, Any] = {
        "thing_name": "gateway-7",
        "certificate_id": "ab" * 32,
        "certificate_pem": pem(self_signed()),
        "token": TOKEN,
        "key_label": "hsm-enroll-00ff",
        "key_id": b"\x00\xff",
        "key_type": KeyType.EC_P256,
        "key_origin": HARDWARE_BORN,
        "api": "https://api.example",
        "mqtt_endpoint": "endpoint.example",
        "mqtt_port": 8883,
        "attested": False,
    }
    return Identity(**{**example, **members})
