"""The connection as the use cases get it."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

from hsm_enroll.device import wiring
from hsm_enroll.errors import PinWrongError
from hsm_enroll.iot import ConnectionEvent
from hsm_enroll.settings import Settings
from tests.support.identities import identity

_TIME_LIMIT = 30.0


def test_an_end_is_told_even_if_its_reason_cannot_be_found(tmp_path: Path) -> None:
    """Whatever fails while an error is explained, the forwarder learns that there is no connection any more."""
    events = SimpleQueue[ConnectionEvent]()

    def refused() -> NoReturn:
        error = PinWrongError("the PIN is wrong")
        del error.message  # whoever explains it fails
        raise error

    keeper = wiring.keep(
        identity(), refused, Settings(state=tmp_path), reconnects=True, on_connection=events.put, in_background=True
    )
    try:
        event = events.get(timeout=_TIME_LIMIT)
    finally:
        keeper.close()
    assert event.state == "ended"
    assert isinstance(event.error, PinWrongError)
