"""Who drains goes on where nobody can wake it."""

from __future__ import annotations

from pathlib import Path

from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits

_ROOMY = OutboxLimits(1024 * 1024)


def test_without_a_socket_it_looks_by_itself(tmp_path: Path) -> None:
    """Something else has the socket's name: a wait is short then; the socket is made as soon as that is possible."""
    with Outbox.open(tmp_path, _ROOMY) as outbox:
        blocker = tmp_path / "outbox.wake"
        blocker.mkdir()
        outbox.wait(600)
        outbox.interrupt()
        outbox.wait(600)
        blocker.rmdir()
        outbox.wait(600)
        assert blocker.is_socket()
        outbox.add(NewMessage("a", b"1"))
        outbox.wait(600)
