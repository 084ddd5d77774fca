"""The scripts that complete hsm-enroll's commands and options in a shell, as click generates them."""

from __future__ import annotations

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from hsm_enroll.cli import app

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


def scripts() -> dict[str, str]:
    """Return the script for each shell."""
    return {
        shell: ShellComplete.source(generator(app, {}, "hsm-enroll", "_HSM_ENROLL_COMPLETE"))
        for shell, generator in _SHELLS.items()
    }
