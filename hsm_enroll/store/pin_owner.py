"""Which token the PIN in the state folder belongs to: ``token.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hsm_enroll.errors import StateCorruptError
from hsm_enroll.key import TokenName
from hsm_enroll.store import documents, token_name

_FORMAT = documents.Format()
_FILE = "token.json"


@dataclass(frozen=True, slots=True)
class PinOwner:
    """The token that the PIN in the state folder belongs to.

    Attributes:
        token: its serial is empty until the token has been created.
        is_refused: whether the token has refused the PIN, because another program has changed it.
        unknown: what a newer version has added to ``token.json``; kept when it is saved.
    """

    token: TokenName
    is_refused: bool = False
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def load(cls, folder: Path) -> PinOwner | None:
        """Read ``token.json``, or return None if there is no such file.

        Raises:
            StateError, StateCorruptError, StateTooNewError: the file cannot be used.
        """
        try:
            return _FORMAT.load(folder / _FILE, cls._from_members)
        except StateCorruptError as error:
            hint = (
                "Restore the file from a backup, or move it away and set HSM_ENROLL_PIN_FILE to the PIN's own file, "
                f"{folder / 'pin'}: only this file says which token that PIN is for."
            )
            raise StateCorruptError(error.message, hint=hint) from error

    def save(self, folder: Path) -> None:
        """Write ``token.json``; it is durable when this returns.

        Raises:
            StateError: it cannot be written; the old content is unchanged.
        """
        _FORMAT.save(folder / _FILE, self._members, self.unknown)

    @property
    def _members(self) -> dict[str, Any]:
        # Left out if it is false, as by earlier versions, which did not know it.
        return {**token_name.to_members(self.token), **({"refused": True} if self.is_refused else {})}

    @classmethod
    def _from_members(cls, document: dict[str, Any]) -> PinOwner:
        owner = cls(token_name.from_members(document), is_refused=document.get("refused") is True)
        return replace(owner, unknown=documents.unknown_members(document, owner._members))
