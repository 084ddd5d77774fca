"""The port that AWS IoT uses for MQTT and for HTTPS, told apart by ALPN (RFC 7301)."""

from __future__ import annotations

PORT = 443
# AWS IoT developer guide, "Protocols, port mappings, and authentication": MQTT with a client certificate.
_PROTOCOL = "x-amzn-mqtt-ca"


def protocols(port: int) -> list[str]:
    """Return the ALPN protocols that a connection to a broker's port offers; on any other port there are none."""
    return [_PROTOCOL] if port == PORT else []
