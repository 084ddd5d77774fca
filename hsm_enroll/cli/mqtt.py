"""``hsm-enroll publish`` and ``hsm-enroll subscribe``.

In their process only awscrt loads the PKCS#11 module, and it checks nothing, so a worker examines the token first.
``publish --queue`` only writes to the disk: it uses neither token nor network.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING

import click

from hsm_enroll.cli import signals, waiting
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.terminal import Terminal, keep_stdout, visible
from hsm_enroll.device import message_line, wiring
from hsm_enroll.errors import InterruptedRunError
from hsm_enroll.iot import limits
from hsm_enroll.store import forwarder
from hsm_enroll.store.identity import Identity

if TYPE_CHECKING:
    from hsm_enroll.iot import Connection, Message


@command("publish", example="hsm-enroll publish device/gateway-17/temperature 21.5")
@click.argument("topic")
@click.argument("message", required=False)
@click.option(
    "--queue", is_flag=True, help="Put it into the outbox, from which hsm-enroll forward sends it, and return."
)
def publish(invocation: Invocation, *, topic: str, message: str | None, queue: bool) -> None:
    """Publish one message with QoS 1, and wait until the broker has it. Without MESSAGE, it is read from stdin.

    With --queue, it is on this device's disk when the command returns, and is not lost if there is no network. A
    message has at most 128 KiB. Other programs on this device can stay connected. hsm-enroll status shows the device's
    topics, and what is in the outbox.
    """
    payload = _typed(invocation.terminal) if message is None else message.encode("utf-8")
    limits.check_message(topic, payload)
    if queue:
        _queue(invocation, topic, payload)
        return
    try:
        identity = Identity.load(invocation.settings.state)
        with _connected(invocation, identity, "publish") as connection, _acknowledging(invocation, identity):
            connection.publish(topic, payload)
    except KeyboardInterrupt as error:
        hint = "Run the same command again. If the broker has the message already, it arrives twice."
        raise InterruptedRunError("interrupted", hint=hint) from error
    text = f"published {_size(payload)} to {topic}"
    invocation.terminal.result({"published": {"topic": topic, "bytes": len(payload)}}, text, done=text)


def _queue(invocation: Invocation, topic: str, payload: bytes) -> None:
    from hsm_enroll.publisher import Publisher

    try:
        with Publisher(Identity.load(invocation.settings.state)) as publisher:
            publisher.publish(topic, payload)
    except KeyboardInterrupt as error:
        hint = "Run the same command again. If the message is in the outbox already, it arrives twice."
        raise InterruptedRunError("interrupted", hint=hint) from error
    text = f"queued {_size(payload)} for {topic}"
    invocation.terminal.result({"queued": {"topic": topic, "bytes": len(payload)}}, text, done=text)
    if not forwarder.is_running(invocation.settings.state):
        invocation.terminal.say("It waits in the outbox: hsm-enroll forward is not running.")


def _size(payload: bytes) -> str:
    return f"{len(payload)} {'byte' if len(payload) == 1 else 'bytes'}"


def _typed(terminal: Terminal) -> bytes:
    """Read a message from stdin, at most one byte more than is allowed: stdin may be endless."""
    if sys.stdin.isatty():
        terminal.say("Type the message, and end it with Ctrl-D on a line of its own.")
    return sys.stdin.buffer.read(limits.LARGEST_PAYLOAD + 1)


@command("subscribe", example="hsm-enroll subscribe device/gateway-17/commands --count 1")
@click.argument("topic")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Exit after N messages.")
@click.option("--raw", is_flag=True, help="Print the payloads byte for byte, with nothing in between.")
def subscribe(invocation: Invocation, *, topic: str, count: int | None, raw: bool) -> None:
    """Print the messages on a topic, one per line, until Ctrl-C.

    If TOPIC has a wildcard, each line begins with the message's topic. With --json each line is one JSON object. Other
    programs on this device can stay connected. hsm-enroll status shows the device's topics.
    """
    terminal = invocation.terminal
    if raw and terminal.as_json:
        raise click.UsageError("give --raw or --json, not both")
    limits.check_filter(topic)
    identity = Identity.load(invocation.settings.state)
    with _connected(invocation, identity, "subscribe") as connection:
        with _acknowledging(invocation, identity):
            messages = connection.subscribe(topic)
        terminal.say(f"subscribed to {topic}")
        try:
            for message in islice(messages, count):
                _show(terminal, message, raw=raw, with_topic="+" in topic or "#" in topic)
        except KeyboardInterrupt as interruption:
            # The usual end without --count.
            raise click.exceptions.Exit(128 + signals.of(interruption)) from None


def _show(terminal: Terminal, message: Message, *, raw: bool, with_topic: bool) -> None:
    if raw:
        terminal.data(message.payload)
    elif terminal.as_json:
        terminal.data(message_line.of(message))
    else:
        text = visible(message.payload.decode("utf-8", "backslashreplace"))
        terminal.data(f"{visible(message.topic)} {text}\n" if with_topic else f"{text}\n")


def _connected(invocation: Invocation, identity: Identity, purpose: str) -> Connection:
    settings = invocation.settings
    pin = wiring.credentials(identity, invocation.pin, invocation.at_pin_pad)
    keep_stdout()
    doing = f"connecting to {settings.mqtt_endpoint or identity.mqtt_endpoint}"
    with invocation.terminal.step(doing), waiting.for_broker(invocation, identity, settings.connect_timeout):
        connection = wiring.connect(identity, pin, settings, purpose=purpose)
    for warning in connection.fallbacks.warnings:
        invocation.terminal.warn(warning)
    return connection


def _acknowledging(invocation: Invocation, identity: Identity) -> AbstractContextManager[None]:
    return waiting.for_broker(invocation, identity, invocation.settings.operation_timeout)
