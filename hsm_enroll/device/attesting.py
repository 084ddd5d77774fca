"""Proves to the API that a key is in this machine's TPM: answers its challenge, and has the TPM certify the key.

The challenge is asked for and answered while the key is generated, so that it costs little time. Nothing of it is in a
journal: a run that resumes starts anew, and the API knows the key.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from hsm_enroll.backend_api.attestation import Challenge, Evidence, Policy
from hsm_enroll.backend_api.deadline import started
from hsm_enroll.errors import BackendRefusedError, HsmEnrollError, TokenRefusedError
from hsm_enroll.secret import Secret

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from hsm_enroll.backend_api.attestation import Presented
    from hsm_enroll.backend_api.client import Issued
    from hsm_enroll.device.ports import Attestor, Audience, Tpm
    from hsm_enroll.key import TokenName
    from hsm_enroll.store.new_key import NewKey
    from hsm_enroll.token.fault import Fault

Ask = Callable[["Presented"], Challenge]
"""Asks the API for a challenge."""

REQUIRED = "attestation-required"
"""The API's problem code for a request without evidence."""

_DOMAIN = b"hsm-enroll-v1"
# A physical TPM may take half a minute to derive an RSA key.
_ANSWER_SECONDS = 180.0
# The session is gone, or was used for another request: there can be another one.
_SESSION_OVER = {"attestation-expired", "attestation-unknown", "attestation-used"}
# Evidence may help where there was none: a TPM may stand in for an invite.
_WITHOUT_EVIDENCE = {REQUIRED, "invite-required"}
# The operator may have listed another endorsement key of this TPM, or trust only the vendor of that one.
_ANOTHER_EK_MAY_DO = {"ek-unknown", "ek-mismatch", "ek-untrusted", "ek-expired", "ek-unsuitable", "ek-key-mismatch"}


@dataclass(frozen=True, slots=True)
class _Session:
    """A challenge that the TPM has answered."""

    challenge: Challenge
    secret: Secret


class Proof:
    """What one run proves about a key; as a context manager it ends what talks to the TPM.

    Args:
        tpm: what can prove it.
        token: the token that holds the key; None if it does not exist yet, and so is SoftHSM's.
        audience: whoever watches the run.
        is_certain: whether a proof is needed in any case, so that what talks to the TPM starts at once.

    Attributes:
        obstacle: why the token's keys cannot be attested; None if they can, as far as can be seen at once.
    """

    def __init__(self, tpm: Tpm, token: TokenName | None, audience: Audience, *, is_certain: bool = False) -> None:
        self._tpm = tpm
        self._token = token
        self._audience = audience
        self._ends = ExitStack()
        self._attestor: Attestor | None = None
        self._session: Future[_Session] | None = None
        self._is_optional = False
        self._is_certain = is_certain
        self.obstacle = _of_new_token() if token is None else tpm.obstacle(token)

    def __enter__(self) -> Self:
        if self._is_certain and self.obstacle is None:
            self._prepared()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ends.__exit__(kind, value, traceback)

    def start(self, policy: Policy, ask: Ask) -> None:
        """Start to answer a challenge, in parallel, if the policy wants it.

        Args:
            policy: ``prefer`` goes on without a proof if there cannot be one, and says why.
            ask: asks for the challenge, on another thread.

        Raises:
            BackendRefusedError: the policy requires what this token cannot prove.
        """
        if policy is Policy.OFF:
            return
        if self.obstacle is None:
            self._is_optional = policy is Policy.PREFER
            self._start(ask)
        elif policy is Policy.REQUIRE:
            raise _impossible(self.obstacle)
        else:
            self._audience.say(f"- the key is not attested: {self.obstacle.message}. {self.obstacle.hint}")

    @property
    def is_started(self) -> bool:
        """Whether there will be evidence."""
        return self._session is not None

    def thing_name(self) -> str | None:
        """Wait until the challenge is answered, and return the Thing that it is for; None if it does not say.

        Raises:
            HsmEnrollError: the API refuses this TPM, or the TPM fails.
        """
        return None if self._session is None else self._session.result().challenge.thing_name

    def wait(self, step: AbstractContextManager[None] | None = None) -> None:
        """Wait until the challenge is answered; if it cannot be, and need not be, go on without.

        Args:
            step: is entered meanwhile, and is told the error also if the run goes on without.

        Raises:
            HsmEnrollError: as for :meth:`thing_name`.
        """
        if self._session is None:
            return
        try:
            with step or nullcontext(), self._audience.waiting("this machine's TPM", _ANSWER_SECONDS):
                self._session.result()
        except HsmEnrollError as error:
            self._go_on_without(error)

    def evidence(
        self, journal: NewKey, pin: Secret | None, step: AbstractContextManager[None] | None = None
    ) -> Evidence | None:
        """Have the TPM certify the key of a request; None if there is no proof.

        Args:
            journal: names the key, and has its request.
            pin: the token's user PIN; None if it has none.
            step: as for :meth:`wait`.

        Raises:
            HsmEnrollError: the API refuses this TPM, or the TPM fails.
        """
        if self._session is None:
            return None
        try:
            with step or nullcontext():
                return self._certified(self._session.result(), journal, pin)
        except HsmEnrollError as error:
            self._go_on_without(error)
            return None

    def sent(
        self,
        send: Callable[[Evidence | None], Issued],
        evidence: Evidence | None,
        ask: Ask,
        certify: Callable[[], Evidence | None],
    ) -> Issued:
        """Send a request, and once more with new evidence if it lacks some, or if its session is over.

        Args:
            send: sends it.
            evidence: what it proves; None is nothing.
            ask: asks for another challenge.
            certify: calls :meth:`evidence` for the request.

        Raises:
            BackendRefusedError: the API refuses; also because it requires what this token cannot prove.
            HsmEnrollError: as for :meth:`evidence` and `send`.
        """
        try:
            return send(evidence)
        except BackendRefusedError as error:
            code = error.problem_code
            if code not in (_WITHOUT_EVIDENCE if evidence is None else _SESSION_OVER):
                raise
            if self.obstacle is not None:
                if code != REQUIRED:
                    raise
                raise _impossible(self.obstacle) from error
        self._is_optional = False
        self._start(ask)
        return send(certify())

    def _start(self, ask: Ask) -> None:
        attestor = self._prepared()
        self._session = started(lambda: _answered(attestor, ask))

    def _prepared(self) -> Attestor:
        if self._attestor is None:
            self._attestor = self._ends.enter_context(self._tpm.attestor())
        return self._attestor

    def _certified(self, session: _Session, journal: NewKey, pin: Secret | None) -> Evidence:
        certified = self._prepared().certify(
            journal.token,
            key_label=journal.key_label,
            key_id=journal.key_id,
            pin=pin,
            qualifying_data=qualifying_data(session.challenge.nonce, journal.csr or ""),
        )
        return Evidence(session.challenge.session_id, session.secret, certified)

    def _go_on_without(self, error: HsmEnrollError) -> None:
        """Go on without a proof that is not required; what passes is not a reason for that."""
        if not self._is_optional or error.retryable:
            raise error
        self._session = None
        self._audience.warn(f"the key is not attested: {error.message}. {error.hint}".rstrip())


