"""How every stored document names a token."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.key import TokenName
from hsm_enroll.store import documents

_MEMBERS = dict.fromkeys(TokenName._fields, str)


def to_members(token: TokenName) -> dict[str, str]:
    """Return the JSON object that names a token."""
    return {**token._asdict(), "module": str(token.module)}


def from_members(document: object) -> TokenName:
    """Return the token that a JSON object names; members that this version does not know are left out.

    Raises:
        ValueError: it is not an object, or a member is missing or not a string.
    """
    members = documents.members(document, _MEMBERS)
    return TokenName(**{**members, "module": Path(members["module"])})
