"""``hsm-enroll publish`` and ``hsm-enroll subscribe``.

In their process only awscrt loads the PKCS#11 module, and it checks nothing, so a worker examines the token first.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.terminal import keep_stdout
from hsm_enroll.device import wiring
from hsm_enroll.errors import InterruptedRunError
from hsm_enroll.store.identity import Identity

if TYPE_CHECKING:
    from hsm_enroll.iot import Connection


@command("publish", example="hsm-enroll publish device/gateway-17/temperature 21.5")
@click.argument("topic")
@click.argument("message", required=False)
def publish(invocation: Invocation, *, topic: str, message: str | None) -> None:
    """Publish one message with QoS 1, and wait until the broker has it. Without MESSAGE, it is read from stdin.

    Other programs on this device can stay connected. hsm-enroll status shows the device's topics.
    """
    payload = sys.stdin.buffer.read() if message is None else message.encode("utf-8", "surrogateescape")
    with _connected(invocation, "publish") as connection:
        connection.publish(topic, payload)
    text = f"published {len(payload)} bytes to {topic}"
    invocation.terminal.result({"published": {"topic": topic, "bytes": len(payload)}}, text)


@command("subscribe", example="hsm-enroll subscribe device/gateway-17/commands --count 1")
@click.argument("topic")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Exit after N messages.")
def subscribe(invocation: Invocation, *, topic: str, count: int | None) -> None:
    """Print the messages on a topic, one per line, until Ctrl-C.

    Other programs on this device can stay connected. hsm-enroll status shows the device's topics.
    """
    received: list[dict[str, Any]] = []
    terminal, interrupted = invocation.terminal, False
    with _connected(invocation, "subscribe") as connection:
        messages = connection.subscribe(topic)
        terminal.say(f"subscribed to {topic}")
        try:
            for message in islice(messages, count):
                text = message.payload.decode("utf-8", "replace")
                received.append({"topic": message.topic, "payload": text})
                if not terminal.as_json:
                    terminal.data(text + "\n")
        except KeyboardInterrupt:
            # The usual end without --count: the messages received so far are printed.
            interrupted = True
    if terminal.as_json:
        terminal.result({"messages": received}, "")
    if interrupted:
        raise click.exceptions.Exit(InterruptedRunError.exit_status)


def _connected(invocation: Invocation, purpose: str) -> Connection:
    settings = invocation.settings
    identity = Identity.load(settings.state)
    pin = wiring.credentials(identity, invocation.pin, invocation.at_pin_pad)
    keep_stdout()
    with invocation.terminal.step(f"connecting to {settings.mqtt_endpoint or identity.mqtt_endpoint}"):
        connection = wiring.connect(identity, pin, settings, purpose=purpose)
    for warning in connection.fallbacks.warnings:
        invocation.terminal.warn(warning)
    return connection
