"""Decides what a run of ``init`` has to do, given the stored state and the request.

Pure: uses no token, network, file or clock. ``enrollment`` carries out the decision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from hsm_enroll.device import clock
from hsm_enroll.errors import BackendRefusedError, UsageError
from hsm_enroll.key import DEFAULT_KEY_TYPE, KeyType, TokenName
from hsm_enroll.store.journal import Attempt

if TYPE_CHECKING:
    from pathlib import Path

    from hsm_enroll.backend_api.client import Terms
    from hsm_enroll.device.ports import TokenKey
    from hsm_enroll.store.identity import Identity
    from hsm_enroll.store.renewal import Renewal
    from hsm_enroll.uri import Pkcs11Uri

# AWS IoT's CreateThing allows 128 characters, but a certificate's CN only 64 (RFC 5280, ub-common-name).
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}")

_CONFIGURED_THING = "correct or remove the name in HSM_ENROLL_THING or in config.toml (thing)"

# The API's problem codes after which it will not issue a certificate for this key, whatever the invite.
_KEY_IS_SPENT = {"key-enrolled", "thing-revoked"}


@dataclass(frozen=True, slots=True)
class Said:
    """What was asked for explicitly in this run; None means not. It must not contradict what is in place.

    The environment and the configuration, which outlive a run, apply to a new enrollment only; but the Thing's name
    that they give must not contradict what is in place either.

    Attributes:
        api: base URL of the API, from an option or the invite.
        key_type: type of the key.
        token: which token.
        module: file of the PKCS#11 module, an absolute path.
        has_invite: whether an invite was given.
        thing_name: the Thing's name.
    """

    api: str | None = None
    key_type: KeyType | None = None
    token: Pkcs11Uri | None = None
    module: Path | None = None
    has_invite: bool = False
    thing_name: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What to enroll.

    Attributes:
        thing_name: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``; None uses the stored identity's name, or else the
            invite's.
        key_type: type of a new key; an unfinished enrollment keeps its own unless another one is asked for explicitly.
        subject: RFC 4514 string that is added to ``CN=<thing>`` in the CSR's subject.
        new_key: enroll with a new key; the current one stays in the token.
        by_tpm: whether the TPM proves which Thing this is, in place of an invite.
        said: what was asked for explicitly.
    """

    thing_name: str | None
    key_type: KeyType = DEFAULT_KEY_TYPE
    subject: str | None = None
    new_key: bool = False
    said: Said = Said()
    by_tpm: bool = False


