"""The forms of the members of the API's answers. They are checked before it is shown, stored or connected to. Pure."""

from __future__ import annotations

from collections.abc import Callable

from hsm_enroll.forms import is_certificate_id, is_host, is_port

_LARGEST_CERTIFICATE = 16 * 1024  # characters; a device's certificate has one or two thousand


def is_pem(value: object) -> bool:
    """Whether a value may be a certificate in PEM: text of up to 16 KiB. Does *not* parse it."""
    return isinstance(value, str) and 0 < len(value) <= _LARGEST_CERTIFICATE


ISSUED: dict[str, Callable[[object], bool]] = {
    "certificatePem": is_pem,
    "certificateId": is_certificate_id,
    "thingName": lambda value: isinstance(value, str),
    "mqttEndpoint": is_host,
    "mqttPort": is_port,
    "attested": lambda value: type(value) is bool,
}
"""The members that the answer to an enrollment must have, with their forms."""
