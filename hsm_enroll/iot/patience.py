"""How long a connection waits for the broker, in seconds, where its caller does not say otherwise."""

from __future__ import annotations

CONNECT_SECONDS = 20.0
"""Until the CONNACK, for all attempts of one ``connect`` together."""

ACKNOWLEDGE_SECONDS = 20.0
"""Until the PUBACK, SUBACK or UNSUBACK of one request."""
