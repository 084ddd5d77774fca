"""Outbox and forwarder as processes, on a real token, with a broker, a network and a token that fail.

``scripts/kill-matrix --outbox`` does all of it in one run, with 10,000 messages.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.duplicates import Repeated, explained
from tests.support.forwarders import RunningForwarder
from tests.support.gateways import TOPICS, Gateway, gateway
from tests.support.outbox_ordeal import Durations, Ordeal, endure
from tests.support.processes import wait_until
from tests.support.recording import End, RecordingBroker, Session
from tests.support.writers import writing

_KILLS = 4


@pytest.fixture
def enrolled(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that is enrolled."""
    with gateway(tmp_path) as running:
        yield running


def test_forwarders_and_writers_that_are_killed_lose_nothing(enrolled: Gateway) -> None:
    """D21: killed at random while four processes write: all arrives, in order, and twice only what was in flight."""
    enrolled.broker.latency = 0.05  # or hardly anything would be in flight
    with (
        writing(enrolled.device.environment, TOPICS, 400, pause=0.01) as writers,
        Ordeal(enrolled, writers) as ordeal,
    ):
        for _ in range(_KILLS):
            for fault in ordeal.kills:
                ordeal.suffer(ordeal.kills, fault)
        account = ordeal.end()
    assert {each.end for each in account.repeated} <= {End.VANISHED}
    assert len(account.repeated) <= _KILLS
    assert account.added <= account.delivered <= account.added + _KILLS


def test_all_faults_one_after_another(tmp_path: Path) -> None:
    """``scripts/kill-matrix --outbox`` with few messages and short outages: each fault happens, and nothing is lost."""
    told: list[str] = []
    account = endure(tmp_path, 200, Durations(pause=0.4, outage=0.5, stopped=0.5), told.append)
    assert account.added == 200
    assert account.added <= account.delivered <= account.added + account.refused + account.unclear
    assert set(account.faults) == {
        "broker stopped", "broker deaf", "broker mute", "connection half-open", "connection cut", "token away",
        "disk full", "clock a day forward", "clock a day back", "forwarder killed", "writer killed",
    }  # fmt: skip
    assert len(told) == 5 + 5 * 6
    assert re.search(r"^added +200$", account.text, re.MULTILINE)


@pytest.mark.parametrize("fault", ["stopped", "frozen", "deaf", "mute"])
def test_a_broker_that_fails_for_a_while_costs_nothing(enrolled: Gateway, fault: str) -> None:
    """D21: stopped, half-open, or accepting without an answer: the forwarder goes on by itself afterwards."""
    # Another one than for messages.
    device, broker = enrolled.device.with_environment(HSM_ENROLL_CONNECT_TIMEOUT="3"), enrolled.broker
    with RunningForwarder(device) as forwarder, writing(device.environment, TOPICS, 60, pause=0.05) as writers:
        forwarder.wait_for("connected")
        broker.wait_for(20)
        _begin(broker, fault)
        forwarder.wait_for("lost")
        if fault in {"mute", "stopped"}:
            failed = forwarder.wait_for("failed")["error"]["message"]
            assert fault == "stopped" or re.search(r"no broker answers at .* within (2\.\d|3) s", failed)
        if fault == "deaf":
            forwarder.wait_for("lost", 2)
        _end(broker, fault)
        forwarder.wait_for("connected", 2)
        for writer in writers:
            writer.wait()
            broker.wait_for_all(writer.messages)
        assert forwarder.stop(signal.SIGINT) == 130
    repeated = enrolled.check(writers)
    assert {each.end for each in repeated} <= {End.FAILED}
    # Nothing tells the device that a deaf broker has taken a message.
    assert fault != "deaf" or sum(each.unacknowledged for each in repeated) > 0


def _begin(broker: RecordingBroker, fault: str) -> None:
    if fault == "stopped":
        broker.stop()
    elif fault == "frozen":
        broker.freeze()
    elif fault == "deaf":
        broker.is_deaf = True
    else:
        broker.is_mute = fault == "mute"
        broker.cut()


