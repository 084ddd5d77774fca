"""The library's Publisher: what it promises to a program, and what it refuses."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from hsm_enroll import (
    Identity,
    NotEnrolledError,
    OutboxFullError,
    Properties,
    Publisher,
    StateTooNewError,
    UsageError,
)
from hsm_enroll.store import identity as stored
from hsm_enroll.store.outbox import Outbox, OutboxLimits, OutboxState, QueuedMessage, age, exists, remove
from tests.client.conftest import RunPython
from tests.support.identities import identity

_TOPIC = "device/gateway-7/temperature"
_TIME_LIMIT = 60.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of an enrolled device, which the environment names."""
    for name in [name for name in os.environ if name.startswith("HSM_ENROLL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HSM_ENROLL_HOME", str(tmp_path))
    identity().save(tmp_path)
    return tmp_path


def _held(folder: Path) -> list[QueuedMessage]:
    with Outbox.open(folder, OutboxLimits(max_bytes=2**40)) as outbox:
        return outbox.next(0, 10_000)


def _state(folder: Path) -> OutboxState:
    with Outbox.open(folder, OutboxLimits(max_bytes=2**40)) as outbox:
        return outbox.state()


def test_a_message_is_in_the_outbox_with_all_that_belongs_to_it(home: Path) -> None:
    """Topic, payload, retain, expiry and properties are kept; what is not given is nothing."""
    properties = Properties("text/plain", "device/gateway-7/answers", b"\x00\xff", (("unit", "°C"), ("unit", "K")))
    with Publisher(Identity.load()) as publisher:
        publisher.publish(_TOPIC, b"21.5")
        publisher.publish(_TOPIC, b"\x00\xff", retain=True, expires_after=3600, properties=properties)
    plain, full = _held(home)
    assert (plain.topic, plain.payload, plain.retain, plain.expires_in) == (_TOPIC, b"21.5", False, None)
    assert plain.properties == Properties()
    assert (full.topic, full.payload, full.retain, full.properties) == (_TOPIC, b"\x00\xff", True, properties)
    assert full.expires_in is not None
    assert 3500 < full.expires_in <= 3600


def test_a_message_outlasts_the_program(home: Path, run_python: RunPython) -> None:
    """D21: a program that is killed right after publish has lost nothing."""
    program = (
        "import os, signal, sys\n"
        "from hsm_enroll import Identity, Publisher\n"
        "publisher = Publisher(Identity.load())\n"
        f"publisher.publish({_TOPIC!r}, b'21.5')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run_python(program).wait(_TIME_LIMIT) == -9
    assert [message.payload for message in _held(home)] == [b"21.5"]


def test_threads_may_share_a_publisher(home: Path) -> None:
    """Each thread's messages are there, in its order."""

    def publish(publisher: Publisher, name: int) -> None:
        for number in range(50):
            publisher.publish(f"{_TOPIC}/{name}", str(number).encode())

    with Publisher(Identity.load()) as publisher:
        threads = [threading.Thread(target=publish, args=(publisher, name)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_TIME_LIMIT)
    held = _held(home)
    for name in range(4):
        own = [int(message.payload) for message in held if message.topic == f"{_TOPIC}/{name}"]
        assert own == list(range(50))


def test_a_program_may_fork_while_it_publishes(home: Path) -> None:
    """Parent and children go on with the same publisher, also if a thread was in the middle of a write."""
    stop = threading.Event()
    written = 0

    def publish(publisher: Publisher) -> None:
        nonlocal written
        while not stop.is_set():
            publisher.publish(f"{_TOPIC}/parent", b"x")
            written += 1

    with Publisher(Identity.load()) as publisher:
        thread = threading.Thread(target=publish, args=(publisher,))
        thread.start()
        children = [_fork(partial(publisher.publish, f"{_TOPIC}/child", b"x")) for _ in range(20)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 20
        stop.set()
        thread.join(_TIME_LIMIT)
        publisher.publish(f"{_TOPIC}/end", b"x")
    topics = [message.topic.rpartition("/")[2] for message in _held(home)]
    assert (topics.count("parent"), topics.count("child"), topics.count("end")) == (written, 20, 1)


def _fork(run: Callable[[], object]) -> int:
    if child := os.fork():
        return child
    status = 1
    try:
        run()
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"topic": "a/#"}, "wildcard"),
        ({"topic": ""}, "empty"),
        ({"payload": bytes(128 * 1024 + 1)}, "larger than 128 KiB"),
        ({"expires_after": 0}, "cannot expire after 0 s"),
        ({"expires_after": -1.0}, "cannot expire"),
        ({"expires_after": math.nan}, "cannot expire"),
        ({"expires_after": math.inf}, "cannot expire"),
        ({"expires_after": 2.0**32}, "cannot expire"),
        ({"properties": Properties(response_topic="a/+")}, "wildcard"),
        ({"properties": Properties(content_type="text\0plain")}, "content type is not valid: it contains a NUL"),
        ({"properties": Properties(content_type="\udcff")}, "content type is not valid: it is not UTF-8"),
        ({"properties": Properties(user_properties=(("unit", "x" * 65536),))}, "value of the user property 'unit'"),
        ({"properties": Properties(user_properties=(("a\0", "x"),))}, "name of the user property"),
        ({"properties": Properties(correlation_data=bytes(65536))}, "correlation data has more than 65535 bytes"),
        ({"payload": [1, 2]}, "the message is not bytes but list"),
        ({"payload": "21.5"}, "the message is not bytes but str"),
        ({"payload": 5}, "the message is not bytes but int"),
        ({"payload": memoryview(bytes(2**17 + 4)).cast("I")}, "larger than 128 KiB"),
        ({"topic": b"a"}, "it is not text but bytes"),
        ({"topic": None}, "it is not text but NoneType"),
        ({"expires_after": "5"}, "cannot expire after '5' s"),
        ({"properties": {"content_type": "a"}}, "the properties are dict"),
        ({"properties": Properties(content_type=5)}, "content type is not valid: it is not text but int"),  # type: ignore[arg-type]
        ({"properties": Properties(correlation_data="a")}, "correlation data is not bytes but str"),  # type: ignore[arg-type]
        ({"properties": Properties(user_properties=(("a", 1),))}, "it is not text but int"),  # type: ignore[arg-type]
        ({"properties": Properties(user_properties=(("a", None),))}, "value of the user property 'a' is not valid"),  # type: ignore[arg-type]
        ({"properties": Properties(user_properties=("ab",))}, "'ab' is not a user property"),  # type: ignore[arg-type]
        ({"properties": Properties(user_properties=None)}, "None is not a user property"),  # type: ignore[arg-type]
        ({"properties": Properties(correlation_data=[])}, "correlation data is not bytes but list"),  # type: ignore[arg-type]
        ({"properties": Properties(response_topic=5)}, "it is not text but int"),  # type: ignore[arg-type]
    ],
)
def test_what_mqtt_or_aws_iot_does_not_accept_is_not_queued(home: Path, arguments: dict[str, object], why: str) -> None:
    """A message that could never be sent is wrong usage at once, and not in the outbox."""
    with Publisher(Identity.load()) as publisher, pytest.raises(UsageError, match=why):
        publisher.publish(**{"topic": _TOPIC, "payload": b"x", **arguments})  # type: ignore[arg-type]
    assert _held(home) == []


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        (bytearray(b"21.5"), b"21.5"),
        (memoryview(b"21.5")[1:], b"1.5"),
        (memoryview(bytes(range(64)) * 2048).cast("I"), bytes(range(64)) * 2048),
    ],
    ids=["bytearray", "memoryview", "numbers"],
)
def test_a_payload_may_be_in_any_buffer_of_bytes(home: Path, payload: bytearray | memoryview, content: bytes) -> None:
    """Its bytes are queued, however many items it has."""
    with Publisher(Identity.load()) as publisher:
        publisher.publish(_TOPIC, payload)
    assert [message.payload for message in _held(home)] == [content]


