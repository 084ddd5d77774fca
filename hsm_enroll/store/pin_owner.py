"""Which token the PIN in the state folder belongs to: ``token.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hsm_enroll.key import TokenName
from hsm_enroll.store import documents, token_name

_FORMAT = documents.Format()
_FILE = "token.json"


@dataclass(frozen=True, slots=True)
class PinOwner:
    """The token that the PIN in the state folder belongs to.

    Attributes:
        token: its serial is empty until the token has been created.
        unknown: what a newer version has added to ``token.json``; kept when it is saved.
    """

    token: TokenName
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def load(cls, folder: Path) -> PinOwner | None:
        """Read ``token.json``, or return None if there is no such file.

        Raises:
            StateError, StateCorruptError, StateTooNewError: the file cannot be used.
        """
        return _FORMAT.load(folder / _FILE, cls._from_members)

    def save(self, folder: Path) -> None:
        """Write ``token.json``; it is durable when this returns.

        Raises:
            StateError: it cannot be written; the old content is unchanged.
        """
        _FORMAT.save(folder / _FILE, token_name.to_members(self.token), self.unknown)

    @classmethod
    def _from_members(cls, document: dict[str, Any]) -> PinOwner:
        owner = cls(token_name.from_members(document))
        return replace(owner, unknown=documents.unknown_members(document, token_name.to_members(owner.token)))
