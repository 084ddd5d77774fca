"""When the wall clock is believed: not before something has set it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hsm_enroll.store.outbox import age, wall
from hsm_enroll.store.outbox.age import Moment

_NOW = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
_BUILT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("shown", "synchronized", "hardware", "is_right"),
    [
        pytest.param(_NOW, True, None, True, id="set by NTP"),
        pytest.param(_NOW, True, 0.0, True, id="set by NTP, hardware clock without a battery"),
        pytest.param(_NOW, False, _NOW - 3600.0, True, id="hardware clock with the local time"),
        pytest.param(_BUILT, False, None, False, id="the date at which systemd was built"),
        pytest.param(_BUILT, False, 17.0, False, id="the same, hardware clock without a battery"),
    ],
)
def test_a_clock_that_nobody_has_set_is_not_believed(
    shown: float, synchronized: bool, hardware: float | None, is_right: bool
) -> None:
    """The network has set it, or it agrees with a hardware clock that goes on while the device is off."""
    assert wall.is_right(shown, synchronized=synchronized, hardware=hardware) == is_right


def test_what_is_queued_before_the_clock_is_set_does_not_expire_when_it_is() -> None:
    """A gateway starts at the date at which systemd was built, queues a message, and has the right time afterwards."""
    queued = Moment(0.0, 50.0, "a")
    assert age.age(queued, Moment(_NOW, 30.0, "b")) == 30.0
    assert age.age(Moment(_NOW, 50.0, "a"), Moment(0.0, 30.0, "b")) == 30.0


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Where the system says something about its clock, which it does not yet."""
    monkeypatch.setattr(wall, "SYNCHRONIZED", tmp_path / "synchronized")
    monkeypatch.setattr(wall, "HARDWARE_CLOCK", tmp_path / "since_epoch")
    return lambda: tmp_path


def test_it_is_believed_as_soon_as_it_is_set(files: Callable[[], Path]) -> None:
    """timesyncd's mark, once it is there, is enough; and it need not stay."""
    (files() / "synchronized").touch()
    clock = wall.Wall(lambda: False)
    assert clock.now() > _BUILT
    (files() / "synchronized").unlink()
    assert clock.now() > _BUILT


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("says_so", [False, True])
def test_the_kernel_is_believed(says_so: bool) -> None:
    """chrony and ntpd tell the kernel alone; without anybody the time is 0, which no clock shows."""
    assert (wall.Wall(lambda: says_so).now() > _BUILT) == says_so


@pytest.mark.parametrize("content", ["", "junk", "17\n"])
def test_a_hardware_clock_that_says_nothing_useful_is_not_believed(files: Callable[[], Path], content: str) -> None:
    """Whatever the file holds, that is no error."""
    (files() / "since_epoch").write_text(content)
    assert wall.Wall(lambda: False).now() == 0.0


def test_a_hardware_clock_that_agrees_is_believed(files: Callable[[], Path]) -> None:
    """A gateway with a battery and without a network knows the time."""
    (files() / "since_epoch").write_text(f"{datetime.now(UTC).timestamp():.0f}\n")
    assert wall.Wall(lambda: False).now() > _BUILT


def test_the_kernel_can_be_asked() -> None:
    """This machine's has an answer, whatever it is."""
    assert wall.kernel_says_so() in {False, True}
