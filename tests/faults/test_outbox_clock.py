"""D21: the wall clock is set, forward and back, while programs write and the forwarder runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits
from tests.support.clocks import Clock
from tests.support.forwarders import RunningForwarder
from tests.support.gateways import TOPICS, Gateway, gateway
from tests.support.processes import wait_until
from tests.support.writers import writing

_EXPIRES_AFTER = 600  # seconds
_LITTLE = 300  # this test takes far less, also on a busy machine, and a day is far more
_DAY = timedelta(days=1)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """The clock of the gateway."""
    return Clock(tmp_path / "clock")


@pytest.fixture
def enrolled(clock: Clock, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with that clock, whose messages must not become older than an hour."""
    with gateway(tmp_path) as running:
        yield running.with_environment(**clock.environment, HSM_ENROLL_OUTBOX_MAX_AGE="3600")


def test_the_clock_is_set_while_messages_wait_and_while_they_are_sent(enrolled: Gateway, clock: Clock) -> None:
    """Nothing expires before its time, by either limit, and nothing is lost; ages are those of a clock nobody sets."""
    device, broker = enrolled.device, enrolled.broker
    broker.stop()
    with (
        RunningForwarder(device) as forwarder,
        writing(device.environment, TOPICS, 60, pause=0.05, expires_after=_EXPIRES_AFTER) as writers,
    ):
        forwarder.wait_for("failed")
        for offset in (_DAY, -_DAY):
            for writer in writers:
                writer.wait_for_tries(5)
            clock.set(offset)
            outbox = device.json("status")["outbox"]
            assert (outbox["messages"] > 0, outbox["expired"], 0 <= outbox["oldestAge"] < _LITTLE) == (True, 0, True)
        broker.start()
        forwarder.wait_for("connected")
        for offset in (_DAY, -_DAY):
            clock.set(offset)
            for writer in writers:
                writer.wait_for_tries(5)
            broker.cut()
            told = forwarder.wait_for("connected", len(forwarder.events("connected")) + 1)
            assert abs(datetime.fromisoformat(told["at"]) - datetime.now(UTC) - offset) < timedelta(minutes=1)
        for writer in writers:
            writer.wait()
            broker.wait_for_all(writer.messages)
        assert forwarder.stop(signal.SIGTERM) == 143
    enrolled.check(writers)
    assert _EXPIRES_AFTER - _LITTLE < min(broker.expiries) <= max(broker.expiries) <= _EXPIRES_AFTER


def test_what_expires_does_although_the_clock_was_set_back(enrolled: Gateway, clock: Clock) -> None:
    """A message that may wait a second expires after one, also if the clock then shows the day before."""
    device, broker = enrolled.device, enrolled.broker
    with Outbox.open(device.home, OutboxLimits(max_bytes=2**20)) as outbox:
        outbox.add(NewMessage(TOPICS[0], b"1", expires_after=1.0), NewMessage(TOPICS[0], b"2"))
    clock.set(-_DAY)
    wait_until(lambda: device.json("status")["outbox"]["oldestAge"] > 1.0, "a second", device.home / "identity.json")
    with RunningForwarder(device) as forwarder:
        broker.wait_for(1)
        assert forwarder.stop(signal.SIGTERM) == 143
    assert broker.payloads(TOPICS[0]) == [b"2"]
    outbox_state = device.json("status")["outbox"]
    assert (outbox_state["messages"], outbox_state["expired"]) == (0, 1)
