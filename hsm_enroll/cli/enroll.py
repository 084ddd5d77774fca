"""``hsm-enroll init``: from a token to the first message, showing each step with its time."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import click

from hsm_enroll.backend_api.invite import Invite, parse
from hsm_enroll.cli import asking, waiting
from hsm_enroll.cli.documents import identity_document, identity_text
from hsm_enroll.cli.invocation import Invocation, command, key_note, key_type_option, token_options
from hsm_enroll.cli.terminal import has_person, keep_stdout
from hsm_enroll.device import enrollment, wiring
from hsm_enroll.device.pending import Pending, What, pending
from hsm_enroll.device.plan import Request, Said
from hsm_enroll.errors import HsmEnrollError, UsageError
from hsm_enroll.iot.device_topics import DeviceTopics
from hsm_enroll.secret import Secret
from hsm_enroll.settings import Settings
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.token.tokens import Tokens

_DOING = {
    "token": "looking for the token",
    "invite": "checking the invite",
    "thing": "asking the API which Thing this TPM is",
    "create-token": "creating a token",
    "key": "generating the key in the token",
    "csr": "signing the certificate request",
    "attestation": "having the TPM certify the key",
    "certificate": "requesting a certificate from the API",
    "store": "checking and storing the certificate",
    "message": "publishing the first message",
}
_WAIT = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_LONGEST_INVITE = 4096  # characters; longer input cannot be an invite, and may be endless


@command("init", example="hsm-enroll init @invite")
@click.argument("invite", required=False, metavar="[INVITE]")
@click.option("--thing", metavar="NAME", help="The Thing's name, if the invite does not specify it.")
@click.option("--api", "api_url", metavar="URL", help="The enrollment API, if there is no invite.")
@token_options
@key_type_option
@click.option("--create-token", is_flag=True, help="Create a SoftHSM token if there is none.")
@click.option("--no-publish", is_flag=True, help="Do not publish the first message.")
@click.option("--new-key", is_flag=True, help="Enroll again with a new key.")
@click.option(
    "--wait",
    metavar="DURATION",
    help="How long to go on while the API is busy: 90s, 15m (default), 2h, unlimited; 0 is one try. If given, also "
    "while the network is down.",
)
def init(
    invocation: Invocation,
    *,
    invite: str | None,
    create_token: bool,
    no_publish: bool,
    new_key: bool,
    wait: str | None,
) -> None:
    """Turn a key in this device's token into an AWS IoT identity.

    INVITE is the URL that the operator gave you; - reads it from stdin, @FILE from a file. On a terminal you are
    prompted for it. After a failure, run the same command again with the same invite: it resumes where it stopped. On a
    device with a valid identity, it contacts no server and does not use INVITE; an option or an INVITE that contradicts
    what is in place is an error, unless you give --new-key.
    """
    settings = invocation.settings
    wait_seconds = None if wait is None else _wait_seconds(wait)
    invitation = None if invite is None else _read_invite(invite)
    options = click.get_current_context().params
    _check_one_api(invitation, options["api_url"])
    can_ask = has_person() and not invocation.terminal.as_json
    if invitation is None and can_ask:
        invitation, thing = asking.invite_or_thing(settings, new_key=new_key)
        settings = settings._replace(thing=thing)
    said = _said(settings, options, invitation)
    replaced = _enrolled(settings.state) if new_key else None
    request = Request(settings.thing, settings.key_type, settings.subject, new_key, said)

    def progress(step: str) -> AbstractContextManager[None]:
        return invocation.terminal.step(_DOING[step], _key_note(settings.state) if step == "key" else "")

    with Tokens() as tokens:
        ports = wiring.ports(
            settings,
            tokens,
            invitation,
            invocation.pin,
            ask_invite=asking.invite if can_ask else None,
            create_token=create_token,
            audience=invocation.terminal,
            wait=wait_seconds,
        )
        message = None if no_publish else _Hello(invocation)
        ports = replace(ports, at_pin_pad=invocation.at_pin_pad, message=message)
        outcome = enrollment.enroll(request, settings.state, ports, progress)
    unfinished = pending(settings.state, outcome.identity)
    _show(invocation, outcome, unfinished)
    if replaced is not None and replaced.key_id != outcome.identity.key_id:
        invocation.terminal.say(_about_old_key(replaced, outcome.identity))
    if outcome.already_enrolled and invitation is not None and not _is_replacement(unfinished):
        invocation.terminal.say(
            "\nThe invite was not needed. To replace the key, use a new one: hsm-enroll init --new-key INVITE"
        )


def _said(settings: Settings, options: Mapping[str, Any], invitation: Invite | None) -> Said:
    """Return what this command line asks for; an empty option counts as none, as in the settings."""
    token = settings.token if options["token"] or options["token_label"] else None
    module = settings.module if options["module"] else token and token.module_path
    return Said(
        thing_name=options["thing"] or None,
        api=invitation.api_url if invitation else (options["api_url"] and options["api_url"].rstrip("/")) or None,
        key_type=settings.key_type if options["key_type"] else None,
        token=token,
        module=module and module.absolute(),
        has_invite=invitation is not None,
    )


def _key_note(state: Path) -> str:
    """Return how long it takes to generate the key that the journal names."""
    attempt = Attempt.load(state)
    return "" if attempt is None else key_note(attempt.token, attempt.key_type)


def _is_replacement(unfinished: Pending | None) -> bool:
    return unfinished is not None and unfinished.what is What.REPLACEMENT


def _enrolled(state: Path) -> Identity | None:
    """Return the identity that is in place; None if there is none, or none that can be read."""
    try:
        return Identity.load(state)
    except HsmEnrollError:
        return None


def _about_old_key(old: Identity, new: Identity) -> str:
    """Return where the replaced key is, and what destroys it."""
    token = f" --token '{old.token.uri}'" if old.token != new.token else ""
    destroy = f"To destroy the keys that are no longer used: hsm-enroll token prune{token}"
    return f"\nThe old key is still in token {old.token.label!r}. {destroy}"


def _show(invocation: Invocation, outcome: enrollment.Outcome, unfinished: Pending | None) -> None:
    document = identity_document(outcome.identity, invocation.settings.state, matches_certificate=True)
    text = identity_text(document)
    if outcome.already_enrolled:
        text = f"This device is already enrolled; nothing was changed.\n\n{text}"
    if unfinished is not None:
        invocation.terminal.say(f"Unfinished: {unfinished.subject}\n  {unfinished.advice}\n")
    document["steps"] = [asdict(step) for step in outcome.steps]
    if outcome.steps:
        skipped = [
            _DOING[step.name] for step in outcome.steps if step.skipped and step.name not in {"invite", "message"}
        ]
        invocation.terminal.say(f"- done in an earlier run: {', '.join(skipped)}\n" if skipped else "")
    done = f"this device is enrolled as {outcome.identity.thing_name}"
    invocation.terminal.result(document, text, done=done)


def _read_invite(argument: str) -> Invite:
    if argument != "-" and not argument.startswith("@"):
        return parse(argument)
    try:
        if argument == "-":
            return parse(sys.stdin.buffer.readline(_LONGEST_INVITE).decode("utf-8"))
        # The shell expands ~ only at the beginning of a word.
        with Path(os.path.expanduser(argument[1:])).open(encoding="utf-8") as file:  # noqa: PTH111 - any name
            return parse(file.read(_LONGEST_INVITE))
    except OSError as error:
        raise UsageError(f"the invite file {argument[1:]} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # Without its cause, which contains the input.
        raise UsageError("the invite is not valid text") from None


def _wait_seconds(text: str) -> float:
    """Parse ``90s``, ``15m``, ``2h``, ``1d``, ``0`` or ``unlimited``."""
    if text == "unlimited":
        return math.inf
    if text == "0":
        return 0.0
    match = _WAIT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--wait: invalid value {text!r}", hint="Give a time like 90s, 15m, 2h or 1d, or 0, or unlimited."
        )
    return float(int(match[1]) * _UNIT_SECONDS[match[2]])


def _check_one_api(invitation: Invite | None, option: str | None) -> None:
    """Reject an ``--api`` that is not the invite's; an API that is only configured is overridden by the invite."""
    if invitation is not None and option and option.rstrip("/") != invitation.api_url:
        raise UsageError("the invite and --api name different APIs", hint="Omit --api: the invite names its API.")


class _Hello(NamedTuple):
    """The first message; its connection has its own client id."""

    invocation: Invocation

    def prepare(self) -> None:
        """Import awscrt."""
        import_module("hsm_enroll.iot.connection")

    def send(self, identity: Identity, pin: Secret | None) -> None:
        """Connect and publish the message."""
        keep_stdout()
        payload = json.dumps({"message": "hello", "thingName": identity.thing_name}).encode("utf-8")
        with (
            waiting.for_broker(self.invocation, identity, self.invocation.settings.connect_timeout),
            wiring.connect(identity, pin, self.invocation.settings, purpose="init") as connection,
        ):
            connection.publish(DeviceTopics.of(identity.thing_name).hello, payload)
        for warning in connection.fallbacks.warnings:
            self.invocation.terminal.warn(warning)
