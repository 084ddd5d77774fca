"""``hsm-enroll retire``: the end of this device's identity, in the cloud, in the token and on the disk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial

import click

from hsm_enroll.cli.documents import other_keys_text
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.terminal import Terminal, confirm, has_person
from hsm_enroll.device import pin, retirement, wiring
from hsm_enroll.errors import InterruptedRunError, TokenNotFoundError, UsageError
from hsm_enroll.store.retirement import Retirement
from hsm_enroll.token.tokens import Tokens

_DOING = {
    "token": "looking for the token",
    "cloud": "retiring the Thing in the cloud",
    "destroy": "destroying the key in the token",
    "forget": "removing the identity from this device",
}


@command("retire", example="hsm-enroll retire")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def retire(invocation: Invocation, *, yes: bool) -> None:
    """Take this device out of service, in the cloud and here.

    The certificate is deactivated and deleted, the key is destroyed in the token, and the state folder's identity is
    removed, with the messages that are still in the outbox. The token and its PIN stay. If the API cannot be reached,
    the device does its own half, says what the operator has to do, and exits with 34. After an interruption, run the
    same command again: it resumes. If the token is gone, it asks whether to remove the identity without it, even with
    --yes.
    """
    terminal, settings = invocation.terminal, invocation.settings

    def progress(step: str) -> AbstractContextManager[None]:
        return terminal.step(_DOING[step])

    with Tokens() as tokens:
        ports = wiring.own_ports(settings, tokens, invocation.pin, invocation.at_pin_pad, terminal)
        agree, give_up = partial(_agree, terminal, yes=yes), partial(_give_up, terminal)
        outcome = retirement.retire(settings.state, ports, agree, give_up, progress)
    retired = outcome.retirement
    done = f"{retired.thing_name} is retired"
    document = {
        "retired": True,
        "thingName": retired.thing_name,
        "token": str(retired.token.uri),
        "otherKeys": outcome.other_keys,
        "lostMessages": outcome.lost_messages,
        "steps": [asdict(step) for step in outcome.steps],
    }
    terminal.say("")
    text = f"{done}: its certificate is deactivated, and its key "
    text += "is destroyed." if outcome.has_destroyed else "went with the token: it was not destroyed."
    if pin.load_owner(settings.state) is not None:
        text += f"\nThe token {retired.token.label!r} stays, and so does its PIN in {settings.state}."
    if outcome.other_keys:
        text += f"\n{other_keys_text(outcome.other_keys)}"
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
    what = f"its certificate and its key in token {begun.token.label!r} are deleted for good"
    question = f"This retires {begun.thing_name}: {what}."
    if lost:
        question += f" Also, {lost}. To have them sent first, answer no, and run: hsm-enroll forward"
    if not confirm(f"{question}\n\nRetire this device for good?"):
        raise InterruptedRunError("nothing was changed", declined=True)


def _lost(messages: int | None) -> str:
    """Return what is lost with the outbox; "" if it is empty."""
    if messages is None:
        return "the outbox cannot be read, and the messages in it are lost"
    if messages == 1:
        return "1 message that waits in the outbox is lost"
    return f"{messages} messages that wait in the outbox are lost" if messages else ""


def _give_up(terminal: Terminal, error: TokenNotFoundError) -> None:
    """Ask whether the token is gone for good; ``--yes`` does not say so, as it may only be unplugged."""
    error.hint = (
        "Connect it, then run the same command again. If it is gone for good, run hsm-enroll retire on a terminal: it "
        "asks whether to remove the identity without destroying the key."
    )
    if terminal.as_json or not has_person():
        raise error
    what = f"{error.message}.\n\nIf the token is gone for good, the identity can be removed without its key."
    if not confirm(f"{what}\n\nRemove the identity, and leave the key in the token?"):
        raise error
