"""The use case: replace the key and the certificate of this device's identity, in steps that resume.

The old identity stays in place and works until the API has made the new key the current one, and the new certificate
has been used for a message before that. Power may fail at any moment: each step is written to the journal before it
acts. In the end there is one key in the token and one certificate.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hsm_enroll.backend_api.attestation import Policy
from hsm_enroll.device import clock, first_message, obtaining, proving, renewal_plan
from hsm_enroll.device.attesting import REQUIRED, Proof
from hsm_enroll.device.pending import refuse_while_retiring
from hsm_enroll.device.renewal_plan import After, Task
from hsm_enroll.device.steps import Progress, Step, Steps
from hsm_enroll.errors import BackendRefusedError, HsmEnrollError, KeyMissingError, TokenRefusedError
from hsm_enroll.store import files, journal, renewal
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.token import login, selection
from hsm_enroll.token.tpm2 import is_tpm2

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hsm_enroll.backend_api.attestation import Challenge, Evidence, Presented
    from hsm_enroll.backend_api.client import Issued
    from hsm_enroll.device.ports import Message, OwnPorts, ProofTaker, TokenKey, TokenSession
    from hsm_enroll.token.reports import TokenReport


# The API's problem codes if a replacement has given the Thing another key, or is about to.
_REPLACED = {"key-not-current", "renewal-in-progress"}
_REPLACEMENT_HINT = (
    "An hsm-enroll init --new-key of this device is not finished, and its key may have taken this one's place. Finish "
    "it with the same invite: hsm-enroll init --new-key INVITE"
)
_MOVING_HINT = (
    "A renewal stays in the same token. To move this device into its TPM, ask the operator for an invite (hsm-enroll "
    "fleet replace {thing}), create a token there (hsm-enroll token create --label LABEL --backend tpm2) with a PIN "
    "file of its own (HSM_ENROLL_PIN_FILE), then run: hsm-enroll init --new-key --token-label LABEL INVITE"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        identity: the device's identity, with the new key.
        steps: ``token``, ``challenge`` if a TPM is to attest the key, ``key``, ``csr``, ``attestation`` if it does,
            ``certificate``, ``message``, ``commit``, ``store`` and ``cleanup``, in this order; only ``token`` and
            ``cleanup`` if an earlier run had stored the new identity.
    """

    identity: Identity
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run works with, from the login on."""

    old: Identity
    subject: str | None
    folder: Path
    ports: OwnPorts
    message: Message
    steps: Steps
    client: ProofTaker
    token: TokenReport
    session: TokenSession
    proof: Proof


def renew(
    folder: Path,
    ports: OwnPorts,
    message: Message,
    subject: str | None = None,
    progress: Progress = lambda _: nullcontext(),
) -> Outcome:
    """Renew this device's identity, or finish a renewal that an earlier run began; ``renewal_plan`` says which.

    Does *not* check whether a renewal is due; see ``renewal_due``.

    Args:
        folder: the state folder, which is locked during the run.
        ports: access to token and API.
        message: sends a message with the new certificate.
        subject: RFC 4514 string that is added to ``CN=<thing>`` in the CSR's subject.
        progress: called with each step's name; returns a context manager that is entered while the step runs.

    Raises:
        BusyError: another run has locked the folder.
        NotEnrolledError: there is no identity to renew.
        UsageError: this device is being retired.
        ClockError: this machine's clock is wrong.
        BackendRefusedError: the API refuses; if that is final, nothing is left of the renewal.
        HsmEnrollError: any error of a step; the next run resumes at that step.
    """
    with files.locked(folder):
        refuse_while_retiring(folder)
        old = Identity.load(folder)
        under_way = Renewal.load(folder)
        task = renewal_plan.decide(old, under_way)
        clock.check(ports.clock.now(), old.certificate)
        steps = Steps(progress)
        if under_way is None or task is Task.BEGIN:
            under_way = Renewal.begin(old)
        if task is not Task.BEGIN:
            ports.audience.say("- resuming the renewal that was not finished")
        reports = ports.tokens.start_listing([old.token.module])
        client = ports.client(old.api)
        if task is not Task.CLEAN_UP:
            client.start_opening()
        with steps.step("token"):
            token = selection.for_mqtt(old.token, reports)
        if task is Task.BEGIN:
            # Before the key exists, so that a later run can find it; and before the login.
            under_way.save(folder)
        ports = replace(ports, pin=login.once(ports.pin))
        # Open to the end, since each request to the API has to be signed anew, and the old key goes last.
        with (
            Proof(ports.tpm, token.name, ports.audience, is_certain=old.attested) as proof,
            ports.tokens.session(token, ports.pin, ports.at_pin_pad, writable=True) as session,
        ):
            run = _Run(old, subject, folder, ports, message, steps, client, token, session, proof)
            try:
                new = old if task is Task.CLEAN_UP else _renewed(run, under_way)
            except BackendRefusedError as error:
                if error.problem_code in _REPLACED and _is_being_replaced(folder, old):
                    error.hint = _REPLACEMENT_HINT
                raise
            _clean_up(run, under_way, new)
        return Outcome(new, tuple(steps.done))


def _renewed(run: _Run, under_way: Renewal) -> Identity:
    """Obtain the new certificate, make it the current one, and store it."""
    _start_proof(run, under_way)
    key = _key(run, under_way)
    new = None
    if _is_proven(under_way, key):
        for step in ("csr", "certificate", "message"):
            run.steps.skip(step)
    else:
        under_way, new = _proven(run, under_way, key)
    for is_repeated in (False, True):
        try:
            with run.steps.step("commit"):
                _commit(run, under_way)
            break
        except BackendRefusedError as error:
            after = renewal_plan.after_commit(error.problem_code, is_repeated=is_repeated)
            if after is After.TAKE_BACK:
                _take_back(run, under_way)
            if after is not After.ASK_AGAIN:
                raise
        run.ports.audience.say("- the API has undone the renewal, which was not finished in time: it begins again")
        under_way, new = _proven(run, under_way, key)
    with run.steps.step("store"):
        if new is None:
            # Not the journal's: a run that was cut off may have had another one issued since.
            issued = _current(run, under_way)
            obtaining.check_issued(issued, key, run.ports.clock.now())
            new = _identity(run, key, issued)
        new.save(run.folder)
    return new


def _start_proof(run: _Run, under_way: Renewal) -> None:
    """Have the TPM answer a challenge, if the next key has to be attested, or may be; before that key is made."""
    if under_way.identity is not None:
        return
    policy = Policy.REQUIRE if run.old.attested else run.client.policy()
    try:
        run.proof.start(policy, partial(_challenge, run))
        if run.proof.is_started:
            # Here, and not beside the key's generation: the old key signs the request, in the same session.
            run.proof.wait(run.steps.step("challenge"))
    except HsmEnrollError as error:
        if _ends_renewal(error) or obtaining.has_none(under_way, run.session):
            _take_back(run, under_way)
        if isinstance(error, BackendRefusedError) and error.problem_code == REQUIRED and not is_tpm2(run.token.name):
            error.hint = _MOVING_HINT.format(thing=run.old.thing_name)
        raise


def _ends_renewal(error: HsmEnrollError) -> bool:
    """Whether an error means that the old key can ask for nothing any more."""
    if isinstance(error, BackendRefusedError):
        return renewal_plan.after_request(error.problem_code, may_be_current=False) is After.TAKE_BACK
    return isinstance(error, KeyMissingError)


def _challenge(run: _Run, tpm: Presented) -> Challenge:
    prove = proving.prover(run.session, run.ports, label=run.old.key_label, key_id=run.old.key_id)
    with proving.asking(run.client, run.ports):
        return run.client.attest(tpm, run.old.thing_name, prove)


def _is_being_replaced(folder: Path, old: Identity) -> bool:
    """Whether an unfinished ``init --new-key`` has asked for a certificate for another key."""
    attempt = Attempt.load(folder)
    return attempt is not None and attempt.new_key and attempt.csr is not None and attempt.key_id != old.key_id


def _is_proven(under_way: Renewal, key: TokenKey) -> bool:
    """Whether an earlier run has used the new certificate for a message."""
    proven = under_way.identity
    return proven is not None and proven.certificate.public_key.dump() == key.public_key_info


def _proven(run: _Run, under_way: Renewal, key: TokenKey) -> tuple[Renewal, Identity]:
    """Return the journal with an identity that has been used for a message, and that identity."""
    from hsm_enroll.x509 import csr

    subject = csr.subject(run.old.thing_name, run.subject)
    under_way = obtaining.requested(under_way, key, subject, run.folder, run.steps)
    new = _identity(run, key, _issued(run, under_way, key))
    _send_message(run, new)
    # What an earlier run has proven stays until now: the API may yet turn out to have made that key the current one.
    under_way = replace(under_way, identity=new)
    under_way.save(run.folder)
    return under_way, new


def _identity(run: _Run, key: TokenKey, issued: Issued) -> Identity:
    return replace(
        run.old,
        certificate_id=issued.certificate_id,
        certificate_pem=issued.certificate_pem,
        key_label=key.label,
        key_id=key.id,
        key_origin=key.origin,
        mqtt_endpoint=issued.mqtt_endpoint,
        mqtt_port=issued.mqtt_port,
        role_alias=issued.role_alias,
        attested=issued.attested,
    )


def _key(run: _Run, under_way: Renewal) -> TokenKey:
    key = obtaining.found(under_way, run.session)
    if key is not None and key.origin.is_hardware_born:
        run.steps.skip("key")
        return key
    try:
        _check_old_key(run)
    except KeyMissingError:
        # There is no key at all, and nothing to finish.
        _take_back(run, under_way)
        raise
    try:
        return obtaining.generated(under_way, run.session, run.folder, run.steps)
    except TokenRefusedError:
        # The token may have no room for another key.
        if obtaining.has_none(under_way, run.session):
            renewal.close(run.folder)
        raise


def _check_old_key(run: _Run) -> None:
    """See that there is a key to sign with before another one is made."""
    key = run.session.find(label=run.old.key_label, key_id=run.old.key_id)
    obtaining.check_key(run.old, key.public_key_info)


def _issued(run: _Run, under_way: Renewal, key: TokenKey) -> Issued:
    prove = proving.prover(run.session, run.ports, label=run.old.key_label, key_id=run.old.key_id)

    def certify(step: AbstractContextManager[None] | None = None) -> Evidence | None:
        return run.proof.evidence(under_way, run.ports.pin(run.token.name) if run.token.login_required else None, step)

    def send(evidence: Evidence | None) -> Issued:
        with proving.asking(run.client, run.ports):
            return run.client.renew(under_way.csr or "", run.old.thing_name, prove, run.message.prepare, evidence)

    evidence = certify(run.steps.step("attestation")) if run.proof.is_started else None
    with run.steps.step("certificate"):
        try:
            issued = run.proof.sent(send, evidence, partial(_challenge, run), certify)
        except BackendRefusedError as error:
            after = renewal_plan.after_request(error.problem_code, may_be_current=_is_proven(under_way, key))
            if after is After.TAKE_BACK:
                _take_back(run, under_way)
            if after is not After.COMMIT_AGAIN:
                raise
            issued = _committed_again(run, under_way, error)
        except KeyMissingError:
            # Without the old key nothing can be asked for, and the API has not made the new one the current one.
            _take_back(run, under_way)
            raise
        obtaining.check_issued(issued, key, run.ports.clock.now())
    return issued


def _send_message(run: _Run, new: Identity) -> None:
    try:
        secret = login.credentials(run.token, run.ports.pin, run.ports.at_pin_pad)
        with run.steps.step("message"):
            first_message.send(lambda: run.message.send(new, secret), run.ports.clock, run.ports.audience)
    except HsmEnrollError as error:
        _add(error, "the new certificate could not be used, and the old one stays in use")
        error.hint = f"{error.hint} The next hsm-enroll renew goes on from here."
        raise


def _commit(run: _Run, under_way: Renewal) -> None:
    prove = proving.prover(run.session, run.ports, label=under_way.key_label, key_id=under_way.key_id)
    with proving.asking(run.client, run.ports):
        run.client.commit(prove)


def _committed_again(run: _Run, under_way: Renewal, refusal: BackendRefusedError) -> Issued:
    """Return the certificate of the new key, after the old one was refused: a commit may have arrived late.

    Raises:
        BackendRefusedError: the first refusal, if the new key is not the current one either: a third one is.
    """
    try:
        _commit(run, under_way)
    except BackendRefusedError as error:
        if renewal_plan.after_commit(error.problem_code, is_repeated=True) is After.TAKE_BACK:
            _take_back(run, under_way)
            raise refusal from error
        raise
    return _current(run, under_way)


def _current(run: _Run, under_way: Renewal) -> Issued:
    """Return the certificate that the API has for the new key, which is the current one."""
    prove = proving.prover(run.session, run.ports, label=under_way.key_label, key_id=under_way.key_id)
    with proving.asking(run.client, run.ports):
        return run.client.recover(prove)


def _take_back(run: _Run, under_way: Renewal) -> None:
    """Destroy the new key, which the API will not accept; if that fails, the next run tries once more."""
    with suppress(HsmEnrollError):
        run.session.destroy(label=under_way.key_label, key_id=under_way.key_id)
        renewal.close(run.folder)


def _clean_up(run: _Run, under_way: Renewal, new: Identity) -> None:
    """Destroy the old key, now that the identity names the new one."""
    try:
        with run.steps.step("cleanup"):
            new.save_copy(run.folder)
            run.session.destroy(label=under_way.old_key_label, key_id=under_way.old_key_id)
            attempt = Attempt.load(run.folder)
            if attempt is not None and attempt.key_id == under_way.old_key_id:
                # Its first message was never sent, and the renewal's own message took its place.
                journal.close(run.folder)
            renewal.close(run.folder)
    except HsmEnrollError as error:
        _add(error, "this device's identity is renewed; only the old key was not removed")
        error.hint = f"{error.hint} The next hsm-enroll renew only removes it."
        raise


def _add(error: HsmEnrollError, what: str) -> None:
    """Let an error begin with what it means for the device."""
    error.message = f"{what}: {error.message}"
    error.args = (error.message,)
