"""What the service manager is told (sd_notify(3))."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_enroll.service.notify import Manager
from tests.support.service_manager import ServiceManager


@pytest.mark.parametrize("is_abstract", [False, True])
def test_progress_is_told_to_either_kind_of_socket(is_abstract: bool, tmp_path: Path) -> None:
    """The first message says that the service runs, each one that it makes progress, and a new status what it does."""
    path = None if is_abstract else tmp_path / "socket"
    with ServiceManager(path) as manager, Manager(manager.environment) as told:
        for status in ("connecting", "connected", "connected"):
            told.progress(status)
        told.stopping()
        assert manager.receive() == ["READY=1", "WATCHDOG=1", "STATUS=connecting"]
        assert manager.receive() == ["WATCHDOG=1", "STATUS=connected"]
        assert manager.receive() == ["WATCHDOG=1"]
        assert manager.receive() == ["STOPPING=1"]


def test_a_status_is_one_line(tmp_path: Path) -> None:
    """Foreign text in a status, such as a broker's, cannot say something else to the service manager."""
    with ServiceManager(tmp_path / "socket") as manager, Manager(manager.environment) as told:
        told.progress("not connected: no\r\nMAINPID=1\n")
        assert manager.receive() == ["READY=1", "WATCHDOG=1", "STATUS=not connected: no MAINPID=1"]


def test_a_status_is_short_and_can_be_shown(tmp_path: Path) -> None:
    """systemd drops a message of more than 4096 bytes, and then the service would never be ready."""
    with ServiceManager(tmp_path / "socket") as manager, Manager(manager.environment) as told:
        told.progress("\x1b[31m\0red\u2028" + "ü" * 5000 + "\udc80")
        ready, alive, status = manager.receive()
        assert (ready, alive) == ("READY=1", "WATCHDOG=1")
        assert status.startswith("STATUS=[31m red üü")
        assert len(status.encode()) <= 1007


def test_what_could_not_be_told_is_told_again(tmp_path: Path) -> None:
    """A service manager that is not there, or has no room, is told later; the service does not wait for it."""
    with Manager({"NOTIFY_SOCKET": str(tmp_path / "socket")}) as told:
        told.progress("connected")
        with ServiceManager(tmp_path / "socket") as manager:
            told.progress("connected")
            assert manager.receive() == ["READY=1", "WATCHDOG=1", "STATUS=connected"]
            for _ in range(10_000):  # far more than the kernel keeps
                told.progress("connected")
            told.progress("lost")
            while manager.has_message():
                assert manager.receive() == ["WATCHDOG=1"]
            told.progress("lost")
            assert manager.receive() == ["WATCHDOG=1", "STATUS=lost"]


def test_without_a_service_manager_nothing_is_told() -> None:
    """Whoever runs forward in a terminal has no such socket."""
    with Manager({}) as told:
        told.progress("connected")
        told.stopping()
