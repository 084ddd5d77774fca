"""The use case: a key born in a token becomes an AWS IoT identity, step by step, each of which may be the last.

Power goes at any moment. What a step is about to do is journalled before it does it, so running the same enrollment
again finds the key it made, sends the request it made, and never makes a second of either.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.backend_api.client import EnrollmentClient, Issued
from hsm_enroll.errors import (
    BackendRefusedError,
    ForeignCertificateError,
    HsmEnrollError,
    KeyMissingError,
    NotEnrolledError,
    TokenRefusedError,
    UsageError,
)
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.secret import Secret
from hsm_enroll.store import files, journal
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.token import login, selection
from hsm_enroll.token.reports import TokenReport
from hsm_enroll.token.tokens import Key, Session, Tokens
from hsm_enroll.x509.certificate import read_certificate

if TYPE_CHECKING:
    from asn1crypto.x509 import Name

PinSource = Callable[[TokenName], Secret]

# AWS IoT's CreateThing takes 128 characters; as a certificate's CN it has 64 (RFC 5280, ub-common-name).
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,64}")

# The API's problem codes that hold for a key for ever; with a new invite only another key gets on.
_KEY_IS_SPENT = {"key-enrolled", "thing-revoked"}


@dataclass(frozen=True, slots=True)
class Request:
    """What to enroll.

    Attributes:
        thing_name: name of the Thing, ``[a-zA-Z0-9:_-]{1,64}``; None takes that of the identity in place.
        key_type: type of the key.
        subject: RFC 4514 string that the CSR's subject holds beside ``CN=<thing>``.
        new_key: leave the key that is there and make another.
    """

    thing_name: str | None
    key_type: KeyType = KeyType.EC_P256
    subject: str | None = None
    new_key: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    """What the enrollment reaches the world through.

    Attributes:
        tokens: what modules are asked through.
        locate: finds, or makes, the token; no login.
        pin: gives a token's PIN; called once at the most.
        client: gives the enrollment API; called when one is needed at all, before anything is made.
        publish: sends the first message, given what to log in to the token with, see ``login.credentials``; None sends
            none.
        at_pin_pad: told which token waits for its PIN at a keypad of its own.
    """

    tokens: Tokens
    locate: Callable[[], TokenReport]
    pin: PinSource
    client: Callable[[], EnrollmentClient]
    publish: Callable[[Identity, Secret | None], None] | None
    at_pin_pad: Callable[[TokenName], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it went.

    Attributes:
        name: ``token``, ``key``, ``csr``, ``certificate``, ``store`` or ``message``.
        seconds: how long it took.
        skipped: whether it was not done in this run: an earlier one had, or it was not wanted.
    """

    name: str
    seconds: float
    skipped: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """The identity, how it came about, and whether it was there before.

    Attributes:
        replacement_open: whether an earlier run with ``new_key`` has stopped half-way, and waits for another.
    """

    identity: Identity
    steps: tuple[Step, ...]
    already_enrolled: bool
    replacement_open: bool = False


Progress = Callable[[str], AbstractContextManager[None]]


@dataclass(slots=True)
class _Steps:
    progress: Progress
    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        with self.progress(name):
            yield
        self.done.append(Step(name, round(time.monotonic() - begin, 3), skipped=False))

    def skip(self, name: str) -> None:
        """Note that an earlier run did this step."""
        self.done.append(Step(name, 0.0, skipped=True))


