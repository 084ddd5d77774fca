"""Commands to a running local cloud, through a Unix socket in its home, which only its owner can reach.

A connection carries one request, a line of JSON, and one response: ``{"error": null}``, or ``{"error": {"message",
"hint"}}``.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from hsm_enroll.errors import LocalCloudError
from hsm_enroll.local.home import Home

_TIME_LIMIT = 60.0  # seconds
_SOCKET = "control.socket"

Commands = Mapping[str, Callable[..., None]]
"""Functions by the name of their command; a request's other members are their arguments."""


class Control:
    """Carries out commands while it is entered, one at a time, in a thread of its own.

    Args:
        home: the cloud's home, which this process holds.
        commands: what can be asked for.
    """

    def __init__(self, home: Home, commands: Commands) -> None:
        self._home = home
        self._commands = commands
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def __enter__(self) -> Self:
        """Start to accept commands.

        Raises:
            OSError: the socket cannot be created.
        """
        (self._home.folder / _SOCKET).unlink(missing_ok=True)  # a process that was killed left it behind
        self._listener = socket.socket(socket.AF_UNIX)
        with _short_path(self._home) as path:
            self._listener.bind(path)
        (self._home.folder / _SOCKET).chmod(0o600)
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Wait for the command that is being carried out, and stop."""
        self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
        self._thread.join()
        self._listener.close()
        (self._home.folder / _SOCKET).unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # Closing the stream sends what is left, so it too may find that whoever asked has gone.
            with suppress(OSError, ValueError), connection, connection.makefile("rw", encoding="utf-8") as stream:
                connection.settimeout(_TIME_LIMIT)
                json.dump({"error": self._carry_out(json.loads(stream.readline()))}, stream)

    def _carry_out(self, request: dict[str, Any]) -> dict[str, str] | None:
        try:
            self._commands[request.pop("command")](**request)
        except LocalCloudError as error:
            return {"message": error.message, "hint": error.hint}
        except Exception as error:  # noqa: BLE001 - another version may ask for anything; this one goes on
            return {"message": f"The local cloud cannot carry this out: {error!r}.", "hint": restart_hint(self._home)}
        return None


def ask(home: Home, command: str, **arguments: object) -> bool:
    """Have the cloud that holds a home carry out a command, and return once it has.

    Returns:
        False if no cloud accepts commands there, such as one that is still starting.

    Raises:
        LocalCloudError: it cannot carry the command out.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw", encoding="utf-8") as stream:
            connection.settimeout(_TIME_LIMIT)
            with _short_path(home) as path:
                connection.connect(path)
            json.dump({"command": command, **arguments}, stream)
            stream.write("\n")
            stream.flush()
            answer = json.loads(stream.readline())
    except (OSError, ValueError):
        return False
    if answer["error"] is not None:
        raise LocalCloudError(answer["error"]["message"], hint=answer["error"]["hint"])
    return True


def restart_hint(home: Home) -> str:
    """Return what to do about a cloud that does not carry out commands."""
    return f"Stop it and start it again: {home.command('down')}; {home.command('up --detach')}"


@contextmanager
def _short_path(home: Home) -> Iterator[str]:
    """Yield a path to the socket that is shorter than 108 bytes, as unix(7) requires."""
    folder = os.open(home.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{_SOCKET}"
    finally:
        os.close(folder)
