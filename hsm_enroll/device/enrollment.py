"""The use case: turn a key generated in a token into an AWS IoT identity, in steps that resume.

Power may fail at any moment. Each step is written to the journal before it acts, so the next run finds the key that was
generated and repeats the request that was sent. It never creates a second key or a second request.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.backend_api.attestation import Policy
from hsm_enroll.backend_api.deadline import started
from hsm_enroll.device import first_message, obtaining, plan, preparation
from hsm_enroll.device.attesting import Proof
from hsm_enroll.device.pending import refuse_while_retiring
from hsm_enroll.device.plan import Obtain, Request, SendMessage
from hsm_enroll.device.steps import Progress, Step, Steps
from hsm_enroll.errors import (
    BackendRefusedError,
    HsmEnrollError,
    MqttRefusedError,
    NotEnrolledError,
    TokenRefusedError,
)
from hsm_enroll.store import files, journal, renewal
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.token import login, selection

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hsm_enroll.backend_api.attestation import Challenge, Evidence, Presented
    from hsm_enroll.backend_api.client import Issued, Terms
    from hsm_enroll.device.ports import CertificateSource, Message, Ports, TokenKey, TokenSession
    from hsm_enroll.token.reports import TokenReport


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        identity: the device's identity.
        steps: ``token``, ``invite``, ``thing`` if the TPM says which Thing it is, ``create-token`` if it was created,
            ``key``, ``csr``, ``attestation`` if a TPM attests the key, ``certificate``, ``store`` and ``message``, in
            this order; only ``message`` if the certificate was already stored.
        already_enrolled: whether the device was already enrolled; then no server was contacted.
    """

    identity: Identity
    steps: tuple[Step, ...]
    already_enrolled: bool


def enroll(request: Request, folder: Path, ports: Ports, progress: Progress = lambda _: nullcontext()) -> Outcome:
    """Enroll this device, resume an enrollment, or find that the device is enrolled; ``plan.decide`` says which.

    If there is a valid identity and the token has its key, no PIN is requested and no server is contacted.

    Args:
        request: what to enroll.
        folder: the state folder; created if it does not exist, and locked during the run.
        ports: access to token, API and broker.
        progress: called with each step's name; returns a context manager that is entered while the step runs.

    Raises:
        BusyError: another run has locked the folder.
        UsageError: the request contradicts what is in place, or an unfinished enrollment.
        ClockError: this machine's clock cannot be right.
        HsmEnrollError: any error of a step; the next run resumes at that step. If only the first message failed, its
            message says that the device is enrolled.
    """
    with files.locked(folder):
        refuse_while_retiring(folder)
        identity = _stored(folder)
        request = _with_stored_path(request, identity)
        to_do = plan.decide(request, identity, Attempt.load(folder), ports.clock.now())
        steps = Steps(progress)
        if isinstance(to_do, Obtain):
            return _obtain(to_do, request, folder, ports, steps)
        if isinstance(to_do, SendMessage):
            return _finish(to_do.identity, None, folder, ports, steps, is_fresh=False)
        _verify(to_do.identity, ports)
        to_do.identity.save_copy(folder)
        return Outcome(to_do.identity, (), already_enrolled=True)


