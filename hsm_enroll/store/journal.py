"""The journal of one enrollment under way: written before an effect, so that whatever dies, the next run resumes."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from hsm_enroll.errors import StateCorruptError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store import files

_VERSION = 1
_FILE = "journal.json"
_TOKEN_MEMBERS = dict.fromkeys(TokenName._fields, str)
_MEMBERS = {
    "token": dict,
    "key_type": str,
    "key_label": str,
    "key_id": str,
    "new_key": bool,
    "csr": str,
    "is_spent": bool,
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One enrollment under way: until there is an identity with its key, and the first message is sent.

    Attributes:
        token: where its key is made.
        key_type: what is made.
        key_label: CKA_LABEL, chosen before the key exists.
        key_id: CKA_ID, chosen before the key exists.
        new_key: whether it replaces the key of an identity, on request.
        csr: PEM once it is built, kept so that a repeated request is the same request.
        is_spent: whether the API has said that it will never enroll this key.
    """

    token: TokenName
    key_type: KeyType
    key_label: str
    key_id: bytes
    new_key: bool
    csr: str | None = None
    is_spent: bool = False

    @classmethod
    def begin(cls, token: TokenName, key_type: KeyType, *, new_key: bool) -> Attempt:
        """Name a key that does not exist yet; label and id are random, so no key of the token has them."""
        key_id = secrets.token_bytes(8)
        return cls(token, key_type, f"hsm-enroll-{key_id.hex()}", key_id, new_key)

    @classmethod
    def load(cls, folder: Path) -> Attempt | None:
        """Read the journal, or return None where no enrollment is under way.

        Raises:
            StateError, StateCorruptError, StateTooNewError: there is one that cannot be used.
        """
        document = files.read_document(folder / _FILE, _VERSION)
        if document is None:
            return None
        try:
            # A journal of before this member came may still be there.
            members = files.members({"is_spent": False, **document}, _MEMBERS)
            token = files.members(members["token"], _TOKEN_MEMBERS)
            return cls(
                token=TokenName(**{**token, "module": Path(token["module"])}),
                key_type=KeyType(members["key_type"]),
                key_label=members["key_label"],
                key_id=bytes.fromhex(members["key_id"]),
                new_key=members["new_key"],
                csr=members["csr"] or None,
                is_spent=members["is_spent"],
            )
        except ValueError as error:
            raise StateCorruptError(f"{folder / _FILE} is damaged") from error

    def save(self, folder: Path) -> None:
        """Write the journal; it is durable when this returns.

        Raises:
            StateError: it cannot be written.
        """
        document = asdict(self)
        document["token"] = {**self.token._asdict(), "module": str(self.token.module)}
        document["key_id"] = self.key_id.hex()
        document["csr"] = self.csr or ""
        files.write_document(folder / _FILE, _VERSION, document)


def close(folder: Path) -> None:
    """Remove the journal: nothing is under way any more.

    Raises:
        StateError: it cannot be removed.
    """
    files.remove(folder / _FILE)
