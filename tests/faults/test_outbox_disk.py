"""D21: a small disk that fills up under several programs that write and the forwarder that drains."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.iot.device import EnrolledDevice
from tests.support.forwarders import RunningForwarder
from tests.support.gateways import TOPICS, Gateway, gateway
from tests.support.processes import wait_until
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.writers import Writer, writing

_SIZE = 32_000  # bytes of a message
_COUNT = 150  # messages of each program: more than there is room for
_ROOM = "12m"
_TIMES = 3


@pytest.fixture
def enrolled(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that is enrolled."""
    with gateway(tmp_path) as running:
        yield running


@pytest.fixture
def disk(enrolled: Gateway, tmp_path: Path) -> Iterator[SmallDisk]:
    """The disk with its state folder."""
    with small_disk(tmp_path / "disk", enrolled.device.home, _ROOM) as mounted:
        yield mounted


@pytest.fixture
def cramped(enrolled: Gateway, disk: SmallDisk) -> Gateway:
    """The gateway, with its state on that disk."""
    return enrolled.on(disk)


@pytest.mark.parametrize("filler", ["others", "the outbox"])
def test_a_disk_that_is_full_while_programs_write_and_while_it_is_drained(
    cramped: Gateway, disk: SmallDisk, filler: str
) -> None:
    """Each message is refused, with the reason, or delivered, in order; all is sent though no block is free.

    Where the outbox itself has filled the disk, it gives that back.
    """
    device, broker = cramped.device, cramped.broker
    broker.stop()
    with writing(device.environment, TOPICS, _COUNT, pause=0.01, size=_SIZE, prefix=device.prefix) as writers:
        if filler == "others":
            for writer in writers:
                writer.wait_for_added(_COUNT // 5)
            disk.fill()
        for writer in writers:
            writer.wait_for_refused(1)
        with RunningForwarder(device) as forwarder:
            forwarder.wait_for("failed")
            forwarder.kill()
        queued = {message for writer in writers for message in writer.messages}
        broker.start()
        with RunningForwarder(device) as forwarder:
            broker.wait_for_all(queued)
            wait_until(lambda: _waiting(device) < len(queued) // 4, "their removal", device.home / "identity.json")
            if filler == "others":
                disk.free()
            for writer in writers:
                writer.wait()
                broker.wait_for_all(writer.messages)
            assert forwarder.stop(signal.SIGTERM) == 143
    _check(cramped, writers)


def _waiting(device: EnrolledDevice) -> int:
    return int(device.json("status")["outbox"]["messages"])


def test_others_fill_and_free_the_disk_again_and_again(cramped: Gateway, disk: SmallDisk) -> None:
    """Whatever the disk does meanwhile: nothing is lost, and writing and sending work again whenever there is room."""
    device, broker = cramped.device, cramped.broker
    with (
        RunningForwarder(device) as forwarder,
        writing(device.environment, TOPICS, _COUNT, pause=0.02, size=_SIZE, prefix=device.prefix) as writers,
    ):
        forwarder.wait_for("connected")
        for _ in range(_TIMES):
            disk.fill()
            for writer in writers:
                writer.wait_for_tries(20)
            disk.free()
            for writer in writers:
                writer.wait_for_tries(20)
        for writer in writers:
            writer.wait()
            broker.wait_for_all(writer.messages)
        assert forwarder.stop(signal.SIGTERM) == 143
    _check(cramped, writers)
    assert not forwarder.events("lost")


def _check(gateway: Gateway, writers: list[Writer]) -> None:
    gateway.check(writers)
    problems = {problem for writer in writers for problem in writer.refused.values()}
    assert all(problem.endswith(("the disk is full", "No space left on device")) for problem in problems)
