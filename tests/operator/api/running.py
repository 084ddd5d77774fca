"""The operator's commands, run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support import documents


@dataclass
class Result:
    """What a run of the command left."""

    arguments: list[str]
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout, checked against its schema."""
        return documents.read(self.arguments, self.out)


Run = Callable[..., Result]
