"""The journal of a renewal in progress, ``renewal.json``: written before each effect, so that a run can resume."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from hsm_enroll.store import documents, files, new_key
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.new_key import NewKey, new_name

_HINT = "Run hsm-enroll recover: it asks the API which key is this device's, and removes the damaged file."
_FILE = "renewal.json"
_MEMBERS = {**new_key.MEMBERS, "old_key_label": str, "old_key_id": str, "identity": dict}


@dataclass(frozen=True, slots=True)
class Renewal(NewKey):
    """One renewal in progress: it ends when the identity has the new key, and the token has lost the old one.

    Attributes:
        old_key_label: CKA_LABEL of the key that it replaces.
        old_key_id: CKA_ID of the key that it replaces.
        identity: the new identity, once the new certificate has been used for a message; from then on the API may have
            made the new key the current one. None before.
    """

    _format: ClassVar = documents.Format(hint=_HINT)
    _file: ClassVar = _FILE

    old_key_label: str = field(kw_only=True)
    old_key_id: bytes = field(kw_only=True)
    identity: Identity | None = field(default=None, kw_only=True)

    @classmethod
    def begin(cls, identity: Identity) -> Renewal:
        """Name a key that does not exist yet, of the same type and for the same token as an identity's."""
        return cls(
            identity.token,
            identity.key_type,
            *new_name(),
            old_key_label=identity.key_label,
            old_key_id=identity.key_id,
        )

    def to_members(self) -> dict[str, Any]:
        return {
            **self.name_members,
            "old_key_label": self.old_key_label,
            "old_key_id": self.old_key_id.hex(),
            "csr": self.csr or "",
            "token_was_clean": self.token_was_clean,
            "identity": documents.merged(self.identity.to_members(), self.identity.unknown) if self.identity else {},
        }

    @classmethod
    def from_members(cls, document: dict[str, Any]) -> Self:
        members = documents.members(document, _MEMBERS)
        renewal = cls(
            **new_key.values(members),
            old_key_label=members["old_key_label"],
            old_key_id=bytes.fromhex(members["old_key_id"]),
            identity=Identity.from_members(members["identity"]) if members["identity"] else None,
        )
        # The old key is destroyed in the end.
        if renewal.key_id == renewal.old_key_id or renewal.key_label == renewal.old_key_label:
            raise ValueError("its old key is its new one")
        return renewal


def close(folder: Path) -> None:
    """Remove the journal: no renewal is in progress any more.

    Raises:
        StateError: it cannot be removed.
    """
    files.remove(folder / _FILE)
