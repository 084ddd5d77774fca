"""``hsm-enroll`` on a terminal: what a person sees there, and types."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from types import TracebackType
from typing import Self

from tests.support.devices import Machine

_TIME_LIMIT = 60.0
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A terminal of its own for one command, which is killed at the end of the block if it still runs.

    Args:
        machine: where the command runs.
        arguments: the command line after ``hsm-enroll``.
        columns: the terminal's width.
        environment: what is added to the machine's.
    """

    def __init__(self, machine: Machine, *arguments: str, columns: int = 80, **environment: str) -> None:
        self._primary, secondary = pty.openpty()
        fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
        # setsid makes it the controlling terminal, which is where prompts go.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", sys.executable, "-m", "hsm_enroll", *arguments],
            env={**machine.environment, "TERM": "xterm", "LANG": "C.UTF-8", **environment},
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            start_new_session=True,
        )
        os.close(secondary)
        self.raw = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._primary)

    @property
    def text(self) -> str:
        """What has been shown so far, without escape sequences."""
        return _ESCAPE_SEQUENCE.sub("", self.raw).replace("\r\n", "\n")

    def expect(self, text: str) -> None:
        """Wait until a text is shown."""
        while text not in self.text:
            assert self._read(), f"{text!r} is not in:\n{self.text}"

    def type(self, text: str) -> None:
        """Type a text; ``\\n`` is Enter, ``\\x04`` Ctrl-D."""
        os.write(self._primary, text.encode())

    def end(self) -> int:
        """Wait for the end of the command, and return its exit status."""
        while self._read():
            pass
        return self._process.wait(_TIME_LIMIT)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._primary], [], [], _TIME_LIMIT)
        assert ready, f"nothing more came after:\n{self.text}"
        try:
            chunk = os.read(self._primary, 65536)
        except OSError:
            # The other end has been closed.
            return False
        self.raw += chunk.decode(errors="replace")
        return bool(chunk)
