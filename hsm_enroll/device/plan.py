"""What a run of ``init`` has to do, given what lies on the disk and what was asked for.

Pure: no token, no network, no file and no clock; ``enrollment`` carries out what is decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from hsm_enroll.errors import BackendRefusedError, UsageError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store.journal import Attempt

if TYPE_CHECKING:
    from hsm_enroll.backend_api.client import Terms
    from hsm_enroll.device.ports import TokenKey
    from hsm_enroll.store.identity import Identity

# AWS IoT's CreateThing takes 128 characters; as a certificate's CN it has 64 (RFC 5280, ub-common-name).
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}")

# The API's problem codes after which it never issues for this key again, whatever the invite.
_KEY_IS_SPENT = {"key-enrolled", "thing-revoked"}


@dataclass(frozen=True, slots=True)
class Request:
    """What to enroll.

    Attributes:
        thing_name: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``; None is that of the identity in place, else of
            the invite.
        key_type: type of the key.
        subject: RFC 4514 string that the CSR's subject holds beside ``CN=<thing>``.
        new_key: leave the key that is there and enroll with a new one.
    """

    thing_name: str | None
    key_type: KeyType = KeyType.EC_P256
    subject: str | None = None
    new_key: bool = False


@dataclass(frozen=True, slots=True)
class Obtain:
    """Get a certificate: find or make the key, build or repeat the request, and store the answer.

    Attributes:
        thing_name: the Thing to be, a valid name; None leaves it to the invite.
        under_way: the attempt that an earlier run left; None where there is none to resume.
    """

    thing_name: str | None
    under_way: Attempt | None


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send the first message; the certificate is stored already."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Verify:
    """Only verify that the token still has the certificate's key.

    Attributes:
        identity: what is in place.
        replacement_open: whether an earlier run with ``new_key`` stopped halfway.
    """

    identity: Identity
    replacement_open: bool


Plan = Obtain | SendMessage | Verify


def decide(request: Request, identity: Identity | None, attempt: Attempt | None, now: datetime) -> Plan:
    """Decide what a run has to do.

    A valid identity stays in place until it is told to go: a replacement that stopped halfway, or was refused, goes on
    with ``new_key`` alone.

    Args:
        request: what was asked for.
        identity: what is stored; None where this device is not enrolled.
        attempt: what the journal holds; None where no enrollment is under way.
        now: the time, with a time zone.

    Raises:
        UsageError: the device is enrolled as another Thing, or the Thing name is not valid.
    """
    stored = identity is not None and attempt is not None and attempt.key_id == identity.key_id
    if identity is None:
        return Obtain(_thing_name(request, None), attempt)
    if not request.new_key and request.thing_name not in {None, identity.thing_name}:
        raise UsageError(
            f"this device is enrolled as {identity.thing_name!r}, not as {request.thing_name!r}",
            hint="To make it another Thing, run hsm-enroll init --new-key --thing NAME.",
        )
    # The new key that was asked for is in place already, and only its message was not sent.
    is_replaced = stored and attempt is not None and attempt.new_key and attempt.key_type is request.key_type
    has_ended = identity.certificate.not_valid_after <= now
    if has_ended or (request.new_key and not is_replaced):
        return Obtain(_thing_name(request, identity), None if stored else attempt)
    if stored:
        return SendMessage(identity)
    return Verify(identity, replacement_open=attempt is not None)


def thing_for(wanted: str | None, terms: Terms | None) -> str:
    """Return the Thing to be, by what was asked for and what the invite says.

    Args:
        wanted: the Thing's name as :class:`Obtain` has it.
        terms: what the API said; None where it said nothing.

    Raises:
        BackendRefusedError: the invite is for another Thing.
        UsageError: neither gives a valid name.
    """
    if terms is None:
        if wanted is None:
            raise UsageError("no Thing name given", hint="Give --thing NAME.")
        return wanted
    prefix = terms.thing.removesuffix("*")
    is_for_several = prefix != terms.thing
    if wanted is None:
        if is_for_several:
            raise UsageError(f"this invite is for any Thing named {terms.thing}", hint="Give --thing NAME.")
        return _valid(terms.thing)
    if wanted != terms.thing and not (is_for_several and wanted.startswith(prefix)):
        raise BackendRefusedError(
            f"this invite is for {terms.thing!r}, not for {wanted!r}",
            problem_code="invite-invalid",
            hint="Run the same command without --thing, or ask the operator for an invite for that Thing.",
        )
    return wanted


def attempt_with(token: TokenName, request: Request, under_way: Attempt | None) -> Attempt:
    """Return the attempt to go on with: the one under way, or a new one, whose key has a random name.

    Args:
        token: where the key is, or will be.
        request: what was asked for.
        under_way: what an earlier run left, as :class:`Obtain` has it.

    Raises:
        UsageError: the attempt under way has another token or key type, and ``new_key`` does not give it up.
    """
    if under_way is None:
        return Attempt.begin(token, request.key_type, new_key=request.new_key)
    same_token = (under_way.token.label, under_way.token.serial) == (token.label, token.serial)
    if same_token and under_way.key_type is request.key_type:
        return under_way
    if not request.new_key:
        raise UsageError(
            f"an enrollment with a key of type {under_way.key_type} in token {under_way.token.label!r} is under way",
            hint="Run init with that token and key type to resume it, or with --new-key to give it up.",
        )
    if same_token:
        # The key that is given up is destroyed when one of the other type is made under its name.
        return replace(under_way, key_type=request.key_type)
    return Attempt.begin(token, request.key_type, new_key=True)


def may_use(key: TokenKey | None, attempt: Attempt, request: Request) -> bool:
    """Whether the key that the token holds under the attempt's name is the one to enroll; else one is made.

    Args:
        key: what was found; None where there is no key, or half of one.
        attempt: what is under way.
        request: what was asked for.
    """
    if key is None:
        return False
    is_given_up = request.new_key and attempt.is_spent
    return not is_given_up and key.key_type is attempt.key_type and key.origin.is_hardware_born


def is_spent_after(problem_code: str) -> bool:
    """Whether a refusal of the API means that it will never issue a certificate for this key."""
    return problem_code in _KEY_IS_SPENT


def _thing_name(request: Request, identity: Identity | None) -> str | None:
    if request.thing_name is not None:
        return _valid(request.thing_name)
    return identity.thing_name if identity else None


def _valid(name: str) -> str:
    if not _THING_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid Thing name",
            hint="A Thing name has 1 to 64 letters, digits, colons, underscores and dashes.",
        )
    return name