def test_the_largest_properties_are_accepted(home: Path) -> None:
    """What MQTT can send is queued."""
    longest = "x" * 65535
    with Publisher(Identity.load()) as publisher:
        publisher.publish(_TOPIC, bytes(128 * 1024), expires_after=2**32 - 1)
        publisher.publish(_TOPIC, b"", properties=Properties(longest, "a", longest.encode(), ((longest, longest),)))
    assert len(_held(home)) == 2


def test_a_full_outbox_refuses_new_messages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default keeps what is there: the error says what to do, and may pass by itself."""
    monkeypatch.setenv("HSM_ENROLL_OUTBOX_BYTES", str(1024**2))
    with Publisher(Identity.load()) as publisher:
        for number in range(8):
            publisher.publish(_TOPIC, bytes([number]) * (128 * 1024 - 1000))
        with pytest.raises(OutboxFullError) as caught:
            publisher.publish(_TOPIC, bytes(128 * 1024 - 1000))
        publisher.publish(_TOPIC, b"small")
    assert (caught.value.code, caught.value.retryable) == ("outbox-full", True)
    assert "hsm-enroll forward" in caught.value.hint
    assert [message.payload[0] for message in _held(home)] == [*range(8), ord("s")]


def test_a_full_outbox_may_drop_the_oldest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With drop-oldest the newest messages are there, and the others are counted."""
    monkeypatch.setenv("HSM_ENROLL_OUTBOX_BYTES", str(1024**2))
    monkeypatch.setenv("HSM_ENROLL_OUTBOX_WHEN_FULL", "drop-oldest")
    with Publisher(Identity.load()) as publisher:
        for number in range(20):
            publisher.publish(_TOPIC, bytes([number]) * (128 * 1024 - 1000))
    assert [message.payload[0] for message in _held(home)] == list(range(12, 20))
    assert _state(home).dropped == 12


