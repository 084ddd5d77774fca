"""The units of a package, and the drop-ins that fit them to this machine; pure, but for reading the package's files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hsm_enroll.service.words import literal, program, quoted
from hsm_enroll.version import __version__

FORWARD = "hsm-enroll-forward.service"
RENEW = "hsm-enroll-renew.service"
TIMER = "hsm-enroll-renew.timer"
UNITS = (FORWARD, RENEW, TIMER)
ENABLED = (FORWARD, TIMER)

MARK = "# Written by hsm-enroll service install"
"""What each file begins with that an installation has written; a package's do not."""

_DROP_IN = "hsm-enroll.conf"
_COMMANDS = {FORWARD: "forward", RENEW: "renew --if-due"}
# The package's TimeoutStopSec, and how much of it is for all but the acknowledgements: the connection, the disk.
_STOP_SECONDS, _ENDING_SECONDS = 60, 40
# Folders that the units hide, and the setting with which a service sees those that it needs.
_HIDING = {
    "ProtectHome=read-only": ("/home", "/root", "/run/user"),
    "PrivateTmp=no": ("/tmp", "/var/tmp"),  # noqa: S108 - nothing is created there
}


@dataclass(frozen=True, slots=True)
class Installation:
    """What the units of a package cannot know.

    Attributes:
        executable: hsm-enroll's absolute path.
        state: the state folder.
        user: whom the services run as.
        groups: the user's further groups, which exist.
        environment: what the services need of the environment; no secrets.
        pin_file: the file with the PIN that the services are configured with; None if there is none.
        written: folders that they write to, the state folder included; real ones, and links to them.
        read: files and folders that they read, the Python interpreter included; real ones, and links to them.
        operation_timeout: seconds that ``forward`` may wait for acknowledgements before it ends.
    """

    executable: Path
    state: Path
    user: str
    groups: Sequence[str]
    environment: Mapping[str, str]
    pin_file: Path | None
    written: Sequence[Path]
    read: Sequence[Path]
    operation_timeout: float


def drop_ins(installation: Installation) -> dict[str, str]:
    """Return the content of each drop-in by its path in systemd's folder.

    Raises:
        ServiceError: a path or variable has characters that a unit cannot have.
    """
    return {_drop_in(unit): _fitted(installation, unit) for unit in _COMMANDS}


def written(unit: str) -> str:
    """Return the content of a unit that no package has brought."""
    return f"{MARK}.\n{packaged(unit)}"


def names() -> list[str]:
    """Return the paths in systemd's folder of all files that an installation may have written."""
    return [*UNITS, *map(_drop_in, _COMMANDS)]


def packaged(name: str) -> str:
    """Return what a file of the package's units has."""
    return (resources.files(__package__) / "files" / name).read_text(encoding="utf-8")


def _drop_in(unit: str) -> str:
    return f"{unit}.d/{_DROP_IN}"


def _fitted(installation: Installation, unit: str) -> str:
    """Return a drop-in; a setting that is a list is emptied first (systemd.unit(5))."""
    variables = sorted(installation.environment.items())
    used = [installation.executable, *installation.written, *installation.read]
    stop_seconds = math.ceil(installation.operation_timeout) + _ENDING_SECONDS
    pin_files = [] if installation.pin_file is None else [installation.pin_file]
    lines = [
        # With the version, so that an update is a change, after which the services are started anew.
        f"{MARK} {__version__} for this machine, and removed by hsm-enroll service uninstall.",
        "",
        "[Unit]",
        "ConditionPathExists=",
        f"ConditionPathExists={literal(installation.state / 'identity.json')}",
        # Not of what may come and go, such as a token: a service that requires it is stopped, and not started again.
        *(f"RequiresMountsFor={quoted(path)}" for path in [installation.state, *pin_files]),
        "",
        "[Service]",
        "ExecStart=",
        f"ExecStart={program(installation.executable)} {_COMMANDS[unit]}",
        *([f"TimeoutStopSec={stop_seconds}"] if unit == FORWARD and stop_seconds > _STOP_SECONDS else []),
        f"User={literal(installation.user)}",
        "SupplementaryGroups=",
        *([f"SupplementaryGroups={' '.join(installation.groups)}"] if installation.groups else []),
        "ReadWritePaths=",
        *(f"ReadWritePaths={quoted(folder)}" for folder in installation.written),
        *(f"Environment={quoted(f'{name}={value}')}" for name, value in variables),
        *(setting for setting, hidden in _HIDING.items() if any(_is_below(path, hidden) for path in used)),
    ]
    return "\n".join(lines) + "\n"


def _is_below(path: Path, folders: Sequence[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
