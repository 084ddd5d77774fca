"""The age of a message is what has passed since, whatever the clocks have shown meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsm_enroll.device import clock
from hsm_enroll.errors import StateError
from hsm_enroll.store.outbox import age
from hsm_enroll.store.outbox.age import Moment

_NOW = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
_UNSET = 1000.0
_AFTER_ALL = datetime(2060, 1, 1, tzinfo=UTC).timestamp()
_QUEUED = Moment(_NOW, 5000.0, "a")


@pytest.mark.parametrize(
    ("queued", "at", "seconds"),
    [
        pytest.param(_QUEUED, Moment(_NOW + 60, 5060.0, "a"), 60.0, id="nothing happened"),
        pytest.param(_QUEUED, Moment(_NOW + 86_460, 5060.0, "a"), 60.0, id="set a day ahead"),
        pytest.param(_QUEUED, Moment(_NOW - 86_340, 5060.0, "a"), 60.0, id="set a day back"),
        pytest.param(Moment(_UNSET, 50.0, "a"), Moment(_NOW, 110.0, "a"), 60.0, id="set for the first time"),
        pytest.param(_QUEUED, Moment(_NOW, 5000.0, "a"), 0.0, id="at the same moment"),
        pytest.param(_QUEUED, Moment(_NOW, 4999.9, "a"), 0.0, id="by another processor's clock"),
        pytest.param(_QUEUED, Moment(_NOW + 600, 30.0, "b"), 600.0, id="restarted"),
        pytest.param(_QUEUED, Moment(_NOW + 86_400, 30.0, "b"), 86_400.0, id="off for a day"),
        pytest.param(_QUEUED, Moment(_NOW - 3600, 30.0, "b"), 30.0, id="restarted, set back"),
        pytest.param(_QUEUED, Moment(_NOW + 10, 30.0, "b"), 30.0, id="restarted, set back by seconds"),
        pytest.param(_QUEUED, Moment(_UNSET, 30.0, "b"), 30.0, id="restarted without a clock"),
        pytest.param(_QUEUED, Moment(_NOW + 60, 5060.0, "b"), 60.0, id="in a container with a boot id of its own"),
        pytest.param(_QUEUED, Moment(_UNSET, 5060.0, "b"), 60.0, id="in a container without a clock"),
        pytest.param(_QUEUED, Moment(_NOW + 86_400, 6000.0, "b"), 86_400.0, id="restarted, and up for longer"),
        pytest.param(_QUEUED, Moment(_AFTER_ALL, 30.0, "b"), 30.0, id="restarted in the far future"),
        pytest.param(Moment(_UNSET, 50.0, "a"), Moment(_NOW, 30.0, "b"), 30.0, id="queued without a clock"),
        pytest.param(Moment(_AFTER_ALL, 50.0, "a"), Moment(_NOW, 30.0, "b"), 30.0, id="queued in the far future"),
        pytest.param(Moment(_UNSET, 50.0, "a"), Moment(_UNSET + 9, 30.0, "b"), 30.0, id="never a clock"),
    ],
)
def test_the_age_of_a_message(queued: Moment, at: Moment, seconds: float) -> None:
    """Within a boot, what has run since; else the wall clock, if it can be right; never less than a boot has lasted."""
    assert age.age(queued, at) == pytest.approx(seconds)


@pytest.mark.parametrize("year", [1970, 2000, 2025, 2026, 2048, 2049, 2100])
def test_a_clock_is_believed_as_for_certificates(year: int) -> None:
    """A wall clock that is plausible for a certificate is for a message, too, to the second."""
    for second in (-1, 0, 1):
        shown = datetime(year, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
        at = Moment(shown.timestamp(), 1.0, "b")
        believed = age.age(Moment(shown.timestamp() - 100, 1.0, "a"), at) == 100.0
        earlier = clock.is_plausible(shown - timedelta(seconds=100))
        # On the last second of 2048 the clock of certificates still says yes.
        assert believed == (clock.is_plausible(shown) and earlier)


def test_the_clocks_of_this_machine() -> None:
    """Two moments that are read one after the other are of the same boot, and in order."""
    first, second = age.now(), age.now()
    assert first.boot == second.boot
    assert len(first.boot) == 36
    assert 0.0 <= age.age(first, second) < 60.0


def test_a_boot_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc/sys is hidden, as from some systemd units, the error says what to change."""
    monkeypatch.setattr(age, "BOOT_ID", Path("/proc/missing/boot_id"))
    with pytest.raises(StateError, match="boot_id cannot be read: No such file") as caught:
        age.now()
    assert "ProcSubset" in caught.value.hint
