"""What modules and tokens report about themselves, as values that a worker's process sends to ours."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

from hsm_enroll import softhsm
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.token import tpm2

RELABEL_HINT = "Relabel the token with its own tool, or use another one."
"""What to do about a label by which a token cannot be found."""

NO_USER_PIN_HINT = (
    "Create another token: hsm-enroll token create --label LABEL. Or set a PIN as the security officer, for example "
    "with OpenSC: pkcs11-tool --module PATH --token-label LABEL --login --login-type so --init-pin"
)
"""What to do about a token that has no user PIN yet."""

# Which store tpm2-pkcs11 uses; only for this one can a token be created.
_BACKEND, _DATABASE = "TPM2_PKCS11_BACKEND", "esysdb"


class TokenKind(StrEnum):
    """The kinds of token that can be created."""

    SOFTHSM = "softhsm"
    TPM2 = "tpm2"


class TokenReport(NamedTuple):
    """What a token reports about itself without a login.

    Attributes:
        name: which token.
        slot: CK_SLOT_ID; only shown to people, never used to select a token.
        initialized: CKF_TOKEN_INITIALIZED.
        login_required: CKF_LOGIN_REQUIRED.
        protected_authentication_path: CKF_PROTECTED_AUTHENTICATION_PATH: the PIN is entered at the token itself.
        pin_count_low: CKF_USER_PIN_COUNT_LOW: a wrong PIN was tried since the last successful login.
        pin_final_try: CKF_USER_PIN_FINAL_TRY: one more wrong PIN locks the token.
        pin_locked: CKF_USER_PIN_LOCKED.
        public_keys: URIs of the public keys that are visible without a login.
        key_types: key types that the token can generate and sign with; empty if it does not list its mechanisms.
        mqtt_key_types: those of them that MQTT can use, see ``capabilities.Capabilities``.
        mqtt_obstacle: why MQTT cannot use any of its keys, as an error's document; None if it can.
        label_is_utf8: whether the label is UTF-8 (PKCS#11 v2.40 §3.2), so that other programs can find the token by it.
        has_user_pin: CKF_USER_PIN_INITIALIZED.
    """

    name: TokenName
    slot: int
    initialized: bool
    login_required: bool
    protected_authentication_path: bool
    pin_count_low: bool
    pin_final_try: bool
    pin_locked: bool
    public_keys: tuple[str, ...]
    key_types: tuple[KeyType, ...]
    mqtt_key_types: tuple[KeyType, ...]
    mqtt_obstacle: dict[str, Any] | None
    label_is_utf8: bool = True
    has_user_pin: bool = True

    @property
    def creates(self) -> TokenKind | None:
        """The kind of token that can be created in this slot; None if it has a token, or one of another kind."""
        if self.initialized:
            return None
        if self.name.manufacturer == softhsm.MANUFACTURER:
            return TokenKind.SOFTHSM
        is_tpm2 = self.name.module.name.startswith(tpm2.MODULE_NAME) or tpm2.is_tpm2(self.name)
        return TokenKind.TPM2 if is_tpm2 and os.environ.get(_BACKEND, _DATABASE) == _DATABASE else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {**self._asdict(), "name": [str(part) for part in self.name]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the report from what :meth:`to_json` returned."""
        module, *names = document["name"]
        lists = {
            "name": TokenName(Path(module), *names),
            "public_keys": tuple(document["public_keys"]),
            "key_types": tuple(map(KeyType, document["key_types"])),
            "mqtt_key_types": tuple(map(KeyType, document["mqtt_key_types"])),
        }
        return cls(**{**document, **lists})


class OwnKey(NamedTuple):
    """A key pair, or half of one, whose label and id are as this program names its keys (``key.key_label``).

    Attributes:
        label: CKA_LABEL.
        id: CKA_ID.
        halves: which objects there are: ``private``, ``public`` or both, in this order.
        key_type: its type; None if there is no public half to tell.
        public_keys: DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) of each public key with this id.
        has_certificate: whether the token holds a certificate with this id.
        is_changed: whether a key with this id has another label, or is not of a type that this program generates.
    """

    label: str
    id: bytes
    halves: tuple[str, ...]
    key_type: KeyType | None
    public_keys: tuple[bytes, ...]
    has_certificate: bool
    is_changed: bool

    def to_json(self) -> dict[str, Any]:
        """Return the key as a JSON object."""
        return {**self._asdict(), "id": self.id.hex(), "public_keys": [info.hex() for info in self.public_keys]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the key from what :meth:`to_json` returned."""
        read = {
            "id": bytes.fromhex(document["id"]),
            "halves": tuple(document["halves"]),
            "key_type": None if document["key_type"] is None else KeyType(document["key_type"]),
            "public_keys": tuple(map(bytes.fromhex, document["public_keys"])),
        }
        return cls(**{**document, **read})


class ModuleReport(NamedTuple):
    """What a module reports about itself (PKCS#11 v2.40 §3.1, CK_INFO).

    Attributes:
        description: libraryDescription.
        version: libraryVersion, major and minor.
        cryptoki: cryptokiVersion, major and minor.
    """

    description: str
    version: tuple[int, int]
    cryptoki: tuple[int, int]
