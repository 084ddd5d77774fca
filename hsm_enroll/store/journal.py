"""The journal of the enrollment in progress: written before each effect, so that the next run can resume."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hsm_enroll.key import KEY_ID_BYTES, KeyType, TokenName, key_label
from hsm_enroll.store import documents, files, token_name

_FORMAT = documents.Format()
_FILE = "journal.json"
_MEMBERS = {
    "token": dict,
    "key_type": str,
    "key_label": str,
    "key_id": str,
    "new_key": bool,
    "csr": str,
    "is_spent": bool,
    "token_was_clean": bool,
}
# A journal written before a member was added lacks it.
_ADDED = {"is_spent": False, "token_was_clean": False}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One enrollment in progress: it ends when there is an identity with its key and the first message is sent.

    Attributes:
        token: where its key is made.
        key_type: type of the key.
        key_label: CKA_LABEL, chosen before the key exists.
        key_id: CKA_ID, chosen before the key exists.
        new_key: whether it replaces the key of an existing identity, on request.
        csr: PEM once it is built, stored so that a repeated request is the same request.
        is_spent: whether the API has said that it will never enroll this key.
        token_was_clean: whether the token certainly had no nameless remains of a key before this attempt generated its
            own; see ``token.leftovers``.
        unknown: what a newer version has added to the journal; kept when it is saved.
    """

    token: TokenName
    key_type: KeyType
    key_label: str
    key_id: bytes
    new_key: bool
    csr: str | None = None
    is_spent: bool = False
    token_was_clean: bool = False
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def begin(cls, token: TokenName, key_type: KeyType, *, new_key: bool) -> Attempt:
        """Name a key that does not exist yet; label and id are random, so no key in the token has them."""
        key_id = secrets.token_bytes(KEY_ID_BYTES)
        return cls(token, key_type, key_label(key_id), key_id, new_key)

    @classmethod
    def load(cls, folder: Path) -> Attempt | None:
        """Read the journal, or return None if no enrollment is in progress.

        Raises:
            StateError, StateCorruptError, StateTooNewError: there is one, but it cannot be used.
        """
        return _FORMAT.load(folder / _FILE, cls._from_members)

    def save(self, folder: Path) -> None:
        """Write the journal; it is durable when this returns.

        Raises:
            StateError: it cannot be written; the old content is unchanged.
        """
        _FORMAT.save(folder / _FILE, self._to_members(), self.unknown)

    def _to_members(self) -> dict[str, Any]:
        return {
            "token": token_name.to_members(self.token),
            "key_type": self.key_type,
            "key_label": self.key_label,
            "key_id": self.key_id.hex(),
            "new_key": self.new_key,
            "csr": self.csr or "",
            "is_spent": self.is_spent,
            "token_was_clean": self.token_was_clean,
        }

    @classmethod
    def _from_members(cls, document: dict[str, Any]) -> Attempt:
        members = documents.members({**_ADDED, **document}, _MEMBERS)
        attempt = cls(
            token=token_name.from_members(members["token"]),
            key_type=documents.choice(members["key_type"], KeyType),
            key_label=members["key_label"],
            key_id=bytes.fromhex(members["key_id"]),
            new_key=members["new_key"],
            csr=members["csr"] or None,
            is_spent=members["is_spent"],
            token_was_clean=members["token_was_clean"],
        )
        return replace(attempt, unknown=documents.unknown_members(document, attempt._to_members()))


def close(folder: Path) -> None:
    """Remove the journal: no enrollment is in progress any more.

    Raises:
        StateError: it cannot be removed.
    """
    files.remove(folder / _FILE)
