"""The certificate of a CA, as a TPM's vendor publishes it: one in PEM or DER."""

from __future__ import annotations

import hashlib
import re
import ssl

from hsm_enroll.errors import UsageError

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_SEQUENCE = b"\x30"  # what DER begins with


def read(content: bytes, sha256: str) -> str:
    """Return a certificate in PEM.

    Args:
        content: a file with one certificate: a PEM block, perhaps with text around it, or DER.
        sha256: what the SHA-256 of its DER has to be, in lower-case hexadecimal.

    Raises:
        UsageError: it has no certificate, or several, or another one. Nothing of it is to be trusted then.

    Does not check that it is the certificate of a CA; the backend does.
    """
    blocks = _BLOCK.findall(content)
    if len(blocks) > 1:
        raise UsageError(f"the file has {len(blocks)} certificates", hint="Add them one by one, each with its SHA-256.")
    der = _decoded(blocks[0]) if blocks else content
    if not der.startswith(_SEQUENCE):
        raise UsageError("the file has no certificate", hint="Give a certificate in PEM or DER.")
    found = hashlib.sha256(der).hexdigest()
    if found != sha256:
        raise UsageError(
            f"the certificate's SHA-256 is {found}, not the one given",
            hint="Do not trust this file: compare both with what the vendor states, and download it again.",
        )
    return ssl.DER_cert_to_PEM_cert(der)


def _decoded(block: bytes) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(block.decode("ascii"))
    except ValueError:
        return b""
