"""Messages for local programs: what they read, what is counted, and what becomes of a failure."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hsm_enroll.device import message_line
from hsm_enroll.device.relaying import Relay
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.iot import Message
from hsm_enroll.iot.exchange import Exchange
from hsm_enroll.iot.link import Link
from hsm_enroll.iot.target import Target

_TIME_LIMIT = 30.0
_TARGET = Target("gateway-17", "gateway-17", "", Path("/module"), "token", "key", "localhost", 8883, None)


class _Link:
    """A link whose broker grants every subscription."""

    accepts_qos_0_only = False

    def __init__(self) -> None:
        self.ended: Future[None] = Future()

    def request(self, _what: str, _send: object) -> Future[Any]:
        """Grant it."""
        granted: Future[Any] = Future()
        granted.set_result(SimpleNamespace(reason_codes=[1]))
        return granted


class _Line:
    """A line that is connected."""

    def __init__(self) -> None:
        self.exchange = Exchange(_TARGET, reconnects=True)
        self.link = _Link()
        self.exchange.use(cast("Link", self.link), 1.0)


class _World:
    """A relay, its line and its socket."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "messages.sock"
        self.relay = Relay(["a/#"], self.path, 1.0)
        self.line = _Line()
        self.subscribed, self.failed = threading.Event(), threading.Event()

    def tell(self, _topic: str, _error: HsmEnrollError | None) -> None:
        """Note that it is subscribed."""
        self.subscribed.set()

    def connect(self) -> socket.socket:
        """Connect a program."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(_TIME_LIMIT)
        made.connect(str(self.path))
        return made


def test_a_program_gets_what_comes_from_its_connection_on(tmp_path: Path) -> None:
    """Not what came before, which is counted; the lines are those of ``subscribe --json``, in order."""
    world = _World(tmp_path)
    with world.relay.running(world.tell, lambda _: None, world.failed.set):
        world.relay.use(world.line)
        assert world.subscribed.wait(_TIME_LIMIT)
        world.line.exchange.deliver(Message("a/0", b"early"))
        while not world.relay.unread:
            world.failed.wait(0.01)
        messages = [Message("a/1", "dünn".encode()), Message("a/2", b"\xff"), Message("a/1", b"")]
        with world.connect() as program, program.makefile("r") as lines:
            for message in messages:
                world.line.exchange.deliver(message)
            assert [lines.readline() for _ in messages] == [message_line.of(message) for message in messages]
    assert (world.relay.received, world.relay.unread) == (4, 1)
    assert not world.failed.is_set()
    world.relay.wake()  # the line may have an event after the end


def test_a_mistake_of_our_own_ends_it_and_is_raised(tmp_path: Path) -> None:
    """Programs would wait for messages that never come; whoever has started it is told, and restarts it."""
    world = _World(tmp_path)

    def serve() -> None:
        with world.relay.running(world.tell, lambda _: None, world.failed.set):
            world.relay.use(world.line)
            assert world.subscribed.wait(_TIME_LIMIT)
            world.line.exchange.deliver(Message("a/1", cast("bytes", "text")))
            assert world.failed.wait(_TIME_LIMIT)

    with pytest.raises(AttributeError):
        serve()


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (b"open", '{"topic": "a/b", "payload": "open"}\n'),
        (b"1\n2", '{"topic": "a/b", "payload": "1\\n2"}\n'),
        ("ü".encode(), '{"topic": "a/b", "payload": "\\u00fc"}\n'),
        (b"\xff\x00", '{"topic": "a/b", "payloadBase64": "/wA="}\n'),
    ],
)
def test_a_message_is_one_line(payload: bytes, line: str) -> None:
    """Whatever is in it; a payload that is not UTF-8 is in base64."""
    assert message_line.of(Message("a/b", payload)) == line
