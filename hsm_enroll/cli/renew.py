"""``hsm-enroll renew``: a new key and certificate for this device, showing each step with its time.

What is not due loads nothing but the identity: a timer runs it every day.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hsm_enroll.cli.documents import identity_document, identity_text, instant
from hsm_enroll.cli.invocation import Invocation, command, key_note
from hsm_enroll.device import renewal_due
from hsm_enroll.device.ports import Clock
from hsm_enroll.device.renewal_due import Due
from hsm_enroll.store.identity import Identity

if TYPE_CHECKING:
    from hsm_enroll.device.renewal import Outcome
    from hsm_enroll.secret import Secret

NOT_DUE_STATUS = 4

_DOING = {
    "token": "looking for the token",
    "challenge": "answering the API's challenge to the TPM",
    "key": "generating a new key in the token",
    "csr": "signing the certificate request",
    "attestation": "having the TPM certify the key",
    "certificate": "requesting a certificate from the API",
    "message": "sending and receiving a message with the new key",
    "commit": "making the new key the current one",
    "store": "storing the new identity",
    "cleanup": "destroying the old key",
}


@command("renew", example="hsm-enroll renew --if-due")
@click.option("--if-due", is_flag=True, help="Do nothing if no renewal is due.")
@click.option("--check", is_flag=True, help="Only say whether one is due: exit 0 if it is, 4 if not.")
def renew(invocation: Invocation, *, if_due: bool, check: bool) -> None:
    """Replace this device's key and certificate by new ones.

    The new key is generated in the token, and the request is signed with the current one, so no invite is needed.
    The old key and certificate stay in use until the new ones have sent and received a message. Then they are removed.
    After a failure, run the same command again: it resumes where it stopped.

    A renewal is due when the certificate is older than renew_after_days (config.toml; default 365) or has used up
    renew_at_lifetime_share of its lifetime (default 0.66), or when an earlier one is not finished.
    """
    if if_due and check:
        raise click.UsageError("give --if-due or --check, not both")
    identity = Identity.load(invocation.settings.state)
    if if_due or check:
        due = renewal_due.due(identity, invocation.settings, Clock().now())
        if check or not due.is_now:
            _show_due(invocation, identity, due)
            raise click.exceptions.Exit(NOT_DUE_STATUS if check and not due.is_now else 0)
    outcome = _renewed(invocation, identity)
    _show(invocation, outcome)


def _show_due(invocation: Invocation, identity: Identity, due: Due) -> None:
    document = identity_document(identity, invocation.settings.state, matches_certificate=None)
    document |= {"renewed": False, "due": due.is_now, "dueAt": instant(due.at), "steps": []}
    invocation.terminal.result(document, _text(due))


def _text(due: Due) -> str:
    if due.is_unfinished:
        return "a renewal is due: an earlier one is not finished"
    return f"a renewal is due since {due.at:%Y-%m-%d}" if due.is_now else f"no renewal is due before {due.at:%Y-%m-%d}"


def _renewed(invocation: Invocation, identity: Identity) -> Outcome:
    from hsm_enroll.device import renewal, wiring
    from hsm_enroll.token.tokens import Tokens

    settings = invocation.settings
    note = key_note(identity.token, identity.key_type)

    def progress(step: str) -> AbstractContextManager[None]:
        return invocation.terminal.step(_DOING[step], note if step == "key" else "")

    with Tokens() as tokens:
        ports = wiring.own_ports(settings, tokens, invocation.pin, invocation.at_pin_pad, invocation.terminal)
        return renewal.renew(settings.state, ports, _RoundTrip(invocation), settings.subject, progress)


def _show(invocation: Invocation, outcome: Outcome) -> None:
    identity = outcome.identity
    document: dict[str, Any] = identity_document(identity, invocation.settings.state, matches_certificate=True)
    text = identity_text(document)
    due = renewal_due.due(identity, invocation.settings, Clock().now())
    document |= {"renewed": True, "due": due.is_now, "dueAt": instant(due.at)}
    document["steps"] = [asdict(step) for step in outcome.steps]
    invocation.terminal.say("")
    invocation.terminal.result(document, text, done=f"the identity of {identity.thing_name} is renewed")


class _RoundTrip(NamedTuple):
    """The message that shows that the new certificate works; its connection has its own client id."""

    invocation: Invocation

    def prepare(self) -> None:
        """Import awscrt."""
        import_module("hsm_enroll.iot.connection")

    def send(self, identity: Identity, pin: Secret | None) -> None:
        """Connect, and have the message delivered back."""
        from hsm_enroll.cli import waiting
        from hsm_enroll.cli.terminal import keep_stdout
        from hsm_enroll.device import round_trip, wiring

        keep_stdout()
        settings = self.invocation.settings
        with (
            waiting.for_broker(self.invocation, identity, self.invocation.settings.connect_timeout),
            wiring.connect(identity, pin, settings, purpose=round_trip.PURPOSE) as connection,
        ):
            round_trip.make(connection, identity.thing_name)
        for warning in connection.fallbacks.warnings:
            self.invocation.terminal.warn(warning)