def qualifying_data(nonce: bytes, request: str) -> bytes:
    """Return what the TPM has to state with the key: for which request, and in answer to which challenge.

    Args:
        nonce: the challenge's.
        request: the CSR, in PEM.
    """
    from hsm_enroll.x509 import csr

    return sha256(_DOMAIN + nonce + sha256(csr.der(request)).digest()).digest()


def _answered(attestor: Attestor, ask: Ask) -> _Session:
    challenge = _challenge(attestor, ask)
    secret = attestor.activate(challenge.credential_blob, challenge.encrypted_secret)
    return _Session(challenge, Secret(base64.b64encode(secret).decode("ascii")))


def _challenge(attestor: Attestor, ask: Ask) -> Challenge:
    """Return a challenge to the first endorsement key of the TPM that the API accepts.

    Raises:
        BackendRefusedError: it accepts none, or knows one and refuses it for another reason.
    """
    presented = attestor.endorsement(0)
    try:
        return ask(presented)
    except BackendRefusedError as error:
        if error.problem_code not in _ANOTHER_EK_MAY_DO:
            raise
        # The preferred key is the one that an operator has heard of.
        refused = error
    for rank in range(1, presented.others + 1):
        try:
            return ask(attestor.endorsement(rank))
        except BackendRefusedError as error:
            if error.problem_code not in _ANOTHER_EK_MAY_DO:
                raise
        except TokenRefusedError:
            break  # a key that the TPM cannot derive
    raise refused


def _of_new_token() -> Fault:
    from hsm_enroll.token.fault import Fault

    return Fault(
        "the token that --create-token creates is SoftHSM's, and only a TPM can attest its keys",
        "Create a token in this machine's TPM: hsm-enroll token create --label LABEL --backend tpm2",
    )


def _impossible(obstacle: Fault) -> BackendRefusedError:
    return BackendRefusedError(
        f"the API requires proof that the key is in a TPM: {obstacle.message}",
        problem_code=REQUIRED,
        hint=obstacle.hint,
    )
