"""What modules and tokens say of themselves, as values: they cross from the process that has the module to ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

from hsm_enroll.key import KeyType, TokenName


class TokenReport(NamedTuple):
    """One token as it shows itself before any login.

    Attributes:
        name: which token it is.
        slot: CK_SLOT_ID; for people to read, never to select by.
        initialized: CKF_TOKEN_INITIALIZED.
        login_required: CKF_LOGIN_REQUIRED.
        protected_authentication_path: CKF_PROTECTED_AUTHENTICATION_PATH: the PIN is typed at the token itself.
        pin_count_low: CKF_USER_PIN_COUNT_LOW: a wrong PIN was given since the last good login.
        pin_final_try: CKF_USER_PIN_FINAL_TRY: one more wrong PIN locks it.
        pin_locked: CKF_USER_PIN_LOCKED.
        public_keys: URIs of the public keys it shows without a login.
        key_types: types of keys that it makes and signs with, by its own word; empty where it does not tell.
        mqtt_key_types: those of them that MQTT can use, see ``capabilities.Capabilities``.
        mqtt_obstacle: why MQTT can use none of its keys, as an error's document; None where it can.
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

    def to_json(self) -> dict[str, Any]:
        """Return it as `from_json` reads it."""
        return {**self._asdict(), "name": [str(part) for part in self.name]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        module, *names = document["name"]
        lists = {
            "name": TokenName(Path(module), *names),
            "public_keys": tuple(document["public_keys"]),
            "key_types": tuple(map(KeyType, document["key_types"])),
            "mqtt_key_types": tuple(map(KeyType, document["mqtt_key_types"])),
        }
        return cls(**{**document, **lists})


class ModuleReport(NamedTuple):
    """What a module says of itself (PKCS#11 v2.40 §3.1, CK_INFO).

    Attributes:
        description: libraryDescription.
        version: libraryVersion, major and minor.
        cryptoki: cryptokiVersion, major and minor.
    """

    description: str
    version: tuple[int, int]
    cryptoki: tuple[int, int]
