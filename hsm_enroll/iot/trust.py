"""Why this side would not speak to a TLS server: awscrt does not tell.

On Linux awscrt answers every failed handshake with one and the same error, and where this side is the one that
refuses, only after a pause of 10 to 30 seconds (the blinding of its TLS library). So a second, plain handshake asks.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from hsm_enroll.errors import UsageError


def anchors(ca_file: Path | None) -> bytes | None:
    """Return a CA file's content for awscrt, or None for the system's anchors.

    awscrt would take the system's anchors for an empty file, and has one error for any other damage.

    Raises:
        UsageError: it cannot be read, or is not PEM certificates.
    """
    if ca_file is None:
        return None
    hint = "Correct HSM_ENROLL_CA_FILE, or unset it to trust the system's authorities."
    try:
        context(ca_file)
        return ca_file.read_bytes()
    except ssl.SSLError as error:
        raise UsageError(f"the CA file {ca_file} is not PEM certificates", hint=hint) from error
    except OSError as error:
        raise UsageError(f"the CA file {ca_file} cannot be read: {error.strerror}", hint=hint) from error


def context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a client's context: chain and name are checked, TLS is 1.2 or later.

    Args:
        ca_file: PEM file with the trust anchors; None is the system's.

    Raises:
        OSError: the file cannot be read, or (ssl.SSLError) is not PEM certificates.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        made.load_default_certs()
    else:
        made.load_verify_locations(ca_file)
    return made


def why_distrusted(endpoint: str, port: int, ca_file: Path | None, timeout: float) -> str | None:
    """Shake hands with a server as far as its own certificate, offering none, and say what is wrong with it.

    Chain, dates and name are checked (RFC 5280 §6, RFC 6125), and that it speaks TLS 1.2 or later; revocation is not.

    Args:
        endpoint: host name or address, which the certificate must hold.
        port: TCP port.
        ca_file: PEM file with the trust anchors; None is the system's.
        timeout: seconds for each step on the network.

    Returns:
        What is wrong, in OpenSSL's words, or None where nothing is or where it cannot be told: the server is away, or
        refuses *us*.
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
    """Tell this side's refusal from the server's, which is an alert (RFC 5246 §7.2)."""
    if reason == "TLSV1_ALERT_PROTOCOL_VERSION":
        return "it speaks no TLS 1.2"
    return None if "ALERT" in reason else reason or None
