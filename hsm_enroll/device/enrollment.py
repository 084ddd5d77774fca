"""The use case: a key born in a token becomes an AWS IoT identity, step by step, each of which may be the last.

Power goes at any moment. What a step is about to do is journalled before it does it, so running the same enrollment
again finds the key it made, sends the request it made, and never makes a second of either.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.backend_api.deadline import started
from hsm_enroll.device import plan
from hsm_enroll.device.plan import Obtain, Request, SendMessage
from hsm_enroll.device.steps import Progress, Step, Steps
from hsm_enroll.errors import (
    BackendRefusedError,
    ForeignCertificateError,
    HsmEnrollError,
    KeyMissingError,
    NotEnrolledError,
    TokenRefusedError,
)
from hsm_enroll.store import files, journal
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.token import login, selection
from hsm_enroll.x509.certificate import read_certificate

if TYPE_CHECKING:
    from asn1crypto.x509 import Name

    from hsm_enroll.backend_api.client import Issued
    from hsm_enroll.device.ports import Ports, TokenKey, TokenSession
    from hsm_enroll.key import TokenName
    from hsm_enroll.secret import Secret
    from hsm_enroll.token.login import PinSource
    from hsm_enroll.token.reports import TokenReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """The identity, how it came about, and whether it was there before.

    Attributes:
        identity: what this device holds.
        steps: ``token``, ``api``, ``key``, ``csr``, ``certificate``, ``store`` and ``message``, as far as it went.
        already_enrolled: whether the identity was in place, and nobody was contacted.
        replacement_open: whether an earlier run with ``new_key`` stopped halfway, and can be resumed.
    """

    identity: Identity
    steps: tuple[Step, ...]
    already_enrolled: bool
    replacement_open: bool = False


def enroll(request: Request, folder: Path, ports: Ports, progress: Progress = lambda _: nullcontext()) -> Outcome:
    """Enroll this device, or resume, or find that it is enrolled; ``plan.decide`` says which.

    With a valid identity in place whose key the token holds, nobody is contacted and no PIN is asked for.

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
        identity = _stored(folder)
        to_do = plan.decide(request, identity, Attempt.load(folder), datetime.now(UTC))
        steps = Steps(progress)
        if isinstance(to_do, Obtain):
            return _obtain(to_do, request, folder, ports, steps)
        if isinstance(to_do, SendMessage):
            return _finish(to_do.identity, None, folder, ports, steps)
        _verify(to_do.identity, ports)
        to_do.identity.save_copy(folder)
        return Outcome(to_do.identity, (), already_enrolled=True, replacement_open=to_do.replacement_open)


def _obtain(to_do: Obtain, request: Request, folder: Path, ports: Ports, steps: Steps) -> Outcome:
    from hsm_enroll.x509 import csr

    find = ports.start_finding()
    client = ports.client()
    # The connection stands, and the backend is awake, by the time there is a request to send.
    terms = started(client.terms)
    with steps.step("token"):
        token = find()
        selection.require(token, request.key_type, mqtt=ports.message is not None)
    with steps.step("api"):
        thing_name = plan.thing_for(to_do.thing_name, terms.result())
    subject = csr.subject(thing_name, request.subject)
    attempt = plan.attempt_with(token.name, request, to_do.under_way)
    # On the disk before the key exists; and a folder that cannot be written is found out before a login.
    attempt.save(folder)
    pin = _once(ports.pin)
    with ports.tokens.session(token, pin, ports.at_pin_pad, writable=True) as session:
        key = _key(attempt, request, session, folder, steps)
        certification_request = _csr(attempt, key, subject, folder, steps)
    # The worker logs out and ends while the API answers.
    ports.tokens.dismiss()
    if ports.message is not None:
        started(ports.message.prepare)
    with steps.step("certificate"):
        try:
            issued = client.enroll(certification_request, thing_name)
        except BackendRefusedError as error:
            if plan.is_spent_after(error.problem_code):
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


def _finish(identity: Identity, token: TokenReport | None, folder: Path, ports: Ports, steps: Steps) -> Outcome:
    """Send the first message; `token` is what it has shown of itself in this run, None if it was not looked at."""
    identity.save_copy(folder)
    if ports.message is None:
        steps.skip("message")
    else:
        shown = token or selection.enrolled(identity.token, ports.tokens.listed)
        secret = login.credentials(shown, ports.pin, ports.at_pin_pad)
        with steps.step("message"):
            ports.message.send(identity, secret)
    journal.close(folder)
    return Outcome(identity, tuple(steps.done), already_enrolled=False)


def _stored(folder: Path) -> Identity | None:
    try:
        return Identity.load(folder)
    except NotEnrolledError:
        return None


def _verify(identity: Identity, ports: Ports) -> None:
    shown = ports.tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    if shown != identity.certificate.public_key.dump():
        raise KeyMissingError(
            f"the key labelled {identity.key_label!r} is not the one that the certificate is for",
            hint="Run hsm-enroll init --new-key to enroll with a new key.",
        )


def _key(attempt: Attempt, request: Request, session: TokenSession, folder: Path, steps: Steps) -> TokenKey:
    try:
        key: TokenKey | None = session.find(label=attempt.key_label, key_id=attempt.key_id)
    except KeyMissingError:
        key = None
    if key is not None and plan.may_use(key, attempt, request):
        steps.skip("key")
        return key
    # Half a pair, or one whose origin was not checked yet, left by a run that died; or that of an attempt given up.
    session.destroy(label=attempt.key_label, key_id=attempt.key_id)
    try:
        with steps.step("key"):
            return session.generate(attempt.key_type, label=attempt.key_label, key_id=attempt.key_id)
    except TokenRefusedError as error:
        if error.of_key_type and attempt.csr is None and _has_none(session, attempt):
            # Nothing was made, and the next run is to ask for another type.
            journal.close(folder)
        raise


def _has_none(session: TokenSession, attempt: Attempt) -> bool:
    """Whether the token holds neither half of the attempt's key; a token that does not tell may hold one."""
    try:
        return not session.is_there(label=attempt.key_label, key_id=attempt.key_id)
    except HsmEnrollError:
        return False


def _csr(attempt: Attempt, key: TokenKey, subject: Name, folder: Path, steps: Steps) -> str:
    """Return the journalled request, so that a repeated request is the same one, or build it."""
    from hsm_enroll.x509 import csr

    if attempt.csr is not None and csr.is_for(attempt.csr, key.public_key_info, subject):
        steps.skip("csr")
        return attempt.csr
    with steps.step("csr"):
        request = csr.build(key, subject)
        replace(attempt, csr=request, is_spent=False).save(folder)
    return request


def _check_issued(issued: Issued, key: TokenKey) -> None:
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
