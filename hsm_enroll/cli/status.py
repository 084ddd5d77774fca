"""``hsm-enroll status``: this device's identity. Reads files and the token's public objects; never logs in."""

from __future__ import annotations

from pathlib import Path

import click

from hsm_enroll.cli.documents import (
    forward_document,
    identity_document,
    identity_text,
    outbox_document,
    outbox_text,
    pending_document,
)
from hsm_enroll.cli.invocation import Invocation, command
from hsm_enroll.cli.terminal import Terminal
from hsm_enroll.device import outbox
from hsm_enroll.device.pending import Pending, pending
from hsm_enroll.errors import HsmEnrollError, NotEnrolledError
from hsm_enroll.store.forwarder import ForwarderState, ForwardReport
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.outbox import OutboxState
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.token.tpm2 import attestation


@command("status", example="hsm-enroll status --json")
def status(invocation: Invocation) -> None:
    """Show this device's identity, and what init did not finish; exit 3 if it is not enrolled.

    Also how many messages wait in the outbox, and whether hsm-enroll forward is running and connected. It reads the
    token's public key and requires no PIN, so monitoring can run it often. If the token cannot be used, it
    shows the identity and then the error, with the error's exit status. The topics are those of the
    built-in policy; an operator's own policy may differ.
    """
    folder = invocation.settings.state
    try:
        identity = Identity.load(folder)
    except NotEnrolledError as error:
        _say_pending(error, pending(folder, None))
        raise
    unfinished = _pending(folder, identity, invocation.terminal)
    matches, problem = _look(identity)
    document = identity_document(identity, folder, matches_certificate=matches)
    document["pending"] = pending_document(unfinished)
    held, forwarder = _outbox(invocation)
    document |= {"outbox": outbox_document(held), "forward": forward_document(forwarder)}
    text = "\n".join(filter(None, [identity_text(document), _unattested(identity), outbox_text(held, forwarder)]))
    if unfinished is not None:
        text += f"\n{'Unfinished':<12} {unfinished.subject}\n{'':<12} {unfinished.advice}"
    if problem is not None and invocation.terminal.as_json:
        invocation.terminal.result({**document, "error": problem.document}, text)
        raise click.exceptions.Exit(problem.exit_status)
    invocation.terminal.result(document, text)
    if problem is not None:
        raise problem
    if not matches:
        invocation.terminal.warn("the token's key does not match the certificate. Run: hsm-enroll doctor")


def _unattested(identity: Identity) -> str:
    """Return why the API has no proof that the key is in a TPM; "" if it has one."""
    if identity.attested:
        return ""
    obstacle = attestation.is_possible(identity.token)
    if obstacle is None:
        return f"{'Attested':<12} no: the API has no proof that the key is in a TPM; it may get one by a renewal"
    return f"{'Attested':<12} no: {obstacle.message}"


def _look(identity: Identity) -> tuple[bool | None, HsmEnrollError | None]:
    """Return whether the token's key is the certificate's; or None, and the error that says why it cannot be known."""
    try:
        with Tokens() as tokens:
            public_key = tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    except HsmEnrollError as error:
        return None, error
    return public_key == bytes(identity.certificate.public_key.dump()), None


def _pending(folder: Path, identity: Identity, terminal: Terminal) -> Pending | None:
    """Return what is not finished; a journal that cannot be used does not hide the identity."""
    try:
        return pending(folder, identity)
    except HsmEnrollError as error:
        terminal.warn_of(error)
        return None


def _outbox(invocation: Invocation) -> tuple[OutboxState | None, ForwarderState]:
    """Return what is in the outbox and how the forwarder is; what cannot be read does not hide the identity."""
    held, forwarder = None, ForwarderState(is_running=False, report=ForwardReport())
    try:
        held = outbox.state(invocation.settings.state)
        forwarder = ForwarderState.load(invocation.settings.state)
    except HsmEnrollError as error:
        invocation.terminal.warn_of(error)
    for file in () if held is None else held.damaged_files:
        invocation.terminal.warn(f"the outbox was damaged, and messages may be lost; what is left of it: {file}")
    return held, forwarder


def _say_pending(error: NotEnrolledError, unfinished: Pending | None) -> None:
    """Let the error say which enrollment is not finished, and how to finish it."""
    if unfinished is None:
        return
    error.message = f"{error.message}; {unfinished.message}"
    error.hint = unfinished.advice
    error.pending = pending_document(unfinished)