def enroll(request: Request, folder: Path, ports: Ports, progress: Progress = lambda _: nullcontext()) -> Outcome:
    """Enroll this device, or resume, or find that it is enrolled.

    With a valid identity in place whose key the token holds, nobody is contacted and no PIN is asked for, also where a
    replacement of it has stopped half-way or was refused: only ``new_key`` goes on with that.

    Args:
        request: what to enroll.
        folder: the state folder; made where it is missing, locked meanwhile.
        ports: how to reach token, API and broker.
        progress: called with a step's name, entered while the step runs.

    Raises:
        BusyError: another run holds the folder.
        UsageError: the device is another Thing already, or an attempt under way wants another key.
        HsmEnrollError: whatever a step raises; the next run resumes at that step.
    """
    with files.locked(folder):
        steps = _Steps(progress)
        attempt = Attempt.load(folder)
        identity = _current(folder)
        unsent = attempt is not None and identity is not None and attempt.key_id == identity.key_id
        if identity is not None and not request.new_key:
            _check_thing(identity, request)
        same = unsent and attempt is not None and attempt.new_key and attempt.key_type is request.key_type
        if identity is None or _has_ended(identity) or (request.new_key and not same):
            return _enroll(request, None if unsent else attempt, identity, folder, ports, steps)
        if unsent:
            return _finish(identity, None, folder, ports, steps)
        _check_key(identity, ports.tokens)
        identity.save_copy(folder)
        return Outcome(identity, (), already_enrolled=True, replacement_open=attempt is not None)


def _enroll(
    request: Request, attempt: Attempt | None, identity: Identity | None, folder: Path, ports: Ports, steps: _Steps
) -> Outcome:
    thing_name = request.thing_name or (identity.thing_name if identity else None)
    if thing_name is None:
        raise UsageError("which Thing is this device to be?", hint="Give --thing NAME.")
    if not _THING_NAME.fullmatch(thing_name):
        raise UsageError(
            f"{thing_name!r} is no name for a Thing",
            hint="It has 1 to 64 letters, digits, colons, underscores and dashes.",
        )
    from hsm_enroll.x509 import csr

    client = ports.client()
    subject = csr.subject(thing_name, request.subject)
    with steps.step("token"):
        token = ports.locate()
        selection.require(token, request.key_type, mqtt=ports.publish is not None)
    attempt = _continued(attempt, token.name, request)
    # Durable before the key is; and a folder that cannot be written is found out before a login.
    attempt.save(folder)
    pin = _once(ports.pin)
    with ports.tokens.session(token, pin, ports.at_pin_pad, writable=True) as opened:
        key = _key(attempt, opened, folder, steps, is_given_up=request.new_key and attempt.is_spent)
        certification_request = _csr(attempt, key, subject, folder, steps)
    # Logged out and done with while the API answers.
    ports.tokens.dismiss()
    with steps.step("certificate"):
        try:
            issued = client.enroll(certification_request, thing_name)
        except BackendRefusedError as error:
            if error.problem_code in _KEY_IS_SPENT:
                replace(attempt, csr=certification_request, is_spent=True).save(folder)
            raise
    with steps.step("store"):
        _check_issued(issued, key)
        identity = Identity(
            thing_name=issued.thing_name,
            certificate_id=issued.certificate_id,
            certificate_pem=issued.certificate_pem,
            token=token.name,
            key_label=key.label,
            key_id=key.id,
            key_type=key.key_type,
            key_origin=key.origin,
            api=client.base_url,
            mqtt_endpoint=issued.mqtt_endpoint,
            mqtt_port=issued.mqtt_port,
            attested=issued.attested,
        )
        identity.save(folder)
    return _finish(identity, token, folder, replace(ports, pin=pin), steps)


def _finish(identity: Identity, token: TokenReport | None, folder: Path, ports: Ports, steps: _Steps) -> Outcome:
    """Send the first message; `token` is what it has shown of itself in this run, None if it was not looked at."""
    identity.save_copy(folder)
    if ports.publish is None:
        steps.skip("message")
    else:
        shown = token or selection.enrolled(identity.token, ports.tokens.listed)
        secret = login.credentials(shown, ports.pin, ports.at_pin_pad)
        with steps.step("message"):
            ports.publish(identity, secret)
    journal.close(folder)
    return Outcome(identity, tuple(steps.done), already_enrolled=False)


def _current(folder: Path) -> Identity | None:
    try:
        return Identity.load(folder)
    except NotEnrolledError:
        return None


def _has_ended(identity: Identity) -> bool:
    return bool(identity.certificate.not_valid_after <= datetime.now(UTC))


