"""Decides what a run of ``init`` has to do, given the stored state and the request.

Pure: uses no token, network, file or clock. ``enrollment`` carries out the decision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from hsm_enroll.errors import BackendRefusedError, UsageError
from hsm_enroll.key import DEFAULT_KEY_TYPE, KeyType, TokenName
from hsm_enroll.store.journal import Attempt

if TYPE_CHECKING:
    from hsm_enroll.backend_api.client import Terms
    from hsm_enroll.device.ports import TokenKey
    from hsm_enroll.store.identity import Identity

# AWS IoT's CreateThing allows 128 characters, but a certificate's CN only 64 (RFC 5280, ub-common-name).
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}")

# The API's problem codes after which it will not issue a certificate for this key, whatever the invite.
_KEY_IS_SPENT = {"key-enrolled", "thing-revoked"}


@dataclass(frozen=True, slots=True)
class Request:
    """What to enroll.

    Attributes:
        thing_name: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``; None uses the stored identity's name, or else the
            invite's.
        key_type: type of the key.
        subject: RFC 4514 string that is added to ``CN=<thing>`` in the CSR's subject.
        new_key: enroll with a new key; the current one stays in the token.
    """

    thing_name: str | None
    key_type: KeyType = DEFAULT_KEY_TYPE
    subject: str | None = None
    new_key: bool = False


@dataclass(frozen=True, slots=True)
class Obtain:
    """Obtain a certificate: find or generate the key, build or repeat the request, and store the certificate.

    Attributes:
        thing_name: a valid Thing name; None uses the invite's.
        under_way: the attempt that an earlier run did not finish; None if there is nothing to resume.
    """

    thing_name: str | None
    under_way: Attempt | None


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send the first message; the certificate is already stored."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Verify:
    """Only verify that the token still has the certificate's key.

    Attributes:
        identity: the stored identity.
        replacement_open: whether an earlier run with ``new_key`` is unfinished.
    """

    identity: Identity
    replacement_open: bool


Plan = Obtain | SendMessage | Verify


def decide(request: Request, identity: Identity | None, attempt: Attempt | None, now: datetime) -> Plan:
    """Decide what a run has to do.

    A valid identity is replaced only on request: a replacement that was interrupted or refused is resumed only with
    ``new_key``.

    Args:
        request: what to enroll.
        identity: the stored identity; None if this device is not enrolled.
        attempt: the attempt in the journal; None if there is none.
        now: the current time, with a time zone.

    Raises:
        UsageError: the device is enrolled as another Thing, or the Thing name is not valid.
    """
    stored = identity is not None and attempt is not None and attempt.key_id == identity.key_id
    if identity is None:
        return Obtain(_thing_name(request, None), attempt)
    if not request.new_key and request.thing_name not in {None, identity.thing_name}:
        raise UsageError(
            f"this device is enrolled as {identity.thing_name!r}, not as {request.thing_name!r}",
            hint="To enroll it as another Thing, run: hsm-enroll init --new-key --thing NAME INVITE",
        )
    # The requested new key is already in place; only its first message was not sent.
    is_replaced = stored and attempt is not None and attempt.new_key and attempt.key_type is request.key_type
    is_replaced = is_replaced and request.thing_name in {None, identity.thing_name}
    has_expired = identity.certificate.not_valid_after <= now
    if has_expired or (request.new_key and not is_replaced):
        return Obtain(_thing_name(request, identity), None if stored else attempt)
    if stored:
        return SendMessage(identity)
    return Verify(identity, replacement_open=attempt is not None)


def thing_for(plan: Obtain, terms: Terms | None) -> str:
    """Return the Thing to be, by what was requested and what the invite says.

    Args:
        plan: what :func:`decide` returned.
        terms: what the invite says; None if that is not known.

    Raises:
        BackendRefusedError: the invite is for another Thing, or another device has used it.
        UsageError: neither gives a valid name.
    """
    requested = plan.thing_name
    if terms is None:
        if requested is None:
            raise UsageError(
                "no Thing name given",
                hint="Give the invite, which names its Thing: hsm-enroll init INVITE. Without one, give --thing NAME.",
            )
        return requested
    # A device whose request may have been carried out comes back with the invite that it used.
    if terms.is_used_up and (plan.under_way is None or plan.under_way.csr is None):
        raise _refused("this invite was used already", "Ask the operator for a new invite.")
    prefix = terms.thing.removesuffix("*")
    if prefix == terms.thing:
        if requested in {None, terms.thing}:
            return _valid(terms.thing)
        hint = f"To become {terms.thing}, give --thing {terms.thing}; else ask the operator for another invite."
        raise _refused(f"this invite is for {terms.thing!r}, not for {requested!r}", hint)
    hint = f"Give --thing NAME, with a name that begins with {prefix}" if prefix else "Give --thing NAME."
    if requested is None:
        raise UsageError(f"this invite is for any name that matches {terms.thing}", hint=hint)
    if not requested.startswith(prefix):
        raise _refused(f"this invite is for names that match {terms.thing}, not for {requested!r}", hint)
    return requested


def _refused(message: str, hint: str) -> BackendRefusedError:
    return BackendRefusedError(message, problem_code="invite-invalid", hint=hint)


def attempt_with(token: TokenName, request: Request, under_way: Attempt | None) -> Attempt:
    """Return the attempt to continue: the unfinished one, or a new one, whose key gets a random label and id.

    Args:
        token: where the key is, or will be.
        request: what to enroll.
        under_way: the unfinished attempt, as in :class:`Obtain`.

    Raises:
        UsageError: the unfinished attempt has another token or key type, and ``new_key`` does not abandon it.
    """
    if under_way is None:
        return Attempt.begin(token, request.key_type, new_key=request.new_key)
    same_token = (under_way.token.label, under_way.token.serial) == (token.label, token.serial)
    if same_token and under_way.key_type is request.key_type:
        return under_way
    if not request.new_key:
        raise UsageError(
            f"an unfinished enrollment uses a key of type {under_way.key_type} in token {under_way.token.label!r}",
            hint="Run init with that token and key type to resume it, or with --new-key to abandon it.",
        )
    if same_token:
        # The abandoned key is destroyed when a key of the other type is generated with its label and id.
        return replace(under_way, key_type=request.key_type)
    return Attempt.begin(token, request.key_type, new_key=True)


def may_use(key: TokenKey | None, attempt: Attempt, request: Request) -> bool:
    """Whether to enroll the key that the token has under the attempt's label and id; otherwise one is generated.

    Args:
        key: the key that was found; None if there is none, or only half of the pair.
        attempt: the current attempt.
        request: what to enroll.
    """
    if key is None:
        return False
    is_abandoned = request.new_key and attempt.is_spent
    return not is_abandoned and key.key_type is attempt.key_type and key.origin.is_hardware_born


def is_spent_after(problem_code: str) -> bool:
    """Whether the API's refusal means that it will never issue a certificate for this key."""
    return problem_code in _KEY_IS_SPENT


def _thing_name(request: Request, identity: Identity | None) -> str | None:
    if request.thing_name is not None:
        return _valid(request.thing_name)
    return identity.thing_name if identity else None


def _valid(name: str) -> str:
    if not _THING_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid Thing name",
            hint="A Thing name consists of 1 to 64 letters, digits, colons, underscores and dashes.",
        )
    return name
