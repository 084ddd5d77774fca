"""What the journals of an enrollment and of a renewal have in common: a key that is named before it exists."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hsm_enroll.key import KEY_ID_BYTES, KeyType, TokenName, key_label
from hsm_enroll.store import documents, token_name
from hsm_enroll.store.in_progress import InProgress

MEMBERS: Mapping[str, type] = {
    "token": dict,
    "key_type": str,
    "key_label": str,
    "key_id": str,
    "csr": str,
    "token_was_clean": bool,
}
"""The members of a journal's document that are about the key, with their types."""


@dataclass(frozen=True, slots=True)
class NewKey(InProgress):
    """A key to be made, or made already, and the request for its certificate.

    Attributes:
        token: where the key is made.
        key_type: type of the key.
        key_label: CKA_LABEL, chosen before the key exists.
        key_id: CKA_ID, chosen before the key exists.
        csr: PEM once it is built, stored so that a repeated request is the same request.
        token_was_clean: whether the token certainly had no nameless remains of a key before this key was generated; see
            ``token.leftovers``.
    """

    token: TokenName
    key_type: KeyType
    key_label: str
    key_id: bytes
    csr: str | None = None
    token_was_clean: bool = False

    @property
    def name_members(self) -> dict[str, Any]:
        """The members of the journal's document that name the key, as JSON values."""
        return {
            "token": token_name.to_members(self.token),
            "key_type": self.key_type,
            "key_label": self.key_label,
            "key_id": self.key_id.hex(),
        }


def values(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a key, by name, from the members of a journal's document.

    Raises:
        ValueError: a member is damaged.
    """
    return {
        "token": token_name.from_members(members["token"]),
        "key_type": documents.choice(members["key_type"], KeyType),
        "key_label": members["key_label"],
        "key_id": bytes.fromhex(members["key_id"]),
        "csr": members["csr"] or None,
        "token_was_clean": members["token_was_clean"],
    }


def new_name() -> tuple[str, bytes]:
    """Return a label and an id for a key; they are random, so no key in the token has them."""
    key_id = secrets.token_bytes(KEY_ID_BYTES)
    return key_label(key_id), key_id
