"""A machine that boots: a systemd-nspawn container with a network of its own, which has nothing but loopback."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_Found = TypeVar("_Found")

_ENVIRONMENT = ("HOME=/root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
_SECONDS = 300  # longer than anything takes on a busy machine; nothing here is about speed


class Machine:
    """A machine, which is off until it is booted.

    Args:
        root: the folder with its system.
        mounts: folders of this machine by their paths in the other, which can only read them.
    """

    def __init__(self, root: Path, mounts: Mapping[str, Path]) -> None:
        self.root = root
        self._mounts = [f"--bind-ro={folder}:{path}" for path, folder in mounts.items()]
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> None:
        """Boot it, and return once systemd has started everything."""
        # In a session of its own, so that Ctrl-C is pytest's alone. In a namespace of processes of its own, so that it
        # ends when pytest ends, however that ends: a container outlives a systemd-nspawn that is killed.
        with (self.root.parent / "console.log").open("ab") as console:
            self._container = container = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("systemd-nspawn", "--quiet", "-D", str(self.root), "--boot"),
                    *("--console=pipe", "--register=no", "--keep-unit", "--private-network", *self._mounts),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        manager = self.wait_for("systemd-nspawn", lambda: _child(container.pid))
        self._init = self.wait_for("the container's init", lambda: _child(manager))
        if self.wait_for("systemd", self._state) != "running":
            raise AssertionError(f"a unit of the system failed:\n{self.run('systemctl', '--failed')}")

    def cut_power(self) -> None:
        """End all of its processes at once; none of them gets a chance to do anything."""
        assert self._container is not None
        # With the first process of a namespace, the kernel ends all others.
        if self._init:
            os.kill(self._init, signal.SIGKILL)
        else:
            self._container.kill()
        self._container.wait()
        self._container, self._init = None, 0

    def end(self) -> None:
        """End it if it is running; nothing of it is left on this machine but its folder."""
        if self._container is not None:
            self.cut_power()

    def run(self, *command: str, given: str | None = None) -> str:
        """Run a command as root, and return what it prints on its standard output.

        Raises:
            AssertionError: it failed.
        """
        done = self._try(*command, given=given)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def answer(self, question: str, answer: str, *command: str) -> str:
        """Run a command as root on a terminal, answer the one question that it asks, and return what it shows.

        Raises:
            AssertionError: it failed, or did not ask.
        """
        on_terminal = ("script", "--quiet", "--return", "--command", shlex.join(command), "/dev/null")
        with subprocess.Popen(self._inside(*on_terminal), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            shown = b""
            while question.encode() not in shown and (more := os.read(process.stdout.fileno(), 4096)):
                shown += more
            with suppress(BrokenPipeError):
                process.stdin.write(f"{answer}\n".encode())
                process.stdin.flush()
            shown += process.stdout.read()
        assert process.returncode == 0, shown.decode()
        return shown.decode()

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command as root; its standard output is a pipe."""
        return subprocess.Popen(self._inside(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def journal(self) -> str:
        """Return the last lines of the journal of all boots; the machine may be off."""
        command = ("journalctl", "--quiet", "--no-pager", "--lines=300", f"--directory={self.root}/var/log/journal")
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def wait_for(self, what: str, look: Callable[[], _Found | None]) -> _Found:
        """Look again and again until there is something, and return it.

        Raises:
            AssertionError: it takes too long, or the machine has ended.
        """
        end = time.monotonic() + _SECONDS
        while not (found := look()):
            if self._container is not None and self._container.poll() is not None:
                raise AssertionError(f"the machine ended while {what} was awaited")
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come within {_SECONDS} s")
            time.sleep(0.2)
        return found

    def _state(self) -> str | None:
        """Return how the system is, once it has started."""
        state = self._try("systemctl", "is-system-running", "--wait").stdout.strip()
        return state if state in {"running", "degraded"} else None

    def _try(self, *command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        # None of this machine's own input: an empty one.
        return subprocess.run(
            self._inside(*command), input=given or "", capture_output=True, text=True, timeout=_SECONDS, check=False
        )

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._init}", "--all", "--", "env", "-i", *_ENVIRONMENT, *command]


def _child(process: int) -> int | None:
    """Return a process's one child, once it has one."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(children[0]) if children else None
