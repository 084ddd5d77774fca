"""``hsm-enroll recover``: this device's identity again, when the state is lost or old and the key is in the token."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial

import click

from hsm_enroll.cli.documents import identity_document, identity_text, other_keys_text
from hsm_enroll.cli.invocation import Invocation, command, token_options
from hsm_enroll.device import device_token, enrollment, outbox, recovery, wiring
from hsm_enroll.device.plan import Request
from hsm_enroll.device.recovery import Outcome
from hsm_enroll.errors import HsmEnrollError, UsageError
from hsm_enroll.store.identity import Identity
from hsm_enroll.token import login
from hsm_enroll.token.tokens import Tokens

_DOING = {
    "token": "looking for the token",
    "certificate": "asking the API which key is enrolled",
    "store": "checking and storing the certificate",
}
_ENROLLING = {
    "thing": "asking the API which Thing this TPM is",
    "key": "generating the key in the token",
    "csr": "signing the certificate request",
    "attestation": "having the TPM certify the key",
    "certificate": "requesting a certificate from the API",
    "store": _DOING["store"],
}


@command("recover", example="hsm-enroll recover --api https://api.example.com")
@click.option(
    "--api", "api_url", metavar="URL", help="Address of the enrollment API: the part of an invite before the #."
)
@click.option("--thing", metavar="NAME", help="Which Thing this device is, if the token has the keys of several.")
@token_options
def recover(invocation: Invocation) -> None:
    """Get this device's identity back, by the key in its token.

    For a device whose state folder was lost, for example with its SD card, or came from an old backup. The request is
    signed with the key, and the API returns the same certificate, Thing and endpoint: nothing is issued, and no invite
    is needed. Each key in the token that hsm-enroll generated is tried. If the identity in place is the one that the
    API has, nothing is changed. The device stays the Thing that it was: only --thing makes it another one.

    If the token has no such key any more, but is in a TPM that the API knows, the same Thing gets a new key and
    certificate.
    """
    settings = invocation.settings
    named = click.get_current_context().params["thing"]

    def progress(step: str) -> AbstractContextManager[None]:
        return invocation.terminal.step(_DOING[step])

    def enrolling(step: str) -> AbstractContextManager[None]:
        # The token was found already: it has no key.
        return nullcontext() if step == "token" else invocation.terminal.step(_ENROLLING[step])

    def api(stored: Identity | None) -> str:
        url = settings.api_url or (stored.api if stored else None)
        if url is None:
            raise UsageError(
                "no API given",
                hint="Give it with --api URL; it is the part of an invite before the #. Ask the operator for it.",
            )
        return url

    def thing(stored: Identity | None) -> str | None:
        # Only a person changes what is in place: the environment and config.toml may be older than it.
        return named or (stored.thing_name if stored else settings.thing)

    def by_tpm(stored: Identity | None) -> enrollment.Outcome:
        new_key = stored is not None
        request = Request(thing(stored), settings.key_type, settings.subject, new_key=new_key, by_tpm=True)
        at_api = settings._replace(api_url=api(stored))
        ports = wiring.ports(at_api, tokens, None, pin, audience=invocation.terminal)
        ports = replace(ports, at_pin_pad=invocation.at_pin_pad)
        return enrollment.enroll(request, settings.state, ports, enrolling)

    pin = login.once(invocation.pin)
    with Tokens() as tokens:
        ports = wiring.own_ports(settings, tokens, pin, invocation.at_pin_pad, invocation.terminal)
        find = partial(device_token.start_finding, settings, tokens)
        outcome = recovery.recover(settings.state, ports, find, api, thing, by_tpm, progress)
    document = identity_document(outcome.identity, settings.state, matches_certificate=True)
    text = identity_text(document)
    if outcome.was_there:
        text = (
            "This device is already enrolled, with the certificate that the API has; nothing was changed.\n"
            f"To test its connection: hsm-enroll doctor --online --login\n\n{text}"
        )
    document |= {"recovered": not outcome.was_there, "issued": outcome.was_issued, "otherKeys": outcome.other_keys}
    document |= {"otherThings": list(outcome.other_things), "mayBeRenewing": outcome.may_be_renewing}
    document["steps"] = [asdict(step) for step in outcome.steps]
    invocation.terminal.say("")
    invocation.terminal.result(document, text, done=f"the identity of {outcome.identity.thing_name} is recovered")
    _say_what_else_the_token_has(invocation, outcome)
    _say_what_waits(invocation)


def _say_what_else_the_token_has(invocation: Invocation, outcome: Outcome) -> None:
    if outcome.other_things:
        names = ", ".join(outcome.other_things)
        invocation.terminal.warn(f"the token also has the current key of {names}, which token prune would destroy")
    elif outcome.other_keys:
        invocation.terminal.say(f"\n{other_keys_text(outcome.other_keys)}")
    if outcome.may_be_renewing:
        invocation.terminal.say(
            "\nAnother key in the token may be that of a renewal that was lost with the state folder. If so, the API "
            "refuses hsm-enroll renew until it has undone that renewal, within an hour."
        )


def _say_what_waits(invocation: Invocation) -> None:
    try:
        held = outbox.state(invocation.settings.state)
    except HsmEnrollError as error:
        invocation.terminal.warn_of(error)
        return
    if held.messages:
        invocation.terminal.say(f"\nIn the outbox {outbox.what_waits(held)}. To send what is there: hsm-enroll forward")
