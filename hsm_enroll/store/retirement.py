"""The journal of a retirement in progress, ``retirement.json``, which outlives all that it removes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from hsm_enroll.errors import StateCorruptError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store import documents, files, token_name
from hsm_enroll.store.in_progress import InProgress

_HINT = (
    "Move the file away, then run hsm-enroll retire again; or hsm-enroll recover, if the device is to stay enrolled."
)
_FILE = "retirement.json"
_MEMBERS = {
    "thing_name": str,
    "api": str,
    "token": dict,
    "key_type": str,
    "enrolled_keys": list,
    "other_keys": list,
    "is_told": bool,
}


class KeyName(NamedTuple):
    """A key of the token.

    Attributes:
        label: CKA_LABEL.
        id: CKA_ID.
    """

    label: str
    id: bytes


@dataclass(frozen=True, slots=True)
class Retirement(InProgress):
    """One retirement in progress: it ends when the token has lost the keys, and the state folder the identity.

    Attributes:
        thing_name: the Thing.
        api: base URL of the API that issued its certificate.
        token: the token that holds the keys.
        key_type: type of the identity's key.
        enrolled_keys: those that the API may know as this Thing's key, the identity's first.
        other_keys: those that an unfinished enrollment or renewal leaves.
        is_told: whether the API has retired the Thing.
    """

    _format: ClassVar = documents.Format(hint=_HINT)
    _file: ClassVar = _FILE

    thing_name: str
    api: str
    token: TokenName
    key_type: KeyType
    enrolled_keys: tuple[KeyName, ...]
    other_keys: tuple[KeyName, ...] = ()
    is_told: bool = False

    def to_members(self) -> dict[str, Any]:
        return {
            "thing_name": self.thing_name,
            "api": self.api,
            "token": token_name.to_members(self.token),
            "key_type": self.key_type,
            "enrolled_keys": [_key_members(key) for key in self.enrolled_keys],
            "other_keys": [_key_members(key) for key in self.other_keys],
            "is_told": self.is_told,
        }

    @classmethod
    def from_members(cls, document: dict[str, Any]) -> Self:
        members = documents.members(document, _MEMBERS)
        retirement = cls(
            thing_name=members["thing_name"],
            api=members["api"],
            token=token_name.from_members(members["token"]),
            key_type=documents.choice(members["key_type"], KeyType),
            enrolled_keys=tuple(map(_key, members["enrolled_keys"])),
            other_keys=tuple(map(_key, members["other_keys"])),
            is_told=members["is_told"],
        )
        if not retirement.enrolled_keys:
            raise ValueError("it names no key")
        return retirement


def corrupt(folder: Path, why: str) -> StateCorruptError:
    """Return the error for a journal that contradicts what else is known."""
    return StateCorruptError(f"{folder / _FILE} is damaged: {why}", hint=_HINT)


def close(folder: Path) -> None:
    """Remove the journal: no retirement is in progress any more.

    Raises:
        StateError: it cannot be removed.
    """
    files.remove(folder / _FILE)


def _key_members(key: KeyName) -> dict[str, str]:
    return {"label": key.label, "id": key.id.hex()}


def _key(document: object) -> KeyName:
    members = documents.members(document, {"label": str, "id": str})
    return KeyName(members["label"], bytes.fromhex(members["id"]))
