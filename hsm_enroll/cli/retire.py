"""``hsm-enroll retire``: the end of this device's identity, in the cloud, in the token and on the disk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial

import click

from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.terminal import Terminal, confirm, has_person
from hsm_enroll.device import pin, retirement, wiring
from hsm_enroll.errors import InterruptedRunError, UsageError
from hsm_enroll.store.retirement import Retirement
from hsm_enroll.token.tokens import Tokens

_DOING = {
    "token": "looking for the token",
    "cloud": "having the Thing retired in the cloud",
    "destroy": "destroying the key in the token",
    "forget": "removing the identity from this device",
}


@command("retire", example="hsm-enroll retire")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def retire(invocation: Invocation, *, yes: bool) -> None:
    """Give this device's identity up, in the cloud and on this device.

    The certificate is deactivated and deleted, the key is destroyed in the token, and the state folder's identity is
    removed, with the messages that are still in the outbox. The token and its PIN stay. If the API cannot be told, the
    device does its own half, says what the operator has to do, and exits with 34. After an interruption, run the same
    command again: it resumes.
    """
    terminal, settings = invocation.terminal, invocation.settings

    def progress(step: str) -> AbstractContextManager[None]:
        return terminal.step(_DOING[step])

    with Tokens() as tokens:
        ports = wiring.own_ports(settings, tokens, invocation.pin, invocation.at_pin_pad, terminal)
        outcome = retirement.retire(settings.state, ports, partial(_agree, terminal, yes=yes), progress)
    retired = outcome.retirement
    done = f"{retired.thing_name} is retired"
    document = {
        "retired": True,
        "thingName": retired.thing_name,
        "token": str(retired.token.uri),
        "lostMessages": outcome.lost_messages,
        "steps": [asdict(step) for step in outcome.steps],
    }
    terminal.say("")
    text = f"{done}: its certificate is off, and its key is destroyed."
    if pin.load_owner(settings.state) is not None:
        text += f"\nThe token {retired.token.label!r} stays, and so does its PIN in {settings.state}."
    terminal.result(document, text, done=done)


def _agree(terminal: Terminal, begun: Retirement, messages: int | None, *, yes: bool) -> None:
    lost = _lost(messages)
    if yes:
        if lost:
            terminal.warn(lost)
        return
    if terminal.as_json or not has_person():
        raise UsageError(
            "cannot prompt without a terminal or with --json",
            hint="Pass --yes to retire the device without a prompt.",
        )
    what = f"This retires {begun.thing_name}: its certificate and its key in token {begun.token.label!r} are lost."
    if lost:
        what += f" Also, {lost}. To have them sent first, answer no, and run: hsm-enroll forward"
    if not confirm(f"{what}\n\nRetire this device for good?"):
        raise InterruptedRunError("nothing was changed", declined=True)


def _lost(messages: int | None) -> str:
    """Return what is lost with the outbox; "" if it is empty."""
    if messages is None:
        return "the outbox cannot be read, and the messages in it are lost"
    if messages == 1:
        return "1 message that waits in the outbox is lost"
    return f"{messages} messages that wait in the outbox are lost" if messages else ""
