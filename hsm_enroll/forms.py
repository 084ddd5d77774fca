"""The forms of what comes from elsewhere, checked before it is shown, stored or connected to. Pure."""

from __future__ import annotations

import ipaddress
import re

_CERTIFICATE_ID = re.compile(r"[0-9a-f]{64}")
_LONGEST_HOST = 253
_LABEL = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")


def is_host(value: object) -> bool:
    """Whether a value is a host name (RFC 1123 §2.1, in ASCII, without a dot at its end) or an IP address.

    Does *not* check that it exists.
    """
    if not isinstance(value, str) or not value.isascii() or len(value) > _LONGEST_HOST:
        return False
    labels = value.split(".")
    if all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit():
        return True
    try:
        # A zone (RFC 4007 §11) may contain anything, and means something on one machine only.
        return "%" not in value and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def is_certificate_id(value: object) -> bool:
    """Whether a value is AWS IoT's id of a certificate: 64 hexadecimal digits."""
    return isinstance(value, str) and _CERTIFICATE_ID.fullmatch(value) is not None


def is_port(value: object) -> bool:
    """Whether a value is a TCP port."""
    return type(value) is int and 0 < value < 65536
