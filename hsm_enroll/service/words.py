"""Texts of this machine in systemd's unit files; systemd.syntax(7), "Quoting", and systemd.unit(5), "Specifiers"."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from hsm_enroll.errors import ServiceError

_HINT = "Rename the file or folder, or change the setting, then run the command again."


def literal(text: object) -> str:
    """Return a text as a setting has it that takes one value, up to the end of the line.

    Raises:
        ServiceError: it has characters that a unit cannot have: control characters, or what is not UTF-8.
    """
    text = str(text)
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        what = "it has a control character, or is not valid UTF-8"
        raise ServiceError(f"{text!r} cannot be written into a unit of systemd: {what}", hint=_HINT)
    return text.replace("%", "%%")


def quoted(text: object) -> str:
    """Return a text as one word, for settings with several.

    Raises:
        ServiceError: as for :func:`literal`.
    """
    return '"' + literal(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def program(file: Path) -> str:
    """Return a program's path, the first word of a command; a dollar sign has no meaning there.

    Raises:
        ServiceError: as for :func:`literal`, or it has a quotation mark or backslash, which systemd does not accept
            there, however they are written.
    """
    if set(str(file)) & set("\"'\\"):
        raise ServiceError(
            f"systemd starts no program with a quotation mark or backslash in its path: {file}", hint=_HINT
        )
    return quoted(file)
