"""Finds out why this side refuses a TLS server, which awscrt does not report.

On Linux awscrt reports the same error for every failed handshake and, if this side is the one that refuses, only after
10 to 30 seconds (its TLS library delays errors on purpose: "blinding"). So a second handshake, made with Python's own
TLS, finds the reason.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from hsm_enroll.errors import UsageError


def anchors(ca_file: Path | None) -> bytes | None:
    """Return a CA file's content for awscrt, or None for the system's trust anchors.

    The file is checked here because awscrt uses the system's anchors if it is empty, and reports the same error for
    every other defect.

    Raises:
        UsageError: the file cannot be read, or does not contain PEM certificates.
    """
    if ca_file is None:
        return None
    hint = "Correct HSM_ENROLL_CA_FILE, or unset it to trust the system's authorities."
    try:
        context(ca_file)
        return ca_file.read_bytes()
    except ssl.SSLError as error:
        raise UsageError(f"the CA file {ca_file} does not contain PEM certificates", hint=hint) from error
    except OSError as error:
        raise UsageError(f"the CA file {ca_file} cannot be read: {error.strerror}", hint=hint) from error


def context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a client context that checks chain and name, with TLS 1.2 or later.

    Args:
        ca_file: PEM file with the trust anchors; None uses the system's.

    Raises:
        OSError: the file cannot be read, or (ssl.SSLError) does not contain PEM certificates.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        made.load_default_certs()
    else:
        made.load_verify_locations(ca_file)
    return made


def why_distrusted(endpoint: str, port: int, ca_file: Path | None, timeout: float) -> str | None:
    """Make a TLS handshake without a client certificate, and return what is wrong with the server.

    Checks chain, dates and name (RFC 5280 §6, RFC 6125), and that the server supports TLS 1.2 or later. Does *not*
    check for revocation.

    Args:
        endpoint: host name or IP address, which the certificate must contain.
        port: TCP port.
        ca_file: PEM file with the trust anchors; None uses the system's.
        timeout: seconds for each network operation.

    Returns:
        What is wrong, in OpenSSL's words. None if nothing is wrong, or if it cannot be determined: the server cannot be
        reached, or refuses *this* side.
    """
    try:
        with (
            socket.create_connection((endpoint, port), timeout) as connection,
            context(ca_file).wrap_socket(connection, server_hostname=endpoint),
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
