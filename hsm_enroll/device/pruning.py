"""The use case: destroy the keys of this program in a token that the state folder does not name.

A key is kept if there is any sign that somebody uses it. What cannot be seen is whether another state folder names it,
or whether another program uses a key that ``csr`` generated: a person decides that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hsm_enroll.device.pending import refuse_while_retiring
from hsm_enroll.errors import (
    NotEnrolledError,
    StateCorruptError,
    StateError,
    StateTooNewError,
    TokenRefusedError,
)
from hsm_enroll.store import files
from hsm_enroll.store.identity import Identity, certificate_file
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal

if TYPE_CHECKING:
    from hsm_enroll.key import TokenName
    from hsm_enroll.token.login import AtPinPad, PinSource
    from hsm_enroll.token.reports import OwnKey, TokenReport
    from hsm_enroll.token.tokens import Session, Tokens

_STATE_HINT = "Restore the file from a backup first; if there is none, delete keys with the token's own tool."


class Reason(StrEnum):
    """Why a key is kept."""

    IDENTITY = "identity"
    JOURNAL = "journal"
    RENEWAL = "renewal"
    CERTIFICATE = "certificate"
    CHANGED = "changed"


class Findings(NamedTuple):
    """What a token has of this program's keys.

    Attributes:
        token: which token.
        thing_name: the Thing that this device is enrolled as; None if it is not enrolled.
        unused: the keys that the state folder does not name, to be destroyed.
        kept: the other ones, and why.
        leftovers: how many objects without a name and a key the token has, which a killed key generation leaves; to be
            destroyed too.
    """

    token: TokenName
    thing_name: str | None
    unused: tuple[OwnKey, ...]
    kept: tuple[tuple[OwnKey, Reason], ...]
    leftovers: int


def prune(
    folder: Path,
    tokens: Tokens,
    find: Callable[[], TokenReport],
    pin: PinSource,
    at_pin_pad: AtPinPad,
    *,
    agree: Callable[[Findings], None],
    destroyed: Callable[[OwnKey], None],
) -> Findings:
    """Destroy the unused keys of a token, with one login. After an interruption, the next run destroys the rest.

    What killed key generations left goes too, unless another process may be generating a key at this moment.

    Args:
        folder: the state folder, which is locked meanwhile.
        tokens: this machine's tokens.
        find: returns the token.
        pin: returns its PIN.
        at_pin_pad: called before the token waits for its PIN at its own keypad.
        agree: called before anything is destroyed, unless there is nothing to destroy; raises to prevent it.
        destroyed: called after each key that was destroyed.

    Raises:
        BusyError: another run has locked the folder.
        StateError, StateCorruptError, StateTooNewError: the folder does not say for certain which key is in use; then
            no token is opened.
        TokenRefusedError: the token keeps keys that it was asked to destroy; the message names them.
        HsmEnrollError: as for ``Tokens.session``.
    """
    with files.locked(folder):
        refuse_while_retiring(folder)
        identity, attempt, renewal = _state(folder)
        token = find()
        with tokens.session(token, pin, at_pin_pad, writable=True) as session:
            reasons = [(key, reason_to_keep(key, identity, attempt, renewal)) for key in session.own_keys()]
            findings = Findings(
                token=token.name,
                thing_name=None if identity is None else identity.thing_name,
                unused=tuple(key for key, reason in reasons if reason is None),
                kept=tuple((key, reason) for key, reason in reasons if reason is not None),
                leftovers=session.leftovers() or 0,
            )
            if findings.unused or findings.leftovers:
                agree(findings)
                _destroy(session, findings.unused, destroyed)
                return findings._replace(leftovers=_cleared(session, findings.leftovers))
    return findings


def reason_to_keep(
    key: OwnKey, identity: Identity | None, attempt: Attempt | None, renewal: Renewal | None = None
) -> Reason | None:
    """Return why a key has to stay; None if nothing known here uses it.

    Args:
        key: a key with a name of ours.
        identity: the device's identity. Its key is known by label, by id and by its certificate's public key: one of
            them is enough.
        attempt: the enrollment in progress; its key is known by label or id.
        renewal: the renewal in progress; both its keys are known by label or id.
    """
    if identity is not None and (
        identity.key_label == key.label
        or identity.key_id == key.id
        or identity.certificate.public_key.dump() in key.public_keys
    ):
        return Reason.IDENTITY
    if attempt is not None and (attempt.key_label == key.label or attempt.key_id == key.id):
        return Reason.JOURNAL
    if renewal is not None and (
        key.label in {renewal.key_label, renewal.old_key_label} or key.id in {renewal.key_id, renewal.old_key_id}
    ):
        return Reason.RENEWAL
    if key.has_certificate:
        return Reason.CERTIFICATE
    return Reason.CHANGED if key.is_changed else None


def _state(folder: Path) -> tuple[Identity | None, Attempt | None, Renewal | None]:
    try:
        return _identity(folder), Attempt.load(folder), Renewal.load(folder)
    except (StateError, StateCorruptError, StateTooNewError) as error:
        raise type(error)(f"{error.message}; which key is in use is not known", hint=_STATE_HINT) from error


def _identity(folder: Path) -> Identity | None:
    try:
        return Identity.load(folder)
    except NotEnrolledError as error:
        copy = certificate_file(folder)
        if os.path.lexists(copy):
            raise StateCorruptError(f"{copy} is there, but identity.json, which belongs to it, is missing") from error
        return None


def _cleared(session: Session, before: int) -> int:
    """Destroy what killed generations left, and return how much of it is gone."""
    if before:
        session.clear()
        before -= session.leftovers() or 0
    return before


def _destroy(session: Session, keys: tuple[OwnKey, ...], destroyed: Callable[[OwnKey], None]) -> None:
    refused: list[tuple[OwnKey, TokenRefusedError]] = []
    for key in keys:
        try:
            session.prune(key)
        except TokenRefusedError as error:
            refused.append((key, error))
        else:
            destroyed(key)
    if refused:
        _, first = refused[0]
        verb = "is" if len(refused) == 1 else "are"
        which = "the key" if len(keys) == 1 else f"{len(refused)} of {len(keys)} keys"
        still = ", ".join(key.label for key, _ in refused)
        raise TokenRefusedError(
            f"{first.message}; {which} {verb} still in the token: {still}", hint=first.hint
        ) from first
