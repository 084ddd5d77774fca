"""``hsm-enroll outbox``: the messages that ``forward`` has set aside, since the broker refused them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click

from hsm_enroll.cli.documents import instant
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.terminal import columns, confirm, has_person
from hsm_enroll.device import outbox as outboxes
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.iot import limits
from hsm_enroll.store import forwarder
from hsm_enroll.store.outbox import RefusedMessage

_NONE = "no message is set aside"
_HEADER = f"{'ID':>7}  {'SET ASIDE':<20}  {'BYTES':>6}  {'REASON':<20}  TOPIC"


@click.group("outbox")
def outbox() -> None:
    """The messages in the outbox that the broker has refused: hsm-enroll forward has set them aside."""


@command("refused", example="hsm-enroll outbox refused")
def refused(invocation: Invocation) -> None:
    """List the messages that the broker has refused, in the order in which they were published.

    Most often the device's policy does not allow their topic. They are kept as long as there is room in the outbox, and
    no longer than outbox_max_age. Their payloads are not shown.
    """
    messages = outboxes.refused(invocation.settings.state)
    text = _listed(messages) if messages else _NONE
    invocation.terminal.result({"messages": [_document(each) for each in messages]}, text)
    if messages:
        invocation.terminal.say("Send them again: hsm-enroll outbox retry. Delete them: hsm-enroll outbox discard")


@command("retry", example="hsm-enroll outbox retry --topic device/gateway-17/temperature")
@click.option("--topic", metavar="TOPIC", help="Only messages of this topic.")
def retry(invocation: Invocation, *, topic: str | None) -> None:
    """Put the messages that the broker has refused back into the queue, for example after the policy was corrected.

    They are sent after those that already wait, in the order in which they were published. A message that is refused
    again is set aside again. hsm-enroll forward may be running. If this is interrupted, run it again: no message is
    lost, and none is sent twice because of that.
    """
    folder = invocation.settings.state
    if topic is not None:
        limits.check_message(topic, b"")
    count = outboxes.retry(folder, topic)
    text = f"queued {_counted(count)} again" if count else _NONE + (f" for {topic}" if topic else "")
    invocation.terminal.result({"queued": count}, text, done=text)
    if count and not forwarder.is_running(folder):
        invocation.terminal.say(f"{'It waits' if count == 1 else 'They wait'}: hsm-enroll forward is not running.")


@command("discard", example="hsm-enroll outbox discard")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def discard(invocation: Invocation, *, yes: bool) -> None:
    """Delete the messages that the broker has refused; what waits to be sent stays."""
    folder, terminal = invocation.settings.state, invocation.terminal
    if not yes and (terminal.as_json or not has_person()):
        raise UsageError(
            "cannot prompt without a terminal or with --json",
            hint="Pass --yes to delete the messages without a prompt.",
        )
    messages = outboxes.refused(folder)
    if messages and not yes and not confirm(_question(messages)):
        raise InterruptedRunError("no message was deleted", declined=True)
    count = outboxes.discard(folder, messages) if messages else 0
    text = f"deleted {_counted(count)}" if count else _NONE
    terminal.result({"discarded": count}, text, done=text)


def _question(messages: list[RefusedMessage]) -> str:
    topics = {message.topic for message in messages}
    on = f"for {messages[0].topic}" if len(topics) == 1 else f"for {len(topics)} topics"
    return f"Delete {_counted(len(messages))} {on}? They have not been delivered."


def _counted(count: int) -> str:
    return f"{count} {'message' if count == 1 else 'messages'}"


def _document(message: RefusedMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "topic": message.topic,
        "bytes": message.bytes,
        "refusedAt": _time(message),
        "reason": message.reason,
    }


def _listed(messages: list[RefusedMessage]) -> str:
    """Return a table; or where a terminal is too narrow for that, entries of two lines, without a heading."""
    table = "\n".join([_HEADER, *map(_row, messages)])
    if sys.stdout.isatty() and max(map(len, table.split("\n"))) > columns(sys.stdout):
        return "\n".join(map(_entry, messages))
    return table


def _row(message: RefusedMessage) -> str:
    time = _time(message) or "not known"
    return f"{message.id:>7}  {time:<20}  {message.bytes:>6}  {message.reason:<20}  {message.topic}"


def _entry(message: RefusedMessage) -> str:
    time = _time(message) or "at an unknown time"
    return f"{message.id} {message.topic}\n  set aside {time}, {_size(message)}, {message.reason}"


def _size(message: RefusedMessage) -> str:
    return f"{message.bytes} {'byte' if message.bytes == 1 else 'bytes'}"


def _time(message: RefusedMessage) -> str | None:
    """Return when it was set aside; None if the clock was not known to be right."""
    return instant(datetime.fromtimestamp(message.at, UTC)) if message.at else None


for _command in (refused, retry, discard):
    outbox.add_command(_command)
