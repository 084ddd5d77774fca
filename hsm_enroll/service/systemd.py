"""systemd, as far as services are installed and looked at: its folder of units, and ``systemctl``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsm_enroll.errors import ServiceError
from hsm_enroll.secret import PIN_VARIABLE

FOLDER = Path("/etc/systemd/system")
"""The administrator's units (systemd.unit(5))."""

_PACKAGED = Path("/usr/lib/systemd/system")
_RUNTIME = Path("/run/systemd/system")
_PROPERTIES = (
    *("Id", "LoadState", "FragmentPath", "DropInPaths", "ActiveState", "UnitFileState"),
    *("Result", "ExecMainStatus", "StatusText"),
)


@dataclass(frozen=True, slots=True)
class UnitState:
    """How a unit is.

    Attributes:
        unit: its name.
        load: systemd's LoadState: ``loaded``, ``not-found``, ``masked``, ``error``, …
        files: its own file, and the drop-ins that change it.
        enabled: whether it is started at boot.
        state: systemd's ActiveState: ``active``, ``inactive``, ``failed``, ``activating``, …
        result: systemd's Result of the last run: ``success``, ``exit-code``, ``watchdog``, …
        exit_status: exit status of its last process, or the signal that ended it; None for what is not a process.
        status: what it says about itself; "" if nothing.
    """

    unit: str
    load: str
    files: tuple[Path, ...]
    enabled: bool
    state: str
    result: str
    exit_status: int | None
    status: str

    @property
    def is_installed(self) -> bool:
        """Whether systemd can start it."""
        return self.load == "loaded"

    @property
    def failure(self) -> str:
        """How its last run failed, such as "exit status 12" or "watchdog"; "" if it did not."""
        if self.result == "success":
            return ""
        names = {"exit-code": "exit status", "signal": "signal"}
        return f"{names[self.result]} {self.exit_status}" if self.result in names else self.result


def is_packaged(unit: str) -> bool:
    """Whether a package of this machine's distribution brings a unit."""
    return (_PACKAGED / unit).is_file()


def require() -> None:
    """Check that this is root, and that systemd runs here.

    Raises:
        ServiceError: one of them is not so.
    """
    if os.geteuid() != 0:
        raise ServiceError("only root may change this machine's services", hint="Run the command as root, with sudo.")
    require_running()


def is_running() -> bool:
    """Whether systemd runs here (sd_booted(3))."""
    return _RUNTIME.is_dir()


def require_running() -> None:
    """Check that systemd runs here.

    Raises:
        ServiceError: it does not.
    """
    if not is_running():
        raise ServiceError(
            "this machine was not started by systemd, so it has no services of systemd",
            hint="Have this machine's own service manager run hsm-enroll forward, and hsm-enroll renew --if-due daily.",
        )


def control(*arguments: str) -> str:
    """Run ``systemctl``, and return what it prints.

    Raises:
        ServiceError: it failed, or there is none.
    """
    command = ["systemctl", "--no-pager", *arguments]
    try:
        done = subprocess.run(
            command,
            env={**{name: text for name, text in os.environ.items() if name != PIN_VARIABLE}, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ServiceError(f"systemctl cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise ServiceError(f"systemctl {' '.join(arguments)} failed: {' '.join(done.stderr.split())}")
    return done.stdout


def states(units: Sequence[str]) -> list[UnitState]:
    """Return how units are, in their order.

    Raises:
        ServiceError: systemd does not say it.
    """
    shown = control("show", f"--property={','.join(_PROPERTIES)}", "--", *units)
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n") if block
    ]
    by_name = {block.get("Id", ""): block for block in blocks}
    return [_state(unit, by_name.get(unit, {})) for unit in units]


def _state(unit: str, shown: dict[str, str]) -> UnitState:
    status = shown.get("ExecMainStatus", "")
    return UnitState(
        unit,
        load=shown.get("LoadState", "not-found"),
        files=tuple(Path(file) for name in ("FragmentPath", "DropInPaths") for file in shown.get(name, "").split()),
        enabled=shown.get("UnitFileState") == "enabled",
        state=shown.get("ActiveState", "unknown"),
        result=shown.get("Result", "unknown"),
        exit_status=int(status) if status.isdecimal() else None,
        status=shown.get("StatusText", ""),
    )
