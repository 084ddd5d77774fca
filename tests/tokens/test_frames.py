"""What comes over a worker's socket: whole messages, and whatever foreign code may have written instead."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_enroll.errors import ModuleUnusableError
from hsm_enroll.token import child, frames
from hsm_enroll.token.worker import Worker
from tests.tokens.worker_programs import has_ended

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_messages = st.dictionaries(st.text(), _json, max_size=3)


@contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _soon() -> float:
    return time.monotonic() + 30


def _received(*pieces: bytes) -> dict[str, Any] | None:
    """Return what comes of octets that arrive in pieces, after which the other side ends."""
    with _pair() as (ours, theirs):

        def write() -> None:
            for piece in pieces:
                theirs.sendall(piece)
            theirs.close()

        writer = Thread(target=write)
        writer.start()
        try:
            return frames.receive(ours, _soon())
        finally:
            ours.close()
            writer.join()


@given(messages=st.lists(_messages, max_size=3))
def test_messages_arrive_as_they_were_sent(messages: list[dict[str, Any]]) -> None:
    """Messages, lone surrogates of odd file names included, come out in order and unchanged, and then the end."""
    with _pair() as (ours, theirs):
        for message in messages:
            frames.send(theirs, message)
        theirs.close()
        assert [frames.receive(ours, _soon()) for _ in messages] == messages
        assert frames.receive(ours, _soon()) is None


@given(message=_messages, cut=st.integers(0, 10_000), rest=st.integers(0, 10_000))
def test_a_message_in_pieces_is_whole_or_none(message: dict[str, Any], cut: int, rest: int) -> None:
    """A message that arrives in pieces is read whole, and one that breaks off is the other side's end."""
    with _pair() as (ours, theirs):
        frames.send(theirs, message)
        octets = ours.recv(2**20)
    cut %= len(octets)
    assert _received(octets[:cut], octets[cut:]) == message
    broken = octets[: rest % len(octets)]
    assert _received(broken) is None


@given(octets=st.binary(max_size=200))
def test_any_octets_are_a_message_the_end_or_an_error(octets: bytes) -> None:
    """Whatever comes, the reader returns an object or None, or raises ValueError; it never waits on."""
    for pieces in ((octets,), (len(octets).to_bytes(4) + octets,)):
        try:
            message = _received(*pieces)
        except ValueError:
            continue
        assert message is None or isinstance(message, dict)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"7", b"\xff", b"{", b"[" * 100_000, b"", b'{"a": 1} {}'],
    ids=lambda content: content[:9],
)
def test_what_is_no_object_is_no_message(content: bytes) -> None:
    """JSON of another kind, nested beyond measure, or none at all, is refused."""
    with pytest.raises(ValueError, match="not a message"):
        _received(len(content).to_bytes(4) + content)


def test_a_length_beyond_all_measure_is_refused_at_once() -> None:
    """Four octets that announce gigabytes are not waited for."""
    with pytest.raises(ValueError, match="not a message"):
        _received(b"\xff\xff\xff\xff")


def test_a_long_message_arrives_whole() -> None:
    """A message of megabytes, far more than a socket holds, arrives, though it is read when its time is over."""
    message = {"piece": "schlüssel " * 2**18}
    with _pair() as (ours, theirs):
        writer = Thread(target=frames.send, args=(theirs, message))
        writer.start()
        ours.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert frames.receive(ours, time.monotonic() - 1) == message
        writer.join()


def test_whoever_sends_nothing_is_out_of_time() -> None:
    """Where nothing comes, and where a message breaks off without an end, the time is over."""
    with _pair() as (ours, theirs):
        with pytest.raises(TimeoutError):
            frames.receive(ours, time.monotonic() + 0.05)
        theirs.sendall(b"\0\0")
        with pytest.raises(TimeoutError):
            frames.receive(ours, time.monotonic() + 0.05)


def test_whoever_has_ended_is_no_signal(tmp_path: Path) -> None:
    """A program for which SIGPIPE has its default does not end by writing to a worker that has ended."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with _pair() as (ours, theirs):
            theirs.close()
            with pytest.raises(BrokenPipeError):
                frames.send(ours, {"module": str(tmp_path)})
    finally:
        signal.signal(signal.SIGPIPE, before)


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage from a module",
        b"\0\0\0\2{}",
        b"\0\0\0\x0e" + b'{"error": "no"}'[:14],
        *(len(content).to_bytes(4) + content for content in (
            json.dumps({"error": {"error": {"code": "of-tomorrow", "message": "", "hint": ""}}}).encode(),
            json.dumps({"error": {"code": "usage", "message": "", "hint": ""}}).encode(),
            b'{"error": null}',
        )),
    ],
    ids=["text", "empty", "cut", "nested", "without a trace", "null"],
)  # fmt: skip
def test_a_worker_that_answers_garbage_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """D5: what foreign code writes into the worker's socket is an error of the module's, now and ever after."""
    module = tmp_path / "module.so"
    module.touch()
    ours, theirs = socket.socketpair()
    process = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    monkeypatch.setattr(child, "start", lambda _: child.Child(process, ours))
    with theirs, Worker(module) as asked:
        theirs.sendall(answer)
        for _ in range(2):
            with pytest.raises(
                ModuleUnusableError, match=f"{module} corrupted the response of the process that loaded it"
            ):
                asked.request("tokens", limit=30)
    assert has_ended(process)
