"""The forms of the members of the API's answers. They are checked before it is shown, stored or connected to. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from hsm_enroll.forms import is_certificate_id, is_host, is_port
from hsm_enroll.role_alias import is_name

_LARGEST_CERTIFICATE = 16 * 1024  # characters; a device's certificate has one or two thousand

_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


def is_pem(value: object) -> bool:
    """Whether a value may be a certificate in PEM: text of up to 16 KiB. Does *not* parse it."""
    return isinstance(value, str) and 0 < len(value) <= _LARGEST_CERTIFICATE


def is_thing_name(value: object) -> bool:
    """Whether a value may be the name of a Thing (AWS IoT, CreateThing)."""
    return isinstance(value, str) and _THING_NAME.fullmatch(value) is not None


ISSUED: dict[str, Callable[[object], bool]] = {
    "certificatePem": is_pem,
    "certificateId": is_certificate_id,
    "thingName": is_thing_name,
    "mqttEndpoint": is_host,
    "mqttPort": is_port,
    "attested": lambda value: type(value) is bool,
}
"""The members that the answer to an enrollment must have, with their forms."""

CREDENTIALS: dict[str, Callable[[object], bool]] = {
    "roleAlias": is_name,
    "credentialsEndpoint": is_host,
    "credentialsPort": is_port,
}
"""The members that it has if the deployment has a role for devices."""