def _obtain(to_do: Obtain, request: Request, folder: Path, ports: Ports, steps: Steps) -> Outcome:
    from hsm_enroll.x509 import csr

    find = ports.start_finding()
    client = ports.client()
    if to_do.has_ended and to_do.replaces is not None:
        preparation.check_clock(to_do.replaces, client, ports)
    # In parallel: it also opens the connection and starts the Lambda function before there is a request to send.
    asked = started(client.terms)
    key_type = plan.key_type_for(request, to_do.under_way)
    if to_do.under_way is not None:
        ports.audience.say(f"- resuming an unfinished enrollment, whose key is of type {key_type}")
    may_create = to_do.under_way is None or request.new_key
    found = preparation.token(find, key_type, ports, steps, may_create=may_create)
    under_renewal = Renewal.load(folder)
    if found is not None:
        plan.refuse_unfinished_renewal(to_do.replaces, under_renewal, found.name)
    invite = preparation.terms(asked, to_do, client, ports, steps)
    named = _named(to_do, invite)
    with Proof(ports.tpm, None if found is None else found.name, ports.audience) as proof:
        by_tpm = request.by_tpm or (not client.has_invite and named.thing_name is None)
        thing_name = _thing_of_tpm(named, client, proof, steps) if by_tpm else _thing(named, invite, client, proof)
        subject = csr.subject(thing_name, request.subject)
        token = found or preparation.created_token(key_type, ports, steps)
        attempt = plan.attempt_with(token.name, request, to_do.under_way)
        # Before the key exists, so that a later run can find it; and before the login, in case the folder is read-only.
        attempt.save(folder)
        ports = replace(ports, pin=login.once(ports.pin))
        with ports.tokens.session(token, ports.pin, ports.at_pin_pad, writable=True) as session:
            key = _key(attempt, request, session, folder, steps)
            attempt = obtaining.requested(replace(attempt, is_spent=False), key, subject, folder, steps)
        # The worker logs out and ends while the API processes the request.
        ports.tokens.dismiss()
        issued = _issued(attempt, thing_name, client, proof, token, folder, ports, steps)
    with steps.step("store"):
        obtaining.check_issued(issued, key, ports.clock.now())
        identity = obtaining.identity(issued, token.name, key, client.base_url)
        identity.save(folder)
        if under_renewal is not None:
            # Of an identity that is lost, or whose token is.
            renewal.close(folder)
    if to_do.replaces is not None and to_do.replaces.thing_name != thing_name:
        _tell_of_other_thing(to_do.replaces.thing_name, ports)
    return _finish(identity, token, folder, ports, steps, is_fresh=True)


def _thing_of_tpm(to_do: Obtain, client: CertificateSource, proof: Proof, steps: Steps) -> str:
    """Return the Thing that the TPM is, as the API says: the TPM is the invite."""
    if proof.obstacle is not None:
        raise plan.no_thing(proof.obstacle.message)
    proof.start(Policy.REQUIRE, partial(_challenge, client, to_do.thing_name))
    with steps.step("thing"):
        return plan.thing_of_tpm(proof.thing_name())


def _thing(to_do: Obtain, invite: Terms | None, client: CertificateSource, proof: Proof) -> str:
    """Return the Thing to be; and start to prove that its key will be in a TPM, if that is wanted."""
    thing_name = plan.thing_for(to_do, invite)
    policy = client.policy() if invite is None else invite.attestation
    proof.start(policy, partial(_challenge, client, thing_name))
    return thing_name


def _challenge(client: CertificateSource, thing_name: str | None, tpm: Presented) -> Challenge:
    return client.attest(tpm, thing_name)


def _named(to_do: Obtain, invite: Terms | None) -> Obtain:
    """Return the plan with the name in the request that an earlier run built, if nothing else names the Thing."""
    from hsm_enroll.x509 import csr

    if invite is not None or to_do.thing_name is not None or to_do.under_way is None or not to_do.under_way.csr:
        return to_do
    return replace(to_do, thing_name=csr.common_name(to_do.under_way.csr))


def _issued(
    attempt: Attempt,
    thing_name: str,
    client: CertificateSource,
    proof: Proof,
    token: TokenReport,
    folder: Path,
    ports: Ports,
    steps: Steps,
) -> Issued:
    """Send the attempt's request, with evidence if there is any."""
    meanwhile = ports.message.prepare if ports.message else None

    def certify(step: AbstractContextManager[None] | None = None) -> Evidence | None:
        return proof.evidence(attempt, ports.pin(token.name) if token.login_required else None, step)

    def send(evidence: Evidence | None) -> Issued:
        return client.enroll(attempt.csr or "", thing_name, meanwhile, evidence)

    proof.wait()
    evidence = certify(steps.step("attestation")) if proof.is_started else None
    with steps.step("certificate"), preparation.waiting_for(client, ports):
        try:
            return proof.sent(send, evidence, partial(_challenge, client, thing_name), certify)
        except BackendRefusedError as error:
            if plan.is_spent_after(error.problem_code):
                replace(attempt, is_spent=True).save(folder)
            raise


