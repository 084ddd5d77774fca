"""What the device holds after enrollment: a certificate, its Thing, and which key in which token belongs to it.

``identity.json`` is authoritative and is replaced in one rename; ``certificate.pem`` beside it is a copy for other
programs, written afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm_enroll import settings
from hsm_enroll.errors import ForeignCertificateError, NotEnrolledError, StateCorruptError, StateError
from hsm_enroll.forms import is_host, is_port
from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.role_alias import FORMS as ROLE_ALIAS_FORMS
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.store import documents, files, token_name
from hsm_enroll.uri import Pkcs11Uri
from hsm_enroll.x509.certificate import read_certificate

if TYPE_CHECKING:
    from asn1crypto.x509 import Certificate

_FORMAT = documents.Format()
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
_ORIGIN_MEMBERS = dict.fromkeys(KeyOrigin._fields, bool)


@dataclass(frozen=True)
class Identity:
    """One enrolled device.

    Attributes:
        thing_name: the AWS IoT Thing; MQTT client ids begin with its name.
        certificate_id: AWS IoT's id of the certificate.
        certificate_pem: the certificate, one PEM block.
        token: the token that holds the key.
        key_label: CKA_LABEL of the key pair, unique in its token (awscrt selects by it alone).
        key_id: CKA_ID of the key pair.
        key_type: type of the key.
        key_origin: what the token reported about the key when it was enrolled.
        api: base URL of the API that issued the certificate.
        mqtt_endpoint: host name of AWS IoT's device gateway.
        mqtt_port: its TCP port.
        attested: whether the backend has seen proof that a TPM holds the key.
        role_alias: where the device gets AWS credentials; None if the backend has not named any.
        unknown: what a newer version has added to ``identity.json``; kept when it is saved.
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
    role_alias: RoleAlias | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def load(cls, folder: Path | None = None) -> Identity:
        """Read the identity from a state folder.

        Does *not* check whether the token still holds the key, nor whether the certificate is still active.

        Args:
            folder: the state folder; None means the one that the environment names.

        Raises:
            NotEnrolledError: there is no identity.
            StateError, StateCorruptError, StateTooNewError: there is one, but it cannot be used.
        """
        folder = settings.load(os.environ, {}).state if folder is None else folder
        identity = _FORMAT.load(folder / _FILE, cls.from_members)
        if identity is None:
            raise NotEnrolledError(f"this device is not enrolled: {folder} holds no identity")
        return identity

    def save(self, folder: Path) -> None:
        """Write ``identity.json``, then its copy ``certificate.pem``, each in one rename.

        Raises:
            StateError: the folder cannot be written to; what was there is unchanged.
        """
        _FORMAT.save(folder / _FILE, self.to_members(), self.unknown)
        self.save_copy(folder)

    def save_copy(self, folder: Path) -> None:
        """Write ``certificate.pem`` if it is missing or out of date: an earlier run may have ended before it could.

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

    def to_members(self) -> dict[str, Any]:
        """Return what this version knows of the document, as JSON values."""
        return {
            **{name: getattr(self, name) for name in _MEMBERS},
            "token": token_name.to_members(self.token),
            "key_id": self.key_id.hex(),
            "key_origin": self.key_origin._asdict(),
            **({} if self.role_alias is None else {"role_alias": self.role_alias._asdict()}),
        }

    @classmethod
    def from_members(cls, document: dict[str, Any]) -> Identity:
        """Return the identity that a document holds.

        Raises:
            ValueError: a member is missing or damaged.
        """
        members = documents.members(document, _MEMBERS)
        # An earlier version stored what the API said, whatever it was.
        if not is_host(members["mqtt_endpoint"]):
            raise ValueError("mqtt_endpoint is not a host name")
        if not is_port(members["mqtt_port"]):
            raise ValueError("mqtt_port is not a TCP port")
        members["token"] = token_name.from_members(members["token"])
        members["key_id"] = bytes.fromhex(members["key_id"])
        members["key_type"] = documents.choice(members["key_type"], KeyType)
        members["key_origin"] = KeyOrigin(**documents.members(members["key_origin"], _ORIGIN_MEMBERS))
        identity = cls(**members, role_alias=_role_alias(document.get("role_alias")))
        identity = replace(identity, unknown=documents.unknown_members(document, identity.to_members()))
        try:
            identity.certificate  # noqa: B018 - reading it is the check
        except ForeignCertificateError as error:
            raise ValueError(error.message) from error
        return identity


def _role_alias(members: Any) -> RoleAlias | None:
    """Return the role alias in a document; those of earlier versions have none."""
    if members is None:
        return None
    if not isinstance(members, dict):
        raise ValueError("role_alias is not a JSON object")  # noqa: TRY004 - foreign data, not a caller's mistake
    for name, has_form in ROLE_ALIAS_FORMS.items():
        if not has_form(members.get(name)):
            raise ValueError(f"role_alias: {name} is missing or invalid")
    return RoleAlias(**{name: members[name] for name in ROLE_ALIAS_FORMS})


def certificate_file(folder: Path) -> Path:
    """Return the path of the certificate's copy for other programs."""
    return folder / _CERTIFICATE_FILE


def identity_file(folder: Path) -> Path:
    """Return the path of the identity; every change replaces the file."""
    return folder / _FILE


def exists(folder: Path) -> bool:
    """Whether the folder holds an identity; does *not* check whether it can be used.

    Raises:
        StateError: the folder cannot be read.
    """
    file = identity_file(folder)
    try:
        return file.exists()
    except OSError as error:
        raise StateError(f"{file} cannot be read: {error.strerror}") from error


def remove(folder: Path) -> None:
    """Remove the certificate's copy, and then the identity.

    Raises:
        StateError: one of them cannot be removed.
    """
    files.remove(certificate_file(folder))
    files.remove(folder / _FILE)
