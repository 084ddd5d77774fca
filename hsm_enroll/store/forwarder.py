"""The forwarder as other processes see it: it holds ``forward.lock`` while it runs, and reports in ``forward.json``.

The report is replaced in one rename, so that a reader sees a whole one. It is not flushed to the disk: after a power
cut nobody asks how the last forwarder was.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsm_enroll.errors import BusyError, StateError
from hsm_enroll.store import documents, files

_FORMAT = documents.Format()
_FILE = "forward.json"
_TEMPORARY_FILE = f".{_FILE}.tmp"
_LOCK_FILE = "forward.lock"
# A forwarder reports at least this often, whatever happens; not more often, since flash memory wears out.
BEAT_SECONDS = 60.0
_SILENT_SECONDS = 3 * BEAT_SECONDS


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
        repeated: how many messages were sent again, since the connection was lost before their acknowledgement.
        last_error: what went wrong last, since it was started; None if nothing.
        received: how many messages have arrived for local programs since it was started.
        unread: how many of these were dropped since no program was connected.
        at: when it was saved, in seconds since this machine was started; None if it was not.
    """

    connected_since: datetime | None = None
    sent: int = 0
    rate: float = 0.0
    last_error: LastError | None = None
    received: int = 0
    unread: int = 0
    repeated: int = 0
    at: float | None = field(default=None, compare=False)

    @classmethod
    def load(cls, folder: Path) -> ForwardReport | None:
        """Read the last report; None if there is none.

        Raises:
            StateError, StateCorruptError, StateTooNewError: there is one, but it cannot be used.
        """
        return _FORMAT.load(folder / _FILE, cls._from_members)

    def save(self, folder: Path) -> None:
        """Replace the report, and note the time in it; does *not* flush it to the disk.

        On a full disk, about which somebody may want to know, the last report is overwritten instead.

        Raises:
            StateError: it cannot be written; the old one is unchanged.
        """
        file = folder / _FILE
        text = json.dumps({"version": _FORMAT.version, **self._to_members(), "at": _uptime()}).encode("ascii")
        try:
            try:
                _replace(file, text)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not file.exists():
                    raise
                _overwrite(file, text)
        except OSError as error:
            raise StateError(f"{file} cannot be written: {error.strerror}") from error

    def _to_members(self) -> dict[str, Any]:
        error = self.last_error
        return {
            "connected_since": None if self.connected_since is None else _text(self.connected_since),
            "sent": self.sent,
            "rate": self.rate,
            "received": self.received,
            "unread": self.unread,
            "repeated": self.repeated,
            "last_error": None
            if error is None
            else {"code": error.code, "message": error.message, "at": _text(error.at)},
        }

    @classmethod
    def _from_members(cls, document: dict[str, Any]) -> ForwardReport:
        counts = {"received": 0, "unread": 0, "repeated": 0}  # which came later
        known = {"sent": int, "rate": float, **dict.fromkeys(counts, int)}
        members = documents.members({**counts, **document}, known)
        since, error = document.get("connected_since"), document.get("last_error")
        return cls(
            connected_since=None if since is None else _time(since),
            sent=members["sent"],
            rate=members["rate"],
            last_error=None if error is None else _last_error(error),
            received=members["received"],
            unread=members["unread"],
            repeated=members["repeated"],
            at=None if document.get("at") is None else documents.members(document, {"at": float})["at"],
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
    def is_responding(self) -> bool:
        """Whether it runs and, as far as that is known, has reported lately: what it reports is of no use otherwise."""
        at = self.report.at
        return self.is_running and (at is None or _uptime() - at < _SILENT_SECONDS)

    @property
    def text(self) -> str:
        """How it is, for a person; after "hsm-enroll forward is"."""
        if not self.is_running:
            return "not running"
        if not self.is_responding:
            return "running, but not responding"
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
    with ExitStack() as stack:
        try:
            busy = f"hsm-enroll forward is running with the state folder {folder}"
            stack.enter_context(files.claimed(folder, _LOCK_FILE, busy))
        except BusyError as error:
            error.hint = "One is enough for all programs of this device. It runs until it is stopped."
            raise
        yield


def is_running(folder: Path) -> bool:
    """Whether a forwarder runs; False if that cannot be known."""
    return files.is_claimed(folder, _LOCK_FILE)


def remove(folder: Path) -> None:
    """Remove what forwarders leave in a state folder.

    Raises:
        StateError: it cannot be removed.
    """
    for name in (_FILE, _TEMPORARY_FILE, _LOCK_FILE):
        files.remove(folder / name)


def _replace(file: Path, text: bytes) -> None:
    temporary = file.with_name(_TEMPORARY_FILE)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text)
    temporary.replace(file)


def _overwrite(file: Path, text: bytes) -> None:
    """Write into the blocks that a file has, in one call; what is left of them is blanks."""
    with file.open("rb+", buffering=0) as stream:
        stream.write(text.ljust(os.fstat(stream.fileno()).st_size))


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # unlike the wall clock, nobody sets it


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")  # an error and the next connection are told apart


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
