"""A real terminal, tmux's, in which one command after the other runs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_ROWS = 120
_ENDED = re.compile(r"^ended (\d+)\s*\Z", re.MULTILINE)


class Shown(NamedTuple):
    """What a command left on the screen.

    Attributes:
        ansi: the lines as they stand there, with escape sequences for the colours.
        overflowed: the lines that were longer than the terminal is wide, so that the terminal broke them.
        status: the command's exit status.
    """

    ansi: str
    overflowed: list[str]
    status: int


class Tmux:
    """A server of tmux, which ends with the block.

    Args:
        folder: where its socket is.
        environment: all of its commands' environment.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._socket = folder / "tmux"
        self._environment = dict(environment)

    def __enter__(self) -> Self:
        self._call("start-server", ";", "set", "-g", "exit-empty", "off")
        self._call("set", "-g", "default-terminal", "tmux-256color")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call("kill-server")

    def run(self, command: str, columns: int, **environment: str) -> Shown:
        """Run a command to its end.

        Args:
            command: a shell's command line.
            columns: the terminal's width.
            environment: what is added to the environment.
        """
        variables = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        # The shell stays, so that the screen does; the signal may come before the last lines are on the screen.
        whole = f"{command}\nprintf 'ended %d' $?; tmux wait-for -S ended; read -r _"
        self._call("new-session", "-d", "-s", "it", "-x", str(columns), "-y", str(_ROWS), *variables, whole)
        self._call("wait-for", "ended")
        while not (end := _ENDED.search(self._screen("-J"))):
            pass
        ansi = self._screen("-e")
        ansi = ansi[: ansi.rindex("ended ")]
        overflowed = [line for line in self._screen("-J").splitlines() if len(line) > columns]
        self._call("kill-session", "-t", "it")
        return Shown(ansi.rstrip("\n") + "\n", overflowed, int(end[1]))

    def _screen(self, how: str) -> str:
        lines = self._call("capture-pane", how, "-p", "-t", "it").splitlines()
        return "".join(f"{line.rstrip()}\n" for line in lines).rstrip("\n")

    def _call(self, *words: str) -> str:
        command = ["tmux", "-u", "-S", str(self._socket), "-f", "/dev/null", *words]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout
