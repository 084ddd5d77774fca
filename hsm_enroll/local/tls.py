"""The TLS contexts of the local servers."""

from __future__ import annotations

import ssl

from hsm_enroll.local.home import Home

# Developer guide, "Protocols, port mappings, and authentication": what clients of port 443 ask for. A client that asks
# for something else, or for nothing, is accepted too, as on port 8883.
_ALPN = ["x-amzn-mqtt-ca", "mqtt"]


def for_api(home: Home) -> ssl.SSLContext:
    """Return a server's context for TLS 1.2 and 1.3, with the home's server certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # not the default in every build of Python
    context.load_cert_chain(home.server_certificate, home.server_key)
    # Otherwise OpenSSL sends a fatal alert when `LoopbackServer` stops, and clients would take it for a TLS problem.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def for_client_certificates(home: Home) -> ssl.SSLContext:
    """Return the same, but it requires a client certificate from the home's CA."""
    context = for_api(home)
    context.load_verify_locations(home.ca_certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def for_devices(home: Home) -> ssl.SSLContext:
    """Return the same for MQTT: requires a client certificate, and knows AWS IoT's ALPN names."""
    context = for_client_certificates(home)
    context.set_alpn_protocols(_ALPN)
    return context
