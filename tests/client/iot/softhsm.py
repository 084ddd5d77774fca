"""SoftHSM tokens of our own, made and read by OpenSC's pkcs11-tool.

Not by python-pkcs11: it would initialise the module in the tests' process and leave that process without a
clean one, and a second program that reads the key's public half is a check on ours.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "271828-pin-of-the-tests"
_TIME_LIMIT = 60.0
_CURVES = {"EC:prime256v1": ec.SECP256R1(), "EC:secp384r1": ec.SECP384R1()}


class SoftHsm:
    """A folder with tokens, and the environment in which the module finds it."""

    def __init__(self, folder: Path) -> None:
        self.tokens = folder / "tokens"
        self.tokens.mkdir(parents=True)
        configuration = folder / "softhsm2.conf"
        configuration.write_text(f"directories.tokendir = {self.tokens}\nlog.level = ERROR\n")
        self.environment = {"SOFTHSM2_CONF": str(configuration)}

    def create_token(self, label: str) -> None:
        """Initialise a token; SoftHSM allows two of one label."""
        self._run(*("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "31415926", "--pin", PIN))

    def create_key(self, token: str, label: str, key_type: str, key_id: bytes = b"\x01") -> bytes:
        """Generate a key pair in the token and return its SubjectPublicKeyInfo in DER."""
        self._pkcs11_tool(
            token, "--keypairgen", "--key-type", key_type, "--label", label, "--id", key_id.hex(), "--usage-sign"
        )
        if key_type.startswith("rsa:"):
            return self._pkcs11_tool(token, "--read-object", "--type", "pubkey", "--id", key_id.hex())
        # --read-object of OpenSC 0.23 fails for P-384, so the point is taken from the listing (which ignores --id).
        listing = self._pkcs11_tool(token, "--list-objects", "--type", "pubkey").decode()
        (mine,) = (key for key in listing.split("Public Key Object")[1:] if key_id.hex() in key.split("ID:")[1].split())
        octet_string = bytes.fromhex(mine.split("EC_POINT:")[1].split()[0])
        point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[key_type], octet_string[2:])
        return point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def folder(self, label: str) -> Path:
        """Return where the one token of a label is stored."""
        padded = label.ljust(32).encode()
        (folder,) = (each for each in self.tokens.iterdir() if padded in (each / "token.object").read_bytes())
        return folder

    def _pkcs11_tool(self, token: str, *arguments: str) -> bytes:
        return self._run(
            *("pkcs11-tool", "--module", str(MODULE), "--token-label", token, "--login", "--pin", "env:PIN"),
            *arguments,
        )

    def _run(self, *arguments: str) -> bytes:
        completed = subprocess.run(
            arguments,
            env={**os.environ, **self.environment, "PIN": PIN},
            check=True,
            capture_output=True,
            timeout=_TIME_LIMIT,
        )
        return completed.stdout
