"""``hsm-enroll recover``: this device's identity again, when the state folder is lost and the key is in the token."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial

import click

from hsm_enroll.cli.documents import identity_document, identity_text
from hsm_enroll.cli.invocation import Invocation, command, token_options
from hsm_enroll.device import device_token, outbox, recovery, wiring
from hsm_enroll.errors import HsmEnrollError, UsageError
from hsm_enroll.token.tokens import Tokens

_DOING = {
    "token": "looking for the token",
    "certificate": "asking the API which key is enrolled",
    "store": "checking and storing the certificate",
}


@command("recover", example="hsm-enroll recover --api https://api.example.com")
@click.option("--api", "api_url", metavar="URL", help="The enrollment API; the invite began with it.")
@token_options
def recover(invocation: Invocation) -> None:
    """Get this device's identity back, by the key in its token.

    For a device whose state folder was lost, for example with its SD card. The key proves to the API which device asks,
    and the API returns the same certificate, Thing and endpoint: nothing is issued, and no invite is needed. Each key
    in the token that hsm-enroll generated is tried. A valid identity is left as it is.
    """
    settings = invocation.settings

    def progress(step: str) -> AbstractContextManager[None]:
        return invocation.terminal.step(_DOING[step])

    def api() -> str:
        if settings.api_url is None:
            raise UsageError(
                "no API given",
                hint="Give it with --api URL; it is the part of the invite before the #. Ask the operator.",
            )
        return settings.api_url

    with Tokens() as tokens:
        ports = wiring.own_ports(settings, tokens, invocation.pin, invocation.at_pin_pad, invocation.terminal)
        find = partial(device_token.start_finding, settings, tokens)
        outcome = recovery.recover(settings.state, ports, find, api, progress)
    document = identity_document(outcome.identity, settings.state, matches_certificate=True)
    text = identity_text(document)
    if outcome.was_there:
        text = f"This device has its identity; nothing was changed.\n\n{text}"
    document |= {"recovered": not outcome.was_there, "otherKeys": outcome.other_keys}
    document["steps"] = [asdict(step) for step in outcome.steps]
    if outcome.steps:
        invocation.terminal.say("")
    invocation.terminal.result(document, text, done=f"the identity of {outcome.identity.thing_name} is recovered")
    if outcome.other_keys:
        many = "another key" if outcome.other_keys == 1 else f"{outcome.other_keys} other keys"
        invocation.terminal.say(
            f"\nThe token has {many} of hsm-enroll. To destroy those that are not used: hsm-enroll token prune"
        )
    _say_what_waits(invocation)


def _say_what_waits(invocation: Invocation) -> None:
    try:
        held = outbox.state(invocation.settings.state)
    except HsmEnrollError as error:
        invocation.terminal.warn(f"{error.message}. {error.hint}")
        return
    if held.messages:
        invocation.terminal.say(f"\nIn the outbox {outbox.what_waits(held)}. To send what is there: hsm-enroll forward")
