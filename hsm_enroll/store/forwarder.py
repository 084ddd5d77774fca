"""The forwarder as other processes see it: it holds ``forward.lock`` while it runs, and reports in ``forward.json``.

The report is replaced in one rename, so that a reader sees a whole one. It is not flushed to the disk: after a power
cut nobody asks how the last forwarder was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsm_enroll.errors import StateError
from hsm_enroll.store import documents, files

_FORMAT = documents.Format()
_FILE = "forward.json"
_LOCK_FILE = "forward.lock"


@dataclass(frozen=True, slots=True)
class LastError:
    """What went wrong last.

    Attributes:
        code: the error's stable code.
        message: what happened.
        at: when, with a time zone.
    """

    code: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ForwardReport:
    """What a running forwarder says about itself.

    Attributes:
        connected_since: since when it has been connected, with a time zone; None if it is not connected.
        sent: how many messages the broker has acknowledged since it was started.
        rate: how many messages a second the broker has acknowledged lately.
        last_error: what went wrong last, since it was started; None if nothing.
    """

    connected_since: datetime | None = None
    sent: int = 0
    rate: float = 0.0
    last_error: LastError | None = None

    @classmethod
    def load(cls, folder: Path) -> ForwardReport | None:
        """Read the last report; None if there is none.

        Raises:
            StateError, StateCorruptError, StateTooNewError: there is one, but it cannot be used.
        """
        return _FORMAT.load(folder / _FILE, cls._from_members)

    def save(self, folder: Path) -> None:
        """Replace the report; does *not* flush it to the disk.

        Raises:
            StateError: it cannot be written; the old one is unchanged.
        """
        file = folder / _FILE
        temporary = file.with_name(f".{_FILE}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump({"version": _FORMAT.version, **self._to_members()}, stream)
            temporary.replace(file)
        except OSError as error:
            raise StateError(f"{file} cannot be written: {error.strerror}") from error

    def _to_members(self) -> dict[str, Any]:
        error = self.last_error
        return {
            "connected_since": None if self.connected_since is None else _text(self.connected_since),
            "sent": self.sent,
            "rate": self.rate,
            "last_error": None
            if error is None
            else {"code": error.code, "message": error.message, "at": _text(error.at)},
        }

    @classmethod
    def _from_members(cls, document: dict[str, Any]) -> ForwardReport:
        members = documents.members(document, {"sent": int, "rate": float})
        since, error = document.get("connected_since"), document.get("last_error")
        return cls(
            connected_since=None if since is None else _time(since),
            sent=members["sent"],
            rate=members["rate"],
            last_error=None if error is None else _last_error(error),
        )


@dataclass(frozen=True, slots=True)
class ForwarderState:
    """Whether a forwarder runs, and what it says about itself.

    Attributes:
        is_running: whether it runs.
        report: its report; one that says nothing if none runs, or if it has not written one yet.
    """

    is_running: bool
    report: ForwardReport

    @classmethod
    def load(cls, folder: Path) -> ForwarderState:
        """Look for the forwarder of a state folder.

        Raises:
            StateError, StateCorruptError, StateTooNewError: the folder or the report cannot be used.
        """
        if not is_running(folder):
            return cls(is_running=False, report=ForwardReport())
        return cls(is_running=True, report=ForwardReport.load(folder) or ForwardReport())

    @property
    def text(self) -> str:
        """How it is, for a person; after "hsm-enroll forward is"."""
        if not self.is_running:
            return "not running"
        since = self.report.connected_since
        if since is None:
            return "running, but not connected"
        return f"connected since {since.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {self.report.rate:.0f} messages a second"


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Be the one forwarder of a state folder; no other process is, until the block ends.

    Raises:
        BusyError: another process is.
        StateError: the folder cannot be used.
    """
    with files.claimed(folder, _LOCK_FILE, f"hsm-enroll forward is running with the state folder {folder}"):
        yield


def is_running(folder: Path) -> bool:
    """Whether a forwarder runs; False if that cannot be known."""
    return files.is_claimed(folder, _LOCK_FILE)


def remove(folder: Path) -> None:
    """Remove what forwarders leave in a state folder.

    Raises:
        StateError: it cannot be removed.
    """
    for name in (_FILE, _LOCK_FILE):
        files.remove(folder / name)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _time(text: object) -> datetime:
    """Return a time that :func:`_text` has written.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(text, str) or (moment := datetime.fromisoformat(text)).tzinfo is None:
        raise ValueError("a time is damaged")
    return moment


def _last_error(document: object) -> LastError:
    members = documents.members(document, {"code": str, "message": str, "at": str})
    return LastError(members["code"], members["message"], _time(members["at"]))