def _tell_of_other_thing(name: str, ports: Ports) -> None:
    ports.audience.warn(
        f"the Thing {name} stays active in the cloud, and its certificate stays valid; if it is no longer needed, ask "
        f"the operator to run: hsm-enroll fleet revoke {name}"
    )


def _finish(
    identity: Identity, token: TokenReport | None, folder: Path, ports: Ports, steps: Steps, *, is_fresh: bool
) -> Outcome:
    """Send the first message.

    Args:
        identity: the device's identity, which is stored.
        token: the token's report; None if this run has not looked for the token yet.
        folder: the state folder.
        ports: access to token and broker.
        steps: the steps of this run.
        is_fresh: whether the certificate was issued in this run.
    """
    identity.save_copy(folder)
    if ports.message is None:
        steps.skip("message")
    else:
        try:
            _send(ports.message, identity, token, ports, steps, is_fresh=is_fresh)
        except HsmEnrollError as error:
            if isinstance(error, MqttRefusedError):
                _let_another_key_follow(folder)
            _say_enrolled(error, identity)
            raise
    journal.close(folder)
    return Outcome(identity, tuple(steps.done), already_enrolled=False)


def _send(
    message: Message,
    identity: Identity,
    token: TokenReport | None,
    ports: Ports,
    steps: Steps,
    *,
    is_fresh: bool,
) -> None:
    found = token or selection.for_mqtt(identity.token, ports.tokens.listed)
    secret = login.credentials(found, ports.pin, ports.at_pin_pad)
    with steps.step("message"):
        if is_fresh:
            first_message.send(lambda: message.send(identity, secret), ports.clock, ports.audience)
        else:
            message.send(identity, secret)


def _say_enrolled(error: HsmEnrollError, identity: Identity) -> None:
    """Let an error of the first message say that the device is enrolled all the same."""
    error.message = (
        f"this device is enrolled as {identity.thing_name}; only the first message was not sent: {error.message}"
    )
    error.args = (error.message,)
    error.hint = f"{error.hint} The next hsm-enroll init only sends the message."


def _let_another_key_follow(folder: Path) -> None:
    """See that ``new_key`` generates another key from now on: the certificate of this one may have been revoked."""
    attempt = Attempt.load(folder)
    if attempt is not None and attempt.new_key:
        replace(attempt, new_key=False).save(folder)


def _stored(folder: Path) -> Identity | None:
    try:
        return Identity.load(folder)
    except NotEnrolledError:
        return None


def _with_stored_path(request: Request, identity: Identity | None) -> Request:
    """Return the request with the identity's path of the module, if it names the same file by another path."""
    module = request.said.module
    if identity is None or module is None or module.resolve() != identity.token.module.resolve():
        return request
    return replace(request, said=replace(request.said, module=identity.token.module))


def _verify(identity: Identity, ports: Ports) -> None:
    public_key = ports.tokens.public_key(identity.token, label=identity.key_label, key_id=identity.key_id)
    obtaining.check_key(identity, public_key)


def _key(attempt: Attempt, request: Request, session: TokenSession, folder: Path, steps: Steps) -> TokenKey:
    key = obtaining.found(attempt, session)
    if key is not None and plan.may_use(key, attempt, request):
        steps.skip("key")
        return key
    # Half a key pair, or one whose origin was not checked, left by an interrupted run; or the key of an abandoned one.
    try:
        return obtaining.generated(attempt, session, folder, steps)
    except TokenRefusedError as error:
        if error.of_key_type and attempt.csr is None and obtaining.has_none(attempt, session):
            # No key was generated, and the next run may use another key type.
            journal.close(folder)
        raise
