"""The device's side of the enrollment API (``lambda/openapi.yaml``)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hsm_enroll.backend_api import forms
from hsm_enroll.backend_api.answer import Answer, Problem, document, printable, refusal, unexpected
from hsm_enroll.backend_api.deadline import TRY_SECONDS, started
from hsm_enroll.backend_api.patience import DEFAULT_WAIT_SECONDS, Patience
from hsm_enroll.backend_api.retry import retried
from hsm_enroll.backend_api.transport import Outgoing, Transport
from hsm_enroll.backend_api.url import checked_url
from hsm_enroll.errors import HsmEnrollError
from hsm_enroll.secret import Secret

CERTIFICATES = "/v1/certificates"
HEALTH = "/v1/health"
INVITE = "/v1/invite"

_OPENING_SECONDS = 5.0
_LARGEST_ANSWER_BYTES = 64 * 1024
# AWS IoT CreateThing, thingName; followed by * it is a prefix.
_THING_PATTERN = re.compile(r"[a-zA-Z0-9:_-]{1,128}|[a-zA-Z0-9:_-]{0,127}\*")
_WRONG_MEMBER = "a member has the wrong type or value"
_HOW_TO_STOP = "To stop, press Ctrl-C; the same command then goes on with the same key and request."

# What a technician can do about a refusal, by the API's problem code; for any other, the operator has to be asked.
_HINTS = {
    "invite-required": "Give the invite: hsm-enroll init INVITE. If you have none, ask the operator for one.",
    "invite-invalid": "Ask the operator for a new invite: this one is used, has expired, or is for another Thing.",
    "attestation-required": (
        "This version cannot attest its key. Ask the operator for an invite that is not bound to a TPM."
    ),
    "thing-enrolled": (
        "If this device is to replace that Thing, ask the operator to run hsm-enroll fleet revoke THING and to give "
        "you a new invite; then run the same command again with it."
    ),
    "key-enrolled": (
        "Give the name of the Thing that this key was enrolled for, or make a new key: "
        "hsm-enroll init --new-key INVITE."
    ),
    "thing-revoked": "Ask the operator for a new invite, then run: hsm-enroll init --new-key INVITE.",
    "thing-exists": (
        "Check the Thing's name. If it is right, ask the operator for an invite that may take over an existing Thing."
    ),
    "enrollment-in-progress": "Wait a minute, then run the same command again: it resumes.",
}


@dataclass(frozen=True, slots=True)
class Issued:
    """What the API returns when it has issued a certificate.

    Does *not* promise that the certificate is for this device's key; the caller compares.
    """

    certificate_pem: str
    certificate_id: str
    thing_name: str
    mqtt_endpoint: str
    mqtt_port: int
    attested: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """What an invite says.

    Attributes:
        thing: the Thing it is for, or a prefix of Thing names followed by ``*``.
        is_used_up: whether no use is left; the device that used it may come back with it.
        needs_attestation: whether a TPM has to attest the key, which this version cannot do.
    """

    thing: str
    is_used_up: bool = False
    needs_attestation: bool = False


class EnrollmentClient:
    """A device's client of one enrollment API. It keeps its connection open between requests; `close` closes it.

    Args:
        base_url: ``https://…``, with or without a trailing slash.
        code: the enrollment code, sent as a bearer token (RFC 6750 §2.1); None in an open deployment.
        ca_file: PEM trust anchors; None as for ``trust_anchors.pem``.
        wait: how long it goes on, in seconds, while the API is busy or cannot be reached: all requests together, but
            for the last try's own time. 0 is one try for each, `UNLIMITED` has no end. None is 15 minutes while it is
            busy, and four tries while there is no answer.
        deadline: seconds after which a single try is abandoned, however slowly its answer trickles in.
        sleep: waits between tries, in seconds; an argument so that tests need not wait.
        clock: seconds since some moment; an argument for the same reason.
        tell: is told why a request is sent again, when, and for how long it goes on.

    Raises:
        UsageError: the URL is not an HTTPS URL, or the CA file cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        code: Secret | None = None,
        ca_file: Path | None = None,
        wait: float | None = None,
        deadline: float = TRY_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        def authorize(_: Outgoing) -> Mapping[str, str]:
            return {} if code is None else {"Authorization": f"Bearer {code.reveal()}"}

        self._transport = Transport(
            checked_url(base_url),
            authorize,
            ca_file=ca_file,
            deadline=deadline,
            largest_answer=_LARGEST_ANSWER_BYTES,
        )
        self.has_invite = code is not None
        self._opened: Future[None] | None = None
        self._left = DEFAULT_WAIT_SECONDS if wait is None else wait
        self._outlasts_network = wait is not None
        self._sleep = sleep
        self._clock = clock
        self._tell = tell
        self._has_waited = False

    @property
    def base_url(self) -> str:
        """The API's URL, without a trailing slash."""
        return self._transport.base_url

    def close(self) -> None:
        """Close the connection to the API. The next request opens another."""
        self._transport.close()

    def enroll(self, csr: str, thing_name: str, meanwhile: Callable[[], None] | None = None) -> Issued:
        """Ask for a certificate (``POST /v1/certificates``).

        The same request is sent again while the API is busy (429, 500, 502, 503, 504) or does not answer, as `Patience`
        says: it returns the same certificate, even if an earlier try was carried out. A refusal is final, and so is a
        redirect, an unexpected response, a server that is not trusted, and a problem document of the backend that does
        not say when to come back.

        Args:
            csr: PEM.
            thing_name: name of the Thing.
            meanwhile: called, in a thread of its own, when the request has been sent; again when it is repeated.

        Raises:
            BackendUnreachableError, ThrottledError: try later.
            BackendRefusedError: with the API's own reason.
            UnexpectedResponseError, ApiTlsError: something other than the API answered.
        """
        if self._opened is not None:
            # Not for long: if this request failed, the next one shows why.
            wait([self._opened], _OPENING_SECONDS)

        def on_sent() -> None:
            if meanwhile is not None:
                started(meanwhile)

        content = json.dumps({"csr": csr, "thingName": thing_name}).encode("utf-8")
        answer = self._retried(lambda: self._transport.exchange("POST", CERTIFICATES, content, on_sent))
        if answer.status not in {200, 201}:
            raise refusal(answer, _hint)
        return _issued(answer, thing_name)

    def terms(self) -> Terms | None:
        """Return what the invite says (``GET /v1/invite``), before anything is created; repeated as by `enroll`.

        Without a code there is no invite to ask about. Then it returns at once, and the connection is opened meanwhile.

        Returns:
            None without a code, or from a backend of an earlier release, which does not tell.

        Raises:
            HsmEnrollError: as :meth:`enroll`.
        """
        if not self.has_invite:
            self._opened = started(self._open)
            return None
        answer = self._retried(lambda: self._transport.exchange("GET", INVITE))
        # API Gateway's own answer where a backend of an earlier release is deployed.
        if answer.status == 404 and answer.media_type == "application/json":
            return None
        if answer.status != 200:
            raise refusal(answer, _hint)
        members = document(answer)
        thing, uses_left = members.get("thing"), members.get("usesLeft")
        if not isinstance(thing, str) or not _THING_PATTERN.fullmatch(thing) or type(uses_left) is not int:
            raise unexpected(answer.url, _WRONG_MEMBER)
        needs_attestation = members.get("attestation") == "require"
        return Terms(thing, is_used_up=uses_left < 1, needs_attestation=needs_attestation)

    def clock(self) -> datetime | None:
        """Return what the API's clock shows, to the second; None if its answer has no valid date (RFC 9110 §6.6.1).

        Raises:
            HsmEnrollError: as :meth:`enroll`.
        """
        answer = self._retried(lambda: self._transport.exchange("GET", HEALTH))
        if answer.status != 200:
            raise refusal(answer, _hint)
        return answer.date

    def health(self) -> str:
        """Return the backend's version (``GET /v1/health``); one try.

        Raises:
            HsmEnrollError: as :meth:`enroll`.
        """
        answer = self._transport.exchange("GET", HEALTH)
        if answer.status != 200:
            raise refusal(answer, _hint)
        version = document(answer).get("version")
        if not isinstance(version, str):
            raise unexpected(answer.url, "no version in it")
        return printable(version)

    def _retried(self, send: Callable[[], Answer]) -> Answer:
        begin = self._clock()
        try:
            patience = Patience(self._left, self._outlasts_network)
            return retried(send, patience, self._sleep, self._tell_of_wait, self._clock)
        finally:
            self._left -= self._clock() - begin

    def _tell_of_wait(self, why: str) -> None:
        self._tell(why if self._has_waited else f"{why}. {_HOW_TO_STOP}")
        self._has_waited = True

    def _open(self) -> None:
        # If this fails, so does the request that follows, and that one says why.
        with suppress(HsmEnrollError):
            self.health()


def _hint(_: int, problem: Problem | None) -> str | None:
    return _HINTS.get(problem.code) if problem else None


def _issued(answer: Answer, thing_name: str) -> Issued:
    members = document(answer)
    for name, has_form in forms.ISSUED.items():
        if name not in members:
            raise unexpected(answer.url, f"{name} is missing")
        if not has_form(members[name]):
            raise unexpected(answer.url, f"{name} has the wrong type or value")
    if members["thingName"] != thing_name:
        raise unexpected(answer.url, f"a certificate for another Thing, '{printable(members['thingName'])}'")
    return Issued(
        certificate_pem=members["certificatePem"],
        certificate_id=members["certificateId"],
        thing_name=members["thingName"],
        mqtt_endpoint=members["mqttEndpoint"],
        mqtt_port=members["mqttPort"],
        attested=members["attested"],
    )
