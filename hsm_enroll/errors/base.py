"""The base of the errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class HsmEnrollError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        message: what happened, on which object; one sentence, never a secret.
        hint: what to do next; defaults to the class's own advice.

    Attributes:
        code: stable kebab-case name, the ``code`` of ``--json``.
        exit_status: the process's exit status.
        retryable: whether the same request may succeed later without anyone changing anything.
    """

    code: ClassVar[str] = "unexpected"
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    @property
    def document(self) -> dict[str, Any]:
        """The error as the JSON object that ``--json`` prints."""
        return {
            "code": self.code,
            "exitStatus": self.exit_status,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> HsmEnrollError:
        """Return the error, in its own class, that another process of the same version wrote as a document."""
        classes = [HsmEnrollError]
        for error_class in classes:  # the list grows during the loop
            classes += error_class.__subclasses__()
        by_code = {error_class.code: error_class for error_class in classes}
        return by_code[document["code"]](document["message"], hint=document["hint"])