@dataclass(frozen=True, slots=True)
class Obtain:
    """Obtain a certificate: find or generate the key, build or repeat the request, and store the certificate.

    Attributes:
        thing_name: a valid Thing name; None uses the invite's.
        under_way: the attempt that an earlier run did not finish; None if there is nothing to resume.
        replaces: the identity that it takes the place of; None if there is none.
        has_ended: whether that identity is replaced only because its certificate has ended by this machine's clock.
    """

    thing_name: str | None
    under_way: Attempt | None
    replaces: Identity | None = None
    has_ended: bool = False


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send the first message; the certificate is already stored."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Verify:
    """Only verify that the token still has the certificate's key."""

    identity: Identity


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
        UsageError: the request contradicts what is in place, or the Thing name is not valid.
        ClockError: the current time cannot be right.
    """
    if identity is None:
        _refuse_another_key_type(request, attempt)
        clock.check(now)
        return Obtain(_thing_name(request, None), attempt)
    stored = attempt is not None and attempt.key_id == identity.key_id
    under_way = None if stored else attempt
    contradiction = _contradiction(request, identity)
    if contradiction is not None and not request.new_key:
        raise contradiction
    clock.check(now, identity.certificate)
    # The requested new key is already in place; only its first message was not sent.
    is_replaced = attempt is not None and stored and attempt.new_key and contradiction is None
    if request.new_key and not is_replaced:
        return Obtain(_thing_name(request, identity), under_way, identity)
    if identity.certificate.not_valid_after <= now:
        _refuse_another_key_type(request, under_way)
        return Obtain(_thing_name(request, identity), under_way, identity, has_ended=True)
    if stored:
        return SendMessage(identity)
    return Verify(identity)


def refuse_unfinished_renewal(replaced: Identity | None, renewal: Renewal | None, token: TokenName) -> None:
    """Refuse to replace a key that a renewal may have replaced already in the same token.

    A new key that has not been used for a message yet cannot be the current one: that renewal is given up.

    Args:
        replaced: the identity that is to be replaced; None if there is none.
        renewal: the renewal in progress; None if there is none.
        token: the token that the new key is to be in. If it is another one, the renewal's may be gone for good.

    Raises:
        UsageError: the renewal has to be finished first, which needs the new key only.
    """
    if (
        replaced is None
        or renewal is None
        or renewal.identity is None
        or (renewal.token.label, renewal.token.serial) != (token.label, token.serial)
    ):
        return
    if replaced.key_id in {renewal.key_id, renewal.old_key_id}:
        raise UsageError(
            "a renewal of this device's identity is not finished",
            hint="Finish it first: hsm-enroll renew. To give the identity up instead: hsm-enroll retire",
        )


def _contradiction(request: Request, identity: Identity) -> UsageError | None:
    """Return the error for a request for something else than what is in place; None if there is no contradiction."""
    said, token = request.said, identity.token
    if request.thing_name not in {None, identity.thing_name}:
        what = f"this device is enrolled as {identity.thing_name!r}, not as {request.thing_name!r}"
        return _contradicted(what, f"--thing {request.thing_name}", None if said.thing_name else _CONFIGURED_THING)
    if said.api is not None and said.api.lower() != identity.api.lower():
        what = f"this device is enrolled at {identity.api}, not at {said.api}"
        if said.has_invite:
            return _contradicted(what, "", "run init without the invite")
        return _contradicted(what, f"--api {said.api}")
    if said.key_type not in {None, identity.key_type}:
        what = f"this device is enrolled with a key of type {identity.key_type}, not {said.key_type}"
        return _contradicted(what, f"--key-type {said.key_type}")
    if said.token is not None and not _is_named(token, said.token):
        what = f"this device's key is in token {token.label!r}, serial {token.serial!r}, and not in {said.token}"
        return _contradicted(what, f"--token '{said.token}'", "leave out --token or --token-label")
    if said.module not in {None, token.module}:
        what = f"this device's key is in a token of {token.module}, not of {said.module}"
        return _contradicted(what, f"--module {said.module}")
    return None


def _is_named(token: TokenName, uri: Pkcs11Uri) -> bool:
    return all(wanted in {None, own} for wanted, own in zip(uri.of_token, token.uri, strict=True))


def _contradicted(what: str, option: str, keep: str | None = None) -> UsageError:
    """Return the error for a contradiction.

    Args:
        what: what is in place, and what is not.
        option: the option that asks for the other thing; "" if the invite does.
        keep: what to do instead; None is to leave out the option.
    """
    words = f"{option} " if option else ""
    keep = keep or f"leave out {option}"
    return UsageError(
        what, hint=f"To keep what is in place, {keep}. To replace the key: hsm-enroll init --new-key {words}INVITE"
    )


def _refuse_another_key_type(request: Request, under_way: Attempt | None) -> None:
    said = request.said.key_type
    if under_way is None or request.new_key or said in {None, under_way.key_type}:
        return
    raise UsageError(
        f"an unfinished enrollment uses a key of type {under_way.key_type}, not {said}",
        hint=f"To resume it, leave out --key-type. To start over: hsm-enroll init --new-key --key-type {said} INVITE",
    )


def key_type_for(request: Request, under_way: Attempt | None) -> KeyType:
    """Return the type of the key to enroll: that of the unfinished attempt, unless another one is asked for."""
    if under_way is None:
        return request.said.key_type or request.key_type
    return request.said.key_type or under_way.key_type


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
            raise no_thing()
        return requested
    _check_terms(plan, terms)
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


def thing_of_tpm(name: str | None) -> str:
    """Return the Thing that the operator has listed this device's TPM for.

    Args:
        name: what the API says; None if nothing.

    Raises:
        UsageError: that is not a valid name, or there is none.
    """
    if name is None:
        raise no_thing()
    return _valid(name)


def no_thing(obstacle: str = "") -> UsageError:
    """Return the error for a request that nothing names the Thing of.

    Args:
        obstacle: why a TPM, which the operator may have listed for a Thing, cannot; "" if there is no such reason.
    """
    hint = "Give the invite, which names its Thing: hsm-enroll init INVITE. Without one, give --thing NAME."
    return UsageError(
        "no Thing name given",
        hint=f"{hint} A TPM that the operator has listed is enough, but {obstacle}." if obstacle else hint,
    )


def _check_terms(plan: Obtain, terms: Terms) -> None:
    # A device whose request may have been carried out comes back with the invite that it used.
    if terms.is_used_up and (plan.under_way is None or plan.under_way.csr is None):
        raise _refused("this invite was used already", "Ask the operator for a new invite.")


def _refused(message: str, hint: str) -> BackendRefusedError:
    return BackendRefusedError(message, problem_code="invite-invalid", hint=hint)


def attempt_with(token: TokenName, request: Request, under_way: Attempt | None) -> Attempt:
    """Return the attempt to continue: the unfinished one, or a new one, whose key gets a random label and id.

    Args:
        token: where the key is, or will be.
        request: what to enroll.
        under_way: the unfinished attempt, as in :class:`Obtain`.

    Raises:
        UsageError: the unfinished attempt has another token, and ``new_key`` does not abandon it.
    """
    key_type = key_type_for(request, under_way)
    if under_way is None:
        return Attempt.begin(token, key_type, new_key=request.new_key)
    if (under_way.token.label, under_way.token.serial) == (token.label, token.serial):
        # A key of another type is destroyed when one of this type is generated with its label and id.
        return under_way if under_way.key_type is key_type else replace(under_way, key_type=key_type)
    if request.new_key:
        return Attempt.begin(token, key_type, new_key=True)
    other = under_way.token
    raise UsageError(
        f"an unfinished enrollment uses token {other.label!r}, serial {other.serial!r}, not {token.label!r}",
        hint=f"To resume it: --token '{other.uri}'. To start over with this token: hsm-enroll init --new-key INVITE",
    )


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
