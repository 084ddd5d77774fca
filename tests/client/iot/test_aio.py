"""The connection for asyncio: what coroutines wait for, with no thread per message."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll import ConnectionEvent, ConnectionState, Identity, Secret, aio
from hsm_enroll.errors import MqttError, MqttUnreachableError, PinWrongError, UsageError
from tests.client.iot.apart import apart
from tests.client.iot.device import EnrolledDevice, enrolled_device
from tests.support import scripted
from tests.support.authority import Authority
from tests.support.broker import Broker
from tests.support.cable import cable
from tests.support.scripted import CONNECT, SUBSCRIBE, Packet
from tests.support.softhsm import PIN, SoftHsm

Program = Callable[[Identity, str], Coroutine[Any, Any, Any]]


@pytest.fixture
def device(
    identity: Identity, broker: Broker, authority: Authority, softhsm: SoftHsm, tmp_path: Path
) -> EnrolledDevice:
    """An enrolled device whose broker is there."""
    return enrolled_device(identity, broker.port, authority, softhsm, tmp_path)


def _run(device: EnrolledDevice, program: Program) -> Any:
    """Run a program on the device, in a process of its own."""
    return apart(_in_environment, device.environment, device.home, program)


def _in_environment(environment: dict[str, str], home: Path, program: Program) -> Any:
    os.environ.clear()
    os.environ.update(environment)
    identity = Identity.load(home)
    return asyncio.run(program(identity, f"device/{identity.thing_name}/x"))


def test_messages_are_awaited_one_by_one(device: EnrolledDevice) -> None:
    """Messages come in order, by iterating and by receive with and without a time limit; nothing else waits for it."""
    assert _run(device, _receive) == [None, b"0", b"1", b"2", None]


async def _receive(identity: Identity, topic: str) -> list[bytes | None]:
    async with aio.connect(identity) as connection:
        messages = await connection.subscribe(topic)
        assert messages.topic == topic
        received = [await messages.receive(timeout=0.1)]
        waiting = asyncio.create_task(messages.receive())
        for number in range(3):
            await connection.publish(topic, str(number).encode())
        received += [await waiting]
        async for message in messages:
            received.append(message)
            if message.payload == b"2":
                break
        received += [await messages.receive(timeout=0)]
        return [None if message is None else message.payload for message in received]


def test_many_messages_are_under_way_without_threads(device: EnrolledDevice) -> None:
    """A hundred coroutines publish and receive at once, and there are no more threads than for one."""
    payloads, threads = _run(device, _crowd)
    assert payloads == {str(number).encode() for number in range(100)}
    assert threads == 0


async def _crowd(identity: Identity, topic: str) -> tuple[set[bytes], int]:
    async with aio.connect(identity) as connection:
        messages = await connection.subscribe(topic)
        before = threading.active_count()
        receiving = [asyncio.create_task(messages.receive()) for _ in range(100)]
        await asyncio.gather(*(connection.publish(topic, str(number).encode()) for number in range(100)))
        received = await asyncio.gather(*receiving)
        return {message.payload for message in received}, threading.active_count() - before


def test_leaving_the_blocks_ends_what_waits(device: EnrolledDevice) -> None:
    """After its block a subscription just ends; who waits when the connection is closed stops waiting."""
    assert _run(device, _leave) == ([], [])


async def _leave(identity: Identity, topic: str) -> tuple[list[bytes], list[bytes]]:
    async with aio.connect(identity) as connection:
        async with await connection.subscribe(topic) as left:
            pass
        after_block = [message.payload async for message in left]
        with pytest.raises(MqttError, match="has ended"):
            await left.receive()
        kept = await connection.subscribe(topic)
        waiting = asyncio.create_task(_all(kept))
    after_close = await waiting
    with pytest.raises(MqttError, match="is closed"):
        await connection.publish(topic, b"x")
    return after_block, after_close


async def _all(messages: aio.Subscription) -> list[bytes]:
    return [message.payload async for message in messages]


def test_an_outage_is_told_in_the_event_loop(device: EnrolledDevice) -> None:
    """A reconnecting connection comes back with its subscriptions, and the callback runs in the loop's thread."""
    with cable(int(device.cloud["HSM_ENROLL_MQTT_PORT"])) as laid:
        device = device.at(laid.port)
        cutting = threading.Thread(target=_cut_when_asked, args=(device.folder, laid.cut))
        os.mkfifo(device.folder / "cut")
        cutting.start()
        heard, states, in_loop = _run(device, _outage)
        cutting.join()
    assert (heard, in_loop) == (b"after", True)
    assert (states[:2], states[-1]) == (["connected", "lost"], "resumed")


