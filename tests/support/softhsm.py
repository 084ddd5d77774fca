"""SoftHSM tokens of the tests' own, made and read by other programs: softhsm2-util and OpenSC's pkcs11-tool.

Not by python-pkcs11: it would initialise the module in the tests' process and leave that process without a clean one,
and a second program that reads the key's public half is a check on ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_enroll.key import KeyType
from hsm_enroll.secret import Secret
from tests.support.processes import pkcs11_tool, program, run

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = Secret("271828-pin-of-the-tests")
_KEY_TYPES = {KeyType.EC_P256: "EC:prime256v1", KeyType.EC_P384: "EC:secp384r1", KeyType.RSA_2048: "rsa:2048"}
_CURVES = {KeyType.EC_P256: ec.SECP256R1(), KeyType.EC_P384: ec.SECP384R1()}


class SoftHsm:
    """A folder with SoftHSM tokens, and the environment in which the module finds them.

    Args:
        folder: where the tokens and the configuration go; made if it is missing.
        mechanisms: SoftHSM's setting ``slots.mechanisms``: those that it lists. (Its form with a minus, for those
            that it does not list, passes over the first one in SoftHSM 2.6.1.)

    Attributes:
        folder: as above.
        tokens: the folder in it that has nothing but tokens.
        environment: the variable that leads the module to them.
        pin: the user's PIN of each token that is added.
    """

    def __init__(self, folder: Path, *, mechanisms: str = "ALL") -> None:
        self.folder = folder
        self.tokens = folder / "tokens"
        self.tokens.mkdir(mode=0o700, parents=True)
        configuration = folder / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {self.tokens}\n"
            "objectstore.backend = file\n"
            "log.level = ERROR\n"
            f"slots.mechanisms = {mechanisms}\n"
        )
        self.environment: Mapping[str, str] = {"SOFTHSM2_CONF": str(configuration)}
        self.pin = PIN

    def add_token(self, label: str) -> None:
        """Initialise a token with SoftHSM's own tool, which lets several have one label."""
        pins = ["--so-pin", "officer-1234", "--pin", self.pin.reveal()]
        self._util("--init-token", "--free", "--label", label, *pins)

    def remove_token(self, label: str) -> None:
        """Remove a token and all it holds."""
        self._util("--delete-token", "--token", label)

    def token_folder(self, label: str) -> Path:
        """Return where the one token of a label is stored."""
        padded = label.ljust(32).encode()
        (folder,) = (each for each in self.tokens.iterdir() if padded in (each / "token.object").read_bytes())
        return folder

    def create_key(self, token: str, label: str, key_type: KeyType, key_id: bytes) -> bytes:
        """Generate a key pair in the token and return its SubjectPublicKeyInfo in DER."""
        key = ["--label", label, "--id", key_id.hex(), "--usage-sign"]
        self._ask(token, "--keypairgen", "--key-type", _KEY_TYPES[key_type], *key)
        if key_type not in _CURVES:
            return self._ask(token, "--read-object", "--type", "pubkey", "--id", key_id.hex())
        # --read-object of OpenSC 0.23 fails for P-384, so the point is taken from the listing (which ignores --id).
        listing = self._ask(token, "--list-objects", "--type", "pubkey").decode()
        (mine,) = (key for key in listing.split("Public Key Object")[1:] if key_id.hex() in key.split("ID:")[1].split())
        octet_string = bytes.fromhex(mine.split("EC_POINT:")[1].split()[0])
        point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[key_type], octet_string[2:])
        return point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def _util(self, *arguments: str) -> None:
        run([program("softhsm2-util", package="softhsm2"), *arguments], self.environment)

    def _ask(self, token: str, *arguments: str) -> bytes:
        environment = {**os.environ, **self.environment}
        return pkcs11_tool(MODULE, self.pin, environment, "--token-label", token, *arguments)
