"""What the device holds after enrollment: a certificate, its Thing, and where in which token its key lives.

``identity.json`` is the truth and is replaced in one rename; ``certificate.pem`` beside it is a copy for other
programs, written after it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm_enroll import settings
from hsm_enroll.errors import ForeignCertificateError, NotEnrolledError, StateCorruptError
from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.store import files
from hsm_enroll.uri import Pkcs11Uri
from hsm_enroll.x509.certificate import read_certificate

if TYPE_CHECKING:
    from asn1crypto.x509 import Certificate

_VERSION = 1
_FILE = "identity.json"
_CERTIFICATE_FILE = "certificate.pem"
_MEMBERS = {
    "thing_name": str,
    "certificate_id": str,
    "certificate_pem": str,
    "token": dict,
    "key_label": str,
    "key_id": str,
    "key_type": str,
    "key_origin": dict,
    "api": str,
    "mqtt_endpoint": str,
    "mqtt_port": int,
    "attested": bool,
}
_TOKEN_MEMBERS = dict.fromkeys(TokenName._fields, str)
_ORIGIN_MEMBERS = dict.fromkeys(KeyOrigin._fields, bool)


@dataclass(frozen=True)
class Identity:
    """One enrolled device.

    Attributes:
        thing_name: the AWS IoT Thing; MQTT client ids begin with its name.
        certificate_id: AWS IoT's id of the certificate.
        certificate_pem: the certificate, one PEM block.
        token: where the key is.
        key_label: CKA_LABEL of the key pair, unique in its token (awscrt selects by it alone).
        key_id: CKA_ID of the key pair.
        key_type: type of the key.
        key_origin: what the token said of the key when it was enrolled.
        api: base URL of the API that issued it.
        mqtt_endpoint: host name of AWS IoT's device gateway.
        mqtt_port: TCP port of it.
        attested: whether the backend saw a proof that the key lives in a TPM.
    """

    thing_name: str
    certificate_id: str
    certificate_pem: str
    token: TokenName
    key_label: str
    key_id: bytes
    key_type: KeyType
    key_origin: KeyOrigin
    api: str
    mqtt_endpoint: str
    mqtt_port: int
    attested: bool

    @classmethod
    def load(cls, folder: Path | None = None) -> Identity:
        """Read the identity from a state folder.

        Does *not* ask the token whether it still holds the key, nor whether the certificate is still active.

        Args:
            folder: the state folder; None is the one that the environment names.

        Raises:
            NotEnrolledError: there is none.
            StateError, StateCorruptError, StateTooNewError: there is one that cannot be used.
        """
        folder = settings.load(os.environ, {}).state if folder is None else folder
        document = files.read_document(folder / _FILE, _VERSION)
        if document is None:
            raise NotEnrolledError(f"this device is not enrolled: {folder} holds no identity")
        try:
            identity = cls._from_document(document)
            identity.certificate  # noqa: B018 - reading it is the check
        except (ValueError, ForeignCertificateError) as error:
            raise StateCorruptError(f"{folder / _FILE} is damaged") from error
        return identity

    def save(self, folder: Path) -> None:
        """Write ``identity.json``, then its copy ``certificate.pem``, each in one rename.

        Raises:
            StateError: the folder cannot be written; what was there is untouched.
        """
        files.write_document(folder / _FILE, _VERSION, self._to_document())
        self.save_copy(folder)

    def save_copy(self, folder: Path) -> None:
        """Write ``certificate.pem`` where it is missing, or not this certificate: power may have gone before it was.

        Raises:
            StateError: the file cannot be read or written.
        """
        file = folder / _CERTIFICATE_FILE
        try:
            current = files.read(file)
        except StateCorruptError:
            current = None
        if current != self.certificate_pem:
            files.write(file, self.certificate_pem, mode=0o644)

    @cached_property
    def certificate(self) -> Certificate:
        """The certificate, parsed."""
        return read_certificate(self.certificate_pem)

    @property
    def key_uri(self) -> Pkcs11Uri:
        """The private key's URI."""
        return Pkcs11Uri(
            token=self.token.label,
            serial=self.token.serial or None,
            manufacturer=self.token.manufacturer,
            model=self.token.model,
            object=self.key_label,
            id=self.key_id,
            type="private",
        )

    def _to_document(self) -> dict[str, Any]:
        document = asdict(self)
        document["token"] = {**self.token._asdict(), "module": str(self.token.module)}
        document["key_origin"] = self.key_origin._asdict()
        document["key_id"] = self.key_id.hex()
        return document

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Identity:
        members = files.members(document, _MEMBERS)
        token = files.members(members.pop("token"), _TOKEN_MEMBERS)
        token_name = TokenName(**{**token, "module": Path(token["module"])})
        origin = KeyOrigin(**files.members(members.pop("key_origin"), _ORIGIN_MEMBERS))
        key_id = bytes.fromhex(members.pop("key_id"))
        key_type = KeyType(members.pop("key_type"))
        return cls(**members, token=token_name, key_origin=origin, key_id=key_id, key_type=key_type)


def certificate_file(folder: Path) -> Path:
    """Return where the copy of the certificate for other programs lies."""
    return folder / _CERTIFICATE_FILE
