"""The journal of the enrollment in progress: written before each effect, so that the next run can resume."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store import documents, files, new_key
from hsm_enroll.store.new_key import NewKey, new_name

_FILE = "journal.json"
_MEMBERS = {**new_key.MEMBERS, "new_key": bool, "is_spent": bool}
# A journal written before a member was added lacks it.
_ADDED = {"is_spent": False, "token_was_clean": False}


@dataclass(frozen=True, slots=True)
class Attempt(NewKey):
    """One enrollment in progress: it ends when there is an identity with its key and the first message is sent.

    Attributes:
        new_key: whether it replaces the key of an existing identity, on request.
        is_spent: whether the API has said that it will never enroll this key.
    """

    _format: ClassVar = documents.Format()
    _file: ClassVar = _FILE

    new_key: bool = field(kw_only=True)
    is_spent: bool = field(default=False, kw_only=True)

    @classmethod
    def begin(cls, token: TokenName, key_type: KeyType, *, new_key: bool) -> Attempt:
        """Name a key that does not exist yet."""
        return cls(token, key_type, *new_name(), new_key=new_key)

    def to_members(self) -> dict[str, Any]:
        return {
            **self.name_members,
            "new_key": self.new_key,
            "csr": self.csr or "",
            "is_spent": self.is_spent,
            "token_was_clean": self.token_was_clean,
        }

    @classmethod
    def from_members(cls, document: dict[str, Any]) -> Self:
        members = documents.members({**_ADDED, **document}, _MEMBERS)
        return cls(**new_key.values(members), new_key=members["new_key"], is_spent=members["is_spent"])


def close(folder: Path) -> None:
    """Remove the journal: no enrollment is in progress any more.

    Raises:
        StateError: it cannot be removed.
    """
    files.remove(folder / _FILE)
