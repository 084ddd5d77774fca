"""The units of a package, and the drop-ins that fit them to this machine; pure, but for reading the package's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

FORWARD = "hsm-enroll-forward.service"
RENEW = "hsm-enroll-renew.service"
TIMER = "hsm-enroll-renew.timer"
UNITS = (FORWARD, RENEW, TIMER)
ENABLED = (FORWARD, TIMER)

MARK = "# Part of hsm-enroll"
"""What each of our files begins with."""

_DROP_IN = "hsm-enroll.conf"
_COMMANDS = {FORWARD: "forward", RENEW: "renew --if-due"}
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
        written: folders that they write to, the state folder included.
        read: files and folders that they read, the Python interpreter included.
    """

    executable: Path
    state: Path
    user: str
    groups: Sequence[str]
    environment: Mapping[str, str]
    written: Sequence[Path]
    read: Sequence[Path]


def files(installation: Installation) -> dict[str, str]:
    """Return the content of each file by its path in systemd's folder: the units, and the services' drop-ins."""
    contents = {unit: packaged(unit) for unit in UNITS}
    for unit, command in _COMMANDS.items():
        contents[f"{unit}.d/{_DROP_IN}"] = _drop_in(installation, command)
    return contents


def names() -> list[str]:
    """Return the paths of all files in systemd's folder."""
    return [*UNITS, *(f"{unit}.d/{_DROP_IN}" for unit in _COMMANDS)]


def packaged(name: str) -> str:
    """Return what a file of the package's units has."""
    return (resources.files(__package__) / "files" / name).read_text(encoding="utf-8")


def _drop_in(installation: Installation, command: str) -> str:
    """Return a drop-in; a setting that is a list is emptied first (systemd.unit(5))."""
    used = [installation.executable, installation.state, *installation.written, *installation.read]
    lines = [
        f"{MARK}: written by hsm-enroll service install for this machine, and removed by service uninstall.",
        "",
        "[Unit]",
        "ConditionPathExists=",
        f"ConditionPathExists={_literal(installation.state / 'identity.json')}",
        "",
        "[Service]",
        "ExecStart=",
        f"ExecStart={_quoted(str(installation.executable)).replace('$', '$$')} {command}",
        f"User={_literal(installation.user)}",
        "SupplementaryGroups=",
        *([f"SupplementaryGroups={' '.join(installation.groups)}"] if installation.groups else []),
        "ReadWritePaths=",
        *(f"ReadWritePaths={_quoted(str(folder))}" for folder in installation.written),
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in sorted(installation.environment.items())),
        *(setting for setting, hidden in _HIDING.items() if any(_is_below(path, hidden) for path in used)),
    ]
    return "\n".join(lines) + "\n"


def _is_below(path: Path, folders: Sequence[str]) -> bool:
    return any(each.is_relative_to(folder) for each in (path, path.resolve()) for folder in folders)


def _literal(text: object) -> str:
    """Return a text without the specifiers that systemd would replace (systemd.unit(5), "Specifiers")."""
    return str(text).replace("%", "%%")


def _quoted(text: str) -> str:
    """Return a text as one word (systemd.syntax(7), "Quoting")."""
    return '"' + _literal(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