def _check_thing(identity: Identity, request: Request) -> None:
    if request.thing_name not in {None, identity.thing_name}:
        raise UsageError(
            f"this device is enrolled as {identity.thing_name!r}, not as {request.thing_name!r}",
            hint="To make it another Thing, run hsm-enroll init --new-key --thing NAME.",
        )


def _check_key(identity: Identity, tokens: Tokens) -> None:
    shown = tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    if shown != identity.certificate.public_key.dump():
        raise KeyMissingError(
            f"the key labelled {identity.key_label!r} is not the one that the certificate is for",
            hint="Run hsm-enroll init --new-key to enroll with a new key.",
        )


def _continued(attempt: Attempt | None, token: TokenName, request: Request) -> Attempt:
    """Return the attempt under way, or begin one; the key of one that is given up is replaced under its own name."""
    if attempt is None:
        return Attempt.begin(token, request.key_type, new_key=request.new_key)
    same_token = (attempt.token.label, attempt.token.serial) == (token.label, token.serial)
    if same_token and attempt.key_type is request.key_type:
        return attempt
    if not request.new_key:
        raise UsageError(
            f"an enrollment with a key of type {attempt.key_type} in token {attempt.token.label!r} is under way",
            hint="Run init with that token and key type to resume it, or with --new-key to give it up.",
        )
    if same_token:
        return replace(attempt, key_type=request.key_type)
    return Attempt.begin(token, request.key_type, new_key=True)


def _key(attempt: Attempt, opened: Session, folder: Path, steps: _Steps, *, is_given_up: bool) -> Key:
    try:
        key = opened.find(label=attempt.key_label, key_id=attempt.key_id)
    except KeyMissingError:
        key = None
    if key is None or is_given_up or key.key_type is not attempt.key_type or not key.origin.is_hardware_born:
        # Half a pair, or one whose origin was not yet checked, left by a run that died; or that of an attempt given up.
        opened.destroy(label=attempt.key_label, key_id=attempt.key_id)
        try:
            with steps.step("key"):
                return opened.generate(attempt.key_type, label=attempt.key_label, key_id=attempt.key_id)
        except TokenRefusedError as error:
            if error.of_key_type and attempt.csr is None and _has_none(opened, attempt):
                # Nothing was made, and the next run is to ask for another type.
                journal.close(folder)
            raise
    steps.skip("key")
    return key


def _has_none(opened: Session, attempt: Attempt) -> bool:
    """Whether the token holds neither half of the attempt's key; where it does not tell, it may."""
    try:
        return not opened.is_there(label=attempt.key_label, key_id=attempt.key_id)
    except HsmEnrollError:
        return False


def _csr(attempt: Attempt, key: Key, subject: Name, folder: Path, steps: _Steps) -> str:
    """Return the request that was journalled, so that a repeated request is the same one, or build it."""
    from hsm_enroll.x509 import csr

    if attempt.csr is not None and csr.is_for(attempt.csr, key.public_key_info, subject):
        steps.skip("csr")
        return attempt.csr
    with steps.step("csr"):
        request = csr.build(key, subject)
        replace(attempt, csr=request, is_spent=False).save(folder)
    return request


def _check_issued(issued: Issued, key: Key) -> None:
    """Store nothing that is not a valid certificate for this very key."""
    certificate = read_certificate(issued.certificate_pem)
    if certificate.public_key.dump() != key.public_key_info:
        raise ForeignCertificateError("the API answered with a certificate for another key")
    if certificate.not_valid_after <= datetime.now(UTC):
        raise ForeignCertificateError(
            f"the API answered with a certificate that ended on {certificate.not_valid_after:%Y-%m-%d}",
            hint="Check this device's clock, then tell the operator of the backend.",
        )


def _once(pin: PinSource) -> PinSource:
    """Ask for the PIN at the first call only: a person types it once."""
    known: list[Secret] = []

    def source(token: TokenName) -> Secret:
        if not known:
            known.append(pin(token))
        return known[0]

    return source
