"""What the pictures show: a technician's first commands, on a gateway and against a cloud of the scenes' own."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from terminals.tmux import Shown, Tmux

WIDTHS = (80, 40)
READERS_HOME = "/home/you"

# What belongs to another device or another terminal.
_NOT_OURS = ("HSM_ENROLL_", "TPM2_PKCS11_", "TMUX", "COLUMNS", "LINES")


class Scene(NamedTuple):
    """A command on a terminal.

    Attributes:
        name: the picture's name.
        command: the command as the picture shows it.
        on_new_gateway: whether each run is on a gateway that has a token, and nothing else.
        status: the exit status that it has to have.
    """

    name: str
    command: str
    on_new_gateway: bool = False
    status: int = 0


# Those of the enrolled gateway come first: a new one takes its place.
SCENES = (
    Scene("status", "hsm-enroll status"),
    Scene("doctor", "hsm-enroll doctor --online"),
    Scene("invite-qr", "hsm-enroll invite create --thing 'gateway-2*' --qr"),
    Scene("init", "hsm-enroll init @invite", on_new_gateway=True),
    Scene("init-failing", "hsm-enroll init @used", on_new_gateway=True, status=31),
)


class Stage:
    """Where the scenes are played.

    Args:
        home: the home folder of whoever types the commands.
        tmux: their terminal.
        environment: their environment.
    """

    def __init__(self, home: Path, tmux: Tmux, environment: Mapping[str, str]) -> None:
        self._home = home
        self._tmux = tmux
        self._environment = dict(environment)
        self._number = 16
        self._enrolled = self._gateway()
        self._call(self._enrolled, "hsm-enroll", "init", "@invite")

    def play(self, scene: Scene, columns: int, *, colour: bool = True) -> Shown:
        """Run the scene's command, and return what the reader of a picture sees below the prompt.

        Raises:
            RuntimeError: the command ended with another exit status than the scene's.
        """
        environment = self._gateway() if scene.on_new_gateway else self._enrolled
        plain = {} if colour else {"NO_COLOR": "1"}
        shown = self._tmux.run(f"cd {shlex.quote(str(self._home))} && {scene.command}", columns, **environment, **plain)
        if shown.status != scene.status:
            raise RuntimeError(f"{scene.command} ended with {shown.status}:\n{shown.ansi}")
        return shown._replace(ansi=f"$ {scene.command}\n{shown.ansi.replace(str(self._home), READERS_HOME)}")

    def _gateway(self) -> dict[str, str]:
        """Make a gateway with a token, and an invite for it; the invite of the first one, which has used it, stays."""
        # All gateways look alike: the earlier ones are moved out of the way.
        place, invite = self._home / "gateway", self._home / "invite"
        if place.exists():
            place.rename(self._home / f"gateway-{self._number}")
            if not (self._home / "used").exists():
                invite.rename(self._home / "used")
        self._number += 1
        (place / "tokens").mkdir(parents=True)
        (place / "softhsm2.conf").write_text(f"directories.tokendir = {place}/tokens\n")
        environment = {"SOFTHSM2_CONF": str(place / "softhsm2.conf"), "HSM_ENROLL_HOME": str(place / "state")}
        self._call(environment, "hsm-enroll", "token", "create", "--label", "gateway")
        invite.write_text(
            self._call(environment, "hsm-enroll", "invite", "create", "--thing", f"gateway-{self._number}")
        )
        return environment

    def _call(self, environment: Mapping[str, str], *command: str) -> str:
        return _output(self._home, {**self._environment, **environment}, *command)


@contextmanager
def stage() -> Iterator[Stage]:
    """Start a cloud, and a terminal beside it; both end with the block."""
    home = _short_home()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    environment = {**ours, "PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}
    cloud = home / "cloud"
    try:
        _output(home, environment, "hsm-enroll", "local", "up", "--auth", "invite", "--detach", "--home", str(cloud))
        environment |= json.loads(
            _output(home, environment, "hsm-enroll", "local", "env", "--json", "--home", str(cloud))
        )
        with Tmux(home, environment) as tmux:
            yield Stage(home, tmux, environment)
    finally:
        _output(home, environment, "hsm-enroll", "local", "down", "--home", str(cloud))
        shutil.rmtree(home)


def _short_home() -> Path:
    """Make a home folder whose name is as long as the one that pictures show, so that lines are wrapped alike."""
    while True:
        home = Path("/tmp", secrets.token_hex(2))  # noqa: S108 - made with mode 0700, and only if it is new
        try:
            home.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return home


def _output(folder: Path, environment: Mapping[str, str], *command: str) -> str:
    return subprocess.run(
        command, cwd=folder, env=dict(environment), check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout
