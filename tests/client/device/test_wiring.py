"""The connection as the use cases get it."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn

import pytest

from hsm_enroll.device import wiring
from hsm_enroll.errors import PinWrongError
from hsm_enroll.iot import ConnectionEvent
from hsm_enroll.settings import Settings
from tests.support.identities import TOKEN, identity

_TIME_LIMIT = 30.0


def test_an_end_is_told_even_if_its_reason_cannot_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails while the token is examined, the forwarder learns that there is no connection any more."""
    monkeypatch.setenv("TPM2_PKCS11_TCTI", "device:/dev/null")
    monkeypatch.setenv("TPM2_PKCS11_STORE", "/" + "x" * 300)
    device = identity(token=TOKEN._replace(module=Path("/nowhere/libtpm2_pkcs11.so")))
    events = SimpleQueue[ConnectionEvent]()

    def refused() -> NoReturn:
        raise PinWrongError("the PIN is wrong")

    keeper = wiring.keep(
        device, refused, Settings(state=tmp_path), reconnects=True, on_connection=events.put, in_background=True
    )
    try:
        event = events.get(timeout=_TIME_LIMIT)
    finally:
        keeper.close()
    assert event.state == "ended"
    assert isinstance(event.error, PinWrongError)
