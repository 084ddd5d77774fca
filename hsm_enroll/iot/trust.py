"""Finds out why this side refuses a TLS server, which awscrt does not report.

On Linux awscrt reports the same error for every failed handshake and, if this side is the one that refuses, only after
10 to 30 seconds (its TLS library delays errors on purpose: "blinding"). So a second handshake, made with Python's own
TLS, finds the reason.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from hsm_enroll.iot import shared_port
from hsm_enroll.x509 import trust_anchors


def why_distrusted(endpoint: str, port: int, ca_file: Path | None, timeout: float) -> str | None:
    """Make a TLS handshake without a client certificate, and return what is wrong with the server.

    Checks chain, dates and name (RFC 5280 §6, RFC 6125), and that the server supports TLS 1.2 or later. Does *not*
    check for revocation.

    Args:
        endpoint: host name or IP address, which the certificate must contain.
        port: TCP port.
        ca_file: as for ``trust_anchors.pem``.
        timeout: seconds for each network operation.

    Returns:
        What is wrong, in OpenSSL's words. None if nothing is wrong, or if it cannot be determined: the server cannot be
        reached, or refuses *this* side.
    """
    context = trust_anchors.context(ca_file)
    if alpn := shared_port.protocols(port):
        context.set_alpn_protocols(alpn)
    try:
        with (
            socket.create_connection((endpoint, port), timeout) as connection,
            context.wrap_socket(connection, server_hostname=endpoint),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return None
    except ssl.SSLError as error:
        return _ours(error.reason or "")
    except (OSError, UnicodeError):
        return None


def _ours(reason: str) -> str | None:
    """Return the reason if this side refused; a server's refusal is an alert (RFC 5246 §7.2)."""
    if reason == "TLSV1_ALERT_PROTOCOL_VERSION":
        return "it does not support TLS 1.2"
    return None if "ALERT" in reason else reason or None
