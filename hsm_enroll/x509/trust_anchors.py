"""Which certificate authorities are trusted, by the API's client, by MQTT and by ``doctor`` alike."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

from hsm_enroll import regular_file
from hsm_enroll.errors import UsageError

_SETTING = "HSM_ENROLL_CA_FILE"
# Those of Python's HTTP clients and of OpenSSL; the more specific one first.
_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
# The bundle of all public authorities is a quarter of a megabyte.
_LARGEST_BYTES = 16 * 1024 * 1024
# RFC 7468 §2, §5.1. Blocks with other labels and text between blocks are left out.
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_DER_SEQUENCE = b"\x30"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
BUNDLES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))
"""Where systems have all public authorities in one file: Debian and Alpine, and distributions with RPM."""


def pem(ca_file: Path | None) -> bytes | None:
    """Return the trusted certificates, or None if the system's are trusted.

    They are in the file that is given, or else in the one that ``REQUESTS_CA_BUNDLE`` or ``SSL_CERT_FILE`` names, in
    this order. Does *not* check that they are authorities' certificates, nor their dates.

    Args:
        ca_file: the setting; None is not set.

    Returns:
        The file's CERTIFICATE blocks, in PEM, each of which can be parsed.

    Raises:
        UsageError: the file cannot be read or contains no certificate; the message names it and who named it.
    """
    source, file = _chosen(ca_file)
    if file is None:
        return None
    hint = f"Correct or unset {source}. Without it, the system's authorities are trusted."
    try:
        content = regular_file.read(file, _LARGEST_BYTES)
    except OSError as error:
        raise UsageError(f"the CA file {file} cannot be read: {error.strerror}", hint=hint) from error
    blocks = b"\n".join(_BLOCK.findall(content))
    if not blocks:
        raise UsageError(f"the CA file {file} does not contain PEM certificates{_apparent(content)}", hint=hint)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=blocks.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise UsageError(f"the CA file {file} contains a certificate that is damaged", hint=hint) from error
    return blocks + b"\n"


def context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a client context that trusts the certificates of :func:`pem`; it checks chain and name (TLS 1.2 or later).

    Raises:
        UsageError: as :func:`pem`, or the system has no trusted certificates.
    """
    trusted = pem(ca_file)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if trusted is not None:
        made.load_verify_locations(cadata=trusted.decode("ascii"))
        return made
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not paths.capath:
        raise UsageError(
            f"this system has no trusted CA certificates: neither {paths.openssl_cafile} nor {paths.openssl_capath} "
            "exists",
            hint=f"Install the package ca-certificates, or name a file in {_SETTING}.",
        )
    made.load_default_certs()
    return made


def file(ca_file: Path | None) -> Path:
    """Return the file with the certificates of :func:`pem`, for other programs; it is the system's if that is trusted.

    Raises:
        UsageError: as :func:`pem`, or the system has no such file.
    """
    pem(ca_file)
    _, chosen = _chosen(ca_file)
    found = next((bundle for bundle in BUNDLES if bundle.is_file()), None) if chosen is None else chosen
    if found is None:
        raise UsageError(
            f"this system has no file of trusted CA certificates: neither {BUNDLES[0]} nor {BUNDLES[1]} exists",
            hint=f"Install the package ca-certificates, or name a file in {_SETTING}.",
        )
    return found


def _chosen(ca_file: Path | None) -> tuple[str, Path | None]:
    if ca_file is not None:
        return f"{_SETTING} (or AWS_CA_BUNDLE on an operator's machine)", ca_file
    for variable in _VARIABLES:
        if named := os.environ.get(variable):
            return variable, Path(named)
    return "", None


def _apparent(content: bytes) -> str:
    """Return what the content seems to be instead, for a message."""
    if not content.strip():
        return ": it is empty"
    if content.startswith(_UTF_16_MARKS):
        return ": it is UTF-16 text; save it as ASCII or UTF-8"
    if content.startswith(_DER_SEQUENCE):
        return ": it is in DER; convert it with openssl x509 -inform der -in FILE -out FILE.pem"
    return ""