def _cut_when_asked(folder: Path, cut: Callable[[], None]) -> None:
    (folder / "cut").read_bytes()
    cut()


async def _outage(identity: Identity, topic: str) -> tuple[bytes, list[str], bool]:
    events: list[tuple[ConnectionEvent, bool]] = []
    resumed = asyncio.Event()

    def note(event: ConnectionEvent) -> None:
        events.append((event, threading.current_thread() is threading.main_thread()))
        if event.state is ConnectionState.RESUMED:
            resumed.set()

    async with aio.connect(identity, reconnect=True, on_connection=note) as connection:
        messages = await connection.subscribe(topic)
        (Path(os.environ["HOME"]) / "cut").write_bytes(b"")
        await resumed.wait()
        await connection.publish(topic, b"after")
        message = await messages.receive()
    return message.payload, [str(event.state) for event, _ in events], all(in_loop for _, in_loop in events)


def test_errors_are_raised_where_they_are_awaited(device: EnrolledDevice) -> None:
    """A wrong PIN is an error of connect, a topic that is none one of publish, before anything is sent."""
    _run(device, _fail)


async def _fail(identity: Identity, topic: str) -> None:
    with pytest.raises(PinWrongError):
        async with aio.connect(identity, pin=Secret("not-the-pin")):
            pass
    async with aio.connect(identity, pin=PIN) as connection:
        with pytest.raises(UsageError, match="wildcard"):
            await connection.publish(f"{topic}/#", b"")


def test_waiting_for_the_broker_has_a_time_limit(device: EnrolledDevice, authority: Authority) -> None:
    """D19: a broker that does not acknowledge is an error after the timeout; who is cancelled stops waiting at once."""

    def script(packet: Packet) -> bytes:
        if packet.type == CONNECT:
            return scripted.connack(0)
        return scripted.suback(packet, 1) if packet.type == SUBSCRIBE else b""

    context = scripted.tls(authority.issue_pair("server", ["localhost"]), authority.certificate)
    with scripted.serving(script, context) as port:
        _run(device.at(port).with_environment(HSM_ENROLL_OPERATION_TIMEOUT="1"), _wait_in_vain)


async def _wait_in_vain(identity: Identity, topic: str) -> None:
    async with aio.connect(identity) as connection:
        with pytest.raises(MqttUnreachableError, match=r"did not acknowledge publishing to .* within 0\.2 s"):
            await connection.publish(topic, b"x", timeout=0.2)
        with pytest.raises(MqttUnreachableError, match="within 1 s"):  # the setting
            await connection.publish(topic, b"x")
        publishing = asyncio.create_task(connection.publish(topic, b"x"))
        receiving = asyncio.create_task((await connection.subscribe(topic)).receive())
        for task in (publishing, receiving):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def test_a_cancelled_connect_that_fails_is_silent(device: EnrolledDevice) -> None:
    """A coroutine that is cancelled while it connects raises CancelledError alone; asyncio reports no lost error."""
    assert _run(device, _cancel_failing) == []


async def _cancel_failing(identity: Identity, topic: str) -> list[str]:
    asked, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    reported: list[str] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))

    def pin(_: object) -> Secret:
        loop.call_soon_threadsafe(asked.set)
        go.wait()
        raise ValueError(topic)

    async def use() -> None:
        async with aio.connect(identity, pin=pin):
            raise AssertionError(topic)

    connecting = asyncio.create_task(use())
    await asked.wait()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    go.set()
    await loop.shutdown_default_executor()
    for _ in range(3):  # until the thread's error has gone through every future
        await asyncio.sleep(0)
    gc.collect()
    return reported


def test_cancelling_connect_leaves_no_connection(device: EnrolledDevice, broker: Broker) -> None:
    """A coroutine that is cancelled while it connects leaves the device disconnected."""
    _run(device, _cancel)
    broker.log.wait_for(f"Received DISCONNECT from {device.thing}")


async def _cancel(identity: Identity, topic: str) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def pin(_: object) -> Secret:
        loop.call_soon_threadsafe(asked.set)
        return PIN

    async def use() -> None:
        async with aio.connect(identity, pin=pin):
            raise AssertionError(topic)

    connecting = asyncio.create_task(use())
    await asked.wait()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