def _end(broker: RecordingBroker, fault: str) -> None:
    broker.is_deaf = broker.is_mute = False
    if fault == "stopped":
        broker.start()


def test_a_token_that_comes_back_is_used_again(enrolled: Gateway) -> None:
    """D7: without the token there is no connection; when it is back, the forwarder logs in again and goes on."""
    device, broker, softhsm = enrolled.device, enrolled.broker, enrolled.softhsm
    away = softhsm.folder / "away"
    with RunningForwarder(device) as forwarder, writing(device.environment, TOPICS, 30, pause=0.1) as writers:
        forwarder.wait_for("connected")
        softhsm.tokens.rename(away)
        softhsm.tokens.mkdir(mode=0o700)
        broker.cut()
        failed = forwarder.wait_for("failed")
        codes = {"token-not-found", "token-refused", "key-missing"}
        assert failed["error"]["code"] in codes

        def is_shown() -> bool:
            shown = device.json("status", status=11)["forward"]
            told = shown["lastError"] or {}
            return (shown["running"], shown["connected"]) == (True, False) and told.get("code") in codes

        # It is written at most once a second.
        wait_until(is_shown, "a report of the failure", device.home / "forward.json")
        softhsm.tokens.rmdir()
        away.rename(softhsm.tokens)
        forwarder.wait_for("connected", 2)
        for writer in writers:
            writer.wait()
            broker.wait_for_all(writer.messages)
        assert forwarder.stop(signal.SIGTERM) == 143
    enrolled.check(writers)


def test_a_forwarder_that_starts_before_the_network_waits_for_it(enrolled: Gateway) -> None:
    """At boot there may be no network yet: the forwarder starts nevertheless, and connects when there is one."""
    enrolled.broker.stop()
    assert enrolled.device.run("publish", "--queue", TOPICS[0], "0").returncode == 0
    with RunningForwarder(enrolled.device) as forwarder:
        assert forwarder.wait_for("failed")["error"]["code"] == "mqtt-unreachable"
        enrolled.broker.start()
        forwarder.wait_for("connected")
        enrolled.broker.wait_for(1)
        assert forwarder.events("lost") == []
        assert forwarder.stop(signal.SIGTERM) == 143


def test_a_wrong_pin_ends_it(enrolled: Gateway) -> None:
    """D1: one try, then it ends with the error's status, so that a service manager can tell it from an outage."""
    with RunningForwarder(enrolled.device.with_environment(HSM_ENROLL_PIN="wrong-pin")) as forwarder:
        assert forwarder.wait() == 12


# How the duplicates are explained


def _session(numbers: str, acknowledged: int, end: End | None) -> Session:
    return Session([("t", number.encode()) for number in numbers], acknowledged, end)


def test_what_was_in_flight_at_a_kill_explains_duplicates() -> None:
    """The last messages of a connection may come again: those without a PUBACK, and those not removed in time."""
    sessions = [_session("abcd", 3, End.VANISHED), _session("cde", 3, End.CLOSED), _session("f", 1, None)]
    assert explained(sessions) == [Repeated(End.VANISHED, unacknowledged=1, acknowledged=1)]


@pytest.mark.parametrize(
    ("sessions", "problem"),
    [
        ([_session("aa", 2, End.FAILED)], "twice over one connection"),
        ([_session("ab", 2, End.CLOSED), _session("b", 1, None)], "closed by the device"),
        ([_session("abc", 0, End.FAILED), _session("b", 1, None)], "not the last ones"),
    ],
    ids=["one connection", "an orderly end", "not the last"],
)
def test_other_duplicates_are_mistakes(sessions: list[Session], problem: str) -> None:
    """A message that came again although it had been removed, or although nothing was lost, is not explained."""
    with pytest.raises(AssertionError, match=problem):
        explained(sessions)
