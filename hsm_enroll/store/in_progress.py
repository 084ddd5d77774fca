"""What the journals have in common: a file of the state folder, written before each effect of what is in progress."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from hsm_enroll.store import documents


@dataclass(frozen=True, slots=True)
class InProgress(ABC):
    """An enrollment, a renewal or a retirement in progress, as its journal has it.

    Attributes:
        unknown: what a newer version has added to the journal; kept when it is saved.
    """

    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    _format: ClassVar[documents.Format]
    _file: ClassVar[str]

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the journal, or return None if nothing of its kind is in progress.

        Raises:
            StateError, StateCorruptError, StateTooNewError: there is one, but it cannot be used.
        """
        return cls._format.load(folder / cls._file, cls._read)

    def save(self, folder: Path) -> None:
        """Write the journal; it is durable when this returns.

        Raises:
            StateError: it cannot be written; the old content is unchanged.
        """
        self._format.save(folder / self._file, self.to_members(), self.unknown)

    @classmethod
    def _read(cls, document: dict[str, Any]) -> Self:
        journal = cls.from_members(document)
        return replace(journal, unknown=documents.unknown_members(document, journal.to_members()))

    @abstractmethod
    def to_members(self) -> dict[str, Any]:
        """Return the members of the document, as JSON values."""

    @classmethod
    @abstractmethod
    def from_members(cls, document: dict[str, Any]) -> Self:
        """Return what a document says.

        Raises:
            ValueError: it is damaged.
        """
