"""The use cases: install the services on this machine, and remove them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hsm_enroll.errors import ServiceError
from hsm_enroll.service import systemd, units
from hsm_enroll.service.units import Installation


@dataclass(frozen=True, slots=True)
class Written:
    """A file, and whether it had to be changed."""

    file: Path
    is_changed: bool


def install(installation: Installation) -> list[Written]:
    """Write the units, have systemd read them, enable them and start them; start them anew if they have changed.

    Returns:
        The files of the units.

    Raises:
        ServiceError: somebody else's file is in the place of one of them, and nothing was changed; or a file cannot be
            written, or systemd has refused.
    """
    contents = {systemd.FOLDER / name: content for name, content in units.files(installation).items()}
    for file in contents:
        if not _is_ours(file) and os.path.lexists(file):
            raise ServiceError(
                f"{file} is in place already, and was not written by hsm-enroll",
                hint="If it is no longer needed, move it away; then run the command again.",
            )
    written = [Written(file, _write(file, content)) for file, content in contents.items()]
    systemd.control("daemon-reload")
    systemd.control("enable", *units.ENABLED)
    systemd.control("restart" if any(each.is_changed for each in written) else "start", *units.ENABLED)
    return written


def uninstall() -> list[Path]:
    """Stop and disable the units, and remove the files that :func:`install` has written; an administrator's own stay.

    Returns:
        The files that were removed.

    Raises:
        ServiceError: a file cannot be removed, or systemd has refused.
    """
    ours = [file for name in units.names() if _is_ours(file := systemd.FOLDER / name)]
    if not ours:
        return []
    present = [unit for unit in units.ENABLED if systemd.FOLDER / unit in ours]
    if present:
        systemd.control("disable", "--now", *present)
    for file in ours:
        _remove(file)
    systemd.control("daemon-reload")
    return ours


def _is_ours(file: Path) -> bool:
    try:
        return file.is_file() and file.read_text(encoding="utf-8", errors="replace").startswith(units.MARK)
    except OSError as error:
        raise ServiceError(f"{file} cannot be read: {error.strerror}") from error


def _write(file: Path, content: str) -> bool:
    """Write a file unless it has the content already, and return whether it was written."""
    try:
        if file.is_file() and file.read_text(encoding="utf-8", errors="replace") == content:
            return False
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # systemd reads it later, at daemon-reload; a part of a file is written whole by the next run.
        file.write_text(content, encoding="utf-8")
        file.chmod(0o644)
    except OSError as error:
        raise ServiceError(f"{file} cannot be written: {error.strerror}") from error
    return True


def _remove(file: Path) -> None:
    try:
        file.unlink()
        if file.parent != systemd.FOLDER and not any(file.parent.iterdir()):
            file.parent.rmdir()
    except OSError as error:
        raise ServiceError(f"{file} cannot be removed: {error.strerror}") from error
