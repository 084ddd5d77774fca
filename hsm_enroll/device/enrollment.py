"""The use case: turn a key generated in a token into an AWS IoT identity, in steps that resume.

Power may fail at any moment. Each step is written to the journal before it acts, so the next run finds the key that was
generated and repeats the request that was sent. It never creates a second key or a second request.
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
    MqttRefusedError,
    NotEnrolledError,
    TokenRefusedError,
)
from hsm_enroll.store import files, journal
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.token import login, selection
from hsm_enroll.x509.certificate import read_certificate

if TYPE_CHECKING:
    from concurrent.futures import Future

    from asn1crypto.x509 import Name

    from hsm_enroll.backend_api.client import Issued, Terms
    from hsm_enroll.device.ports import Ports, TokenKey, TokenSession
    from hsm_enroll.key import TokenName
    from hsm_enroll.secret import Secret
    from hsm_enroll.token.login import PinSource
    from hsm_enroll.token.reports import TokenReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        identity: the device's identity.
        steps: ``token``, ``invite``, ``key``, ``csr``, ``certificate``, ``store`` and ``message``, in this order; only
            ``message`` if the certificate was already stored.
        already_enrolled: whether the device was already enrolled; then no server was contacted.
        replacement_open: whether an earlier run with ``new_key`` is unfinished, and can be resumed.
    """

    identity: Identity
    steps: tuple[Step, ...]
    already_enrolled: bool
    replacement_open: bool = False


def enroll(request: Request, folder: Path, ports: Ports, progress: Progress = lambda _: nullcontext()) -> Outcome:
    """Enroll this device, resume an enrollment, or find that the device is enrolled; ``plan.decide`` says which.

    If there is a valid identity and the token has its key, no server is contacted and no PIN is requested.

    Args:
        request: what to enroll.
        folder: the state folder; created if it does not exist, and locked during the run.
        ports: access to token, API and broker.
        progress: called with each step's name; returns a context manager that is entered while the step runs.

    Raises:
        BusyError: another run has locked the folder.
        UsageError: the device is enrolled as another Thing, or an unfinished enrollment uses another key.
        HsmEnrollError: any error of a step; the next run resumes at that step.
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
    # In parallel: it also opens the connection and starts the Lambda function before there is a request to send.
    terms = started(client.terms)
    with steps.step("token"):
        token = find()
        selection.require(token, request.key_type, mqtt=ports.message is not None)
    if client.has_invite:
        with steps.step("invite"):
            invite = _terms(terms, to_do)
    else:
        invite = None
        steps.skip("invite")
    if invite is None and to_do.thing_name is None and to_do.under_way is not None and to_do.under_way.csr:
        to_do = replace(to_do, thing_name=csr.common_name(to_do.under_way.csr))
    thing_name = plan.thing_for(to_do, invite)
    subject = csr.subject(thing_name, request.subject)
    attempt = plan.attempt_with(token.name, request, to_do.under_way)
    # Before the key exists, so that a later run can find it; and before the login, in case the folder is not writable.
    attempt.save(folder)
    pin = _once(ports.pin)
    with ports.tokens.session(token, pin, ports.at_pin_pad, writable=True) as session:
        key = _key(attempt, request, session, folder, steps)
        certification_request = _csr(attempt, key, subject, folder, steps)
    # The worker logs out and ends while the API processes the request.
    ports.tokens.dismiss()
    meanwhile = ports.message.prepare if ports.message else None
    with steps.step("certificate"):
        try:
            issued = client.enroll(certification_request, thing_name, meanwhile)
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
    """Send the first message; `token` is the token's report, None if this run has not looked for the token yet."""
    identity.save_copy(folder)
    if ports.message is None:
        steps.skip("message")
    else:
        found = token or selection.enrolled(identity.token, ports.tokens.listed)
        secret = login.credentials(found, ports.pin, ports.at_pin_pad)
        with steps.step("message"):
            try:
                ports.message.send(identity, secret)
            except MqttRefusedError:
                _let_another_key_follow(folder)
                raise
    journal.close(folder)
    return Outcome(identity, tuple(steps.done), already_enrolled=False)


def _let_another_key_follow(folder: Path) -> None:
    """See that ``new_key`` generates another key from now on: the certificate of this one may have been revoked."""
    attempt = Attempt.load(folder)
    if attempt is not None and attempt.new_key:
        replace(attempt, new_key=False).save(folder)


def _terms(terms: Future[Terms | None], to_do: Obtain) -> Terms | None:
    try:
        return terms.result()
    except BackendRefusedError as error:
        # The request may have been carried out. Then the API answers it again, even if the invite has expired since.
        if error.problem_code != "invite-invalid" or to_do.under_way is None or to_do.under_way.csr is None:
            raise
        return None


def _stored(folder: Path) -> Identity | None:
    try:
        return Identity.load(folder)
    except NotEnrolledError:
        return None


def _verify(identity: Identity, ports: Ports) -> None:
    public_key = ports.tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    if public_key != identity.certificate.public_key.dump():
        raise KeyMissingError(
            f"the key labelled {identity.key_label!r} does not match the certificate",
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
    # Half a key pair, or one whose origin was not checked, left by an interrupted run; or the key of an abandoned one.
    session.destroy(label=attempt.key_label, key_id=attempt.key_id)
    try:
        with steps.step("key"):
            return session.generate(attempt.key_type, label=attempt.key_label, key_id=attempt.key_id)
    except TokenRefusedError as error:
        if error.of_key_type and attempt.csr is None and _has_none(session, attempt):
            # No key was generated, and the next run may use another key type.
            journal.close(folder)
        raise


def _has_none(session: TokenSession, attempt: Attempt) -> bool:
    """Whether the token has neither half of the attempt's key; False if the token cannot tell."""
    try:
        return not session.is_there(label=attempt.key_label, key_id=attempt.key_id)
    except HsmEnrollError:
        return False


def _csr(attempt: Attempt, key: TokenKey, subject: Name, folder: Path, steps: Steps) -> str:
    """Return the request from the journal, so that a repeated request is identical; otherwise build one."""
    from hsm_enroll.x509 import csr

    if attempt.csr is not None and csr.is_for(attempt.csr, key.public_key_info, subject):
        steps.skip("csr")
        return attempt.csr
    with steps.step("csr"):
        request = csr.build(key, subject)
        replace(attempt, csr=request, is_spent=False).save(folder)
    return request


def _check_issued(issued: Issued, key: TokenKey) -> None:
    """Reject anything but a valid certificate for this key."""
    certificate = read_certificate(issued.certificate_pem)
    if certificate.public_key.dump() != key.public_key_info:
        raise ForeignCertificateError("the API returned a certificate for another key")
    if certificate.not_valid_after <= datetime.now(UTC):
        raise ForeignCertificateError(
            f"the API returned a certificate that expired on {certificate.not_valid_after:%Y-%m-%d}",
            hint="Check this device's clock, then tell the operator of the backend.",
        )


def _once(pin: PinSource) -> PinSource:
    """Request the PIN only at the first call, so that the user enters it once."""
    cached: list[Secret] = []

    def source(token: TokenName) -> Secret:
        if not cached:
            cached.append(pin(token))
        return cached[0]

    return source