def test_messages_that_are_too_old_make_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are older than outbox_max_age have expired, also for a publisher whose outbox is full."""
    monkeypatch.setenv("HSM_ENROLL_OUTBOX_BYTES", str(1024**2))
    monkeypatch.setenv("HSM_ENROLL_OUTBOX_MAX_AGE", "60")
    start = age.now()
    with Publisher(Identity.load()) as publisher:
        for seconds, payload in ((0, b"old"), (30, b"newer")):
            monkeypatch.setattr(age, "now", lambda at=start.running + seconds: start._replace(running=at))
            for _ in range(4):
                publisher.publish(_TOPIC, payload.ljust(128 * 1024 - 1000))
        monkeypatch.setattr(age, "now", lambda: start._replace(running=start.running + 61))
        publisher.publish(_TOPIC, b"newest".ljust(128 * 1024 - 1000))
    assert [message.payload.strip() for message in _held(home)] == [b"newer"] * 4 + [b"newest"]
    assert (_state(home).expired, _state(home).messages) == (4, 5)


def test_the_program_may_change_its_working_directory(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative HSM_ENROLL_HOME is that of the moment when the publisher was made."""
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("HSM_ENROLL_HOME", home.name)
    with Publisher(Identity.load()) as publisher:
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        publisher.publish(_TOPIC, b"x")
    assert len(_held(home)) == 1


def test_a_device_without_an_identity_has_no_outbox(home: Path) -> None:
    """Nobody could send the messages: neither a new publisher nor one that was there before accepts any."""
    own = Identity.load()
    with Publisher(own) as publisher:
        stored.remove(home)
        with pytest.raises(NotEnrolledError, match="not enrolled any more"):
            publisher.publish(_TOPIC, b"x")
    with pytest.raises(NotEnrolledError):
        Publisher(own)


def test_an_outbox_does_not_outlive_the_identity(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is retired in the middle of a publish is not left with a new outbox, and the program is told."""
    now = age.now

    def retired() -> age.Moment:
        stored.remove(home)
        remove(home)
        return now()

    with Publisher(Identity.load()) as publisher:
        publisher.publish(_TOPIC, b"x")
        monkeypatch.setattr(age, "now", retired)  # it is read after the identity has been looked for
        with pytest.raises(NotEnrolledError, match="not enrolled any more"):
            publisher.publish(_TOPIC, b"y")
    assert not exists(home)


def test_another_things_identity_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its messages would be sent as the Thing of the configured folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    identity(thing_name="gateway-8").save(elsewhere)
    with pytest.raises(UsageError, match=r"this identity is gateway-8's, and the outbox in .* is gateway-7's"):
        Publisher(Identity.load(elsewhere))


def test_a_renewed_identity_is_the_same_thing(home: Path) -> None:
    """A publisher outlasts the renewal of the key."""
    with Publisher(Identity.load()) as publisher:
        identity(key_label="hsm-enroll-0100", key_id=b"\x01\x00").save(home)
        publisher.publish(_TOPIC, b"x")
    assert len(_held(home)) == 1


def test_an_outbox_of_a_newer_version_is_refused(home: Path) -> None:
    """It is left as it is."""
    Publisher(Identity.load()).close()
    with closing(sqlite3.connect(home / "outbox.db")) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(StateTooNewError):
        Publisher(Identity.load())


def test_a_closed_publisher_says_so(home: Path) -> None:
    """Closing twice does no harm; publishing afterwards is wrong usage."""
    with Publisher(Identity.load()) as publisher:
        publisher.close()
    with pytest.raises(UsageError, match="this publisher is closed"):
        publisher.publish(_TOPIC, b"x")
    assert _held(home) == []


def test_it_prints_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A library is silent, also about a damaged outbox that was set aside."""
    (home / "outbox.db").write_bytes(b"not a database" * 100)
    with Publisher(Identity.load()) as publisher:
        publisher.publish(_TOPIC, b"x")
    assert capfd.readouterr() == ("", "")
    assert len(_state(home).damaged_files) == 1


def test_publishing_loads_neither_network_nor_token(run_python: RunPython) -> None:
    """A sensor's program stays small: no awscrt, no requests, no cryptography, no worker."""
    program = (
        "import sys\n"
        "from hsm_enroll import Identity, Publisher\n"
        f"with Publisher(Identity.load()) as publisher: publisher.publish({_TOPIC!r}, b'x')\n"
        "print(*sys.modules)\n"
    )
    loaded = set(run_python(program).communicate(timeout=_TIME_LIMIT)[0].split())
    assert "hsm_enroll.publisher" in loaded
    assert loaded & {"awscrt", "requests", "cryptography", "pkcs11", "boto3", "click", "hsm_enroll.token"} == set()
