"""The use cases: install the services on this machine, and remove them.

A package brings the units, in systemd's folder for packages; without one an installation writes them. In both cases it
writes a drop-in for each service. An installation or removal that was interrupted is completed by the next run.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hsm_enroll.errors import ServiceError
from hsm_enroll.service import systemd, units
from hsm_enroll.service.units import Installation

# Whether files have changed that the running services do not know yet; gone after a reboot, when they do.
_CHANGED = Path("/run/hsm-enroll-service-changed")
_ENDED = {"inactive", "failed"}


@dataclass(frozen=True, slots=True)
class Written:
    """A file, and whether it had to be changed."""

    file: Path
    is_changed: bool


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation has done.

    Attributes:
        files: the files of the services that are not a package's.
        removed: units of an earlier installation, which would hide the package's.
    """

    files: list[Written]
    removed: list[Path]


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What a removal has done.

    Attributes:
        removed: the files that were removed.
        disabled: units that were enabled or ran, and now are stopped, and not started at boot.
    """

    removed: list[Path]
    disabled: list[str]


def install(installation: Installation) -> Installed:
    """Write the files, have systemd read them, enable the units and start them; start them anew if files have changed.

    Raises:
        ServiceError: somebody else's file is in the place of one of them, or a path cannot be written into a unit, and
            nothing was changed; or a file cannot be written, or systemd has refused.
    """
    packaged = [unit for unit in units.UNITS if systemd.is_packaged(unit)]
    contents = {unit: units.written(unit) for unit in units.UNITS if unit not in packaged}
    contents |= units.drop_ins(installation)
    by_file = {systemd.FOLDER / name: content for name, content in contents.items()}
    for file in by_file:
        if os.path.lexists(file) and not _is_ours(file):
            raise ServiceError(
                f"{file} is in place already, and was not written by hsm-enroll",
                hint="If it is no longer needed, move it away; then run the command again.",
            )
    hiding = [file for unit in packaged if _is_ours(file := systemd.FOLDER / unit)]
    written = [Written(file, _write(file, content)) for file, content in by_file.items()]
    for file in hiding:
        _note_change()
        _remove(file)
    systemd.control("daemon-reload")
    systemd.control("enable", *units.ENABLED)
    systemd.control("restart" if _CHANGED.exists() else "start", *units.ENABLED)
    _unlink(_CHANGED)
    return Installed(written, hiding)


def uninstall() -> Uninstalled:
    """Stop and disable the units, and remove the files that :func:`install` has written.

    A package's files stay, and so do an administrator's own. A renewal that is running is stopped, too; the next one
    resumes it.

    Raises:
        ServiceError: a file cannot be removed, or systemd has refused.
    """
    present = [unit for unit in units.UNITS if systemd.is_packaged(unit) or _is_ours(systemd.FOLDER / unit)]
    enabled = [unit for unit in units.ENABLED if unit in present]
    used: list[str] = []
    if enabled:
        used = [each.unit for each in systemd.states(enabled) if each.enabled or each.state not in _ENDED]
        systemd.control("disable", "--now", *enabled)
    if units.RENEW in present:
        systemd.control("stop", units.RENEW)
    ours = [file for name in units.names() if _is_ours(file := systemd.FOLDER / name)]
    for name in units.names():
        _unlink(_unfinished(systemd.FOLDER / name))
    for file in ours:
        _remove(file)
    systemd.control("daemon-reload")
    _unlink(_CHANGED)
    return Uninstalled(ours, used)


def _is_ours(file: Path) -> bool:
    """Whether an installation has written a file, or has begun to: then it is empty, or was by a power cut."""
    if file.is_symlink() or not file.is_file():
        return False
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ServiceError(f"{file} cannot be read: {error.strerror}") from error
    return not content or content.startswith(units.MARK.encode())


def _write(file: Path, content: str) -> bool:
    """Write a file unless it has the content already, and return whether it was written."""
    encoded, unfinished = content.encode(), _unfinished(file)
    try:
        if file.is_file() and file.read_bytes() == encoded:
            return False
        _note_change()
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with unfinished.open("wb") as stream:
            stream.write(encoded)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        unfinished.replace(file)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ServiceError(f"{file} cannot be written: {error.strerror}") from error
    return True


def _unfinished(file: Path) -> Path:
    """Return where a file is written first; systemd reads no file with this name."""
    return file.with_name(f".{file.name}.new")


def _note_change() -> None:
    try:
        _CHANGED.touch()
    except OSError as error:
        raise ServiceError(f"{_CHANGED} cannot be written: {error.strerror}") from error


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise ServiceError(f"{file} cannot be removed: {error.strerror}") from error


def _remove(file: Path) -> None:
    _unlink(file)
    try:
        if file.parent != systemd.FOLDER and not any(file.parent.iterdir()):
            file.parent.rmdir()
    except OSError as error:
        raise ServiceError(f"{file.parent} cannot be removed: {error.strerror}") from error
