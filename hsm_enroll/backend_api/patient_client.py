"""What the devices' clients of the enrollment API have in common: one connection, and patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

from hsm_enroll.backend_api.answer import JSON, Answer, document, printable, refusal, unexpected
from hsm_enroll.backend_api.attestation import Policy, policy
from hsm_enroll.backend_api.deadline import TRY_SECONDS, started
from hsm_enroll.backend_api.hints import hint
from hsm_enroll.backend_api.patience import DEFAULT_WAIT_SECONDS, Patience
from hsm_enroll.backend_api.retry import retried
from hsm_enroll.backend_api.transport import Authorize, Transport
from hsm_enroll.backend_api.url import checked_url
from hsm_enroll.errors import ApiTlsError, BackendUnreachableError, HsmEnrollError, UnexpectedResponseError

HEALTH = "/v1/health"

_OPENING_SECONDS = 5.0
_LARGEST_ANSWER_BYTES = 64 * 1024
_EARLIER_RELEASE_HINT = (
    "The backend may be of an earlier release: ask the operator to update it. Else check the API's address."
)
_HOW_TO_STOP = "To stop, press Ctrl-C; the same command then resumes where it stopped."


class Options(TypedDict, total=False):
    """How a client goes about its requests.

    Attributes:
        ca_file: PEM trust anchors; None as for ``trust_anchors.pem``.
        wait: how long it goes on, in seconds, while the API is busy or cannot be reached: all requests together, but
            for the last try's own time. 0 is one try for each, `UNLIMITED` has no end. None is 15 minutes while it is
            busy, and four tries while there is no answer.
        deadline: seconds after which a single try is abandoned, however slowly its answer trickles in.
        sleep: waits between tries, in seconds; an option so that tests need not wait.
        clock: seconds since some moment; an option for the same reason.
        tell: is told why a request is sent again, when, and for how long it goes on.
    """

    ca_file: Path | None
    wait: float | None
    deadline: float
    sleep: Callable[[float], None]
    clock: Callable[[], float]
    tell: Callable[[str], None]


class Health(NamedTuple):
    """What a backend says about itself.

    Attributes:
        version: its version.
        attestation: whether TPMs have to attest keys, unless an invite says otherwise.
    """

    version: str
    attestation: Policy


class PatientClient:
    """A device's client of one enrollment API. It keeps its connection open between requests; `close` closes it.

    Args:
        base_url: ``https://…``, with or without a trailing slash.
        authorize: gives the headers that authorize a request.
        options: see :class:`Options`.

    Attributes:
        may_have_acted: whether the API may have carried out any request of `exchange`, answered or not.

    Raises:
        UsageError: the URL is not an HTTPS URL, or the CA file cannot be used.
    """

    def __init__(self, base_url: str, authorize: Authorize = lambda _: {}, **options: Unpack[Options]) -> None:
        limit = options.get("wait")
        self._transport = Transport(
            checked_url(base_url),
            authorize,
            ca_file=options.get("ca_file"),
            deadline=options.get("deadline", TRY_SECONDS),
            largest_answer=_LARGEST_ANSWER_BYTES,
        )
        self._opened: Future[Policy] | None = None
        self._left = DEFAULT_WAIT_SECONDS if limit is None else limit
        self._outlasts_network = limit is not None
        self._sleep = options.get("sleep", time.sleep)
        self._clock = options.get("clock", time.monotonic)
        self._tell = options.get("tell", _tell_nobody)
        self._has_waited = False
        self.may_have_acted = False

    @property
    def base_url(self) -> str:
        """The API's URL, without a trailing slash."""
        return self._transport.base_url

    def close(self) -> None:
        """Close the connection to the API. The next request opens another."""
        self._transport.close()

    def start_opening(self) -> None:
        """Open the connection, and have the Lambda function started, on another thread."""
        self._opened = started(self._open)

    def policy(self) -> Policy:
        """Return whether the deployment wants attestations, as it said when the connection was opened.

        If it did not say, that is ``off``: it may yet refuse a request for that reason.
        """
        if self._opened is None:
            return Policy.OFF
        wait([self._opened], _OPENING_SECONDS)
        return self._opened.result() if self._opened.done() else Policy.OFF

    def clock(self) -> datetime | None:
        """Return what the API's clock shows, to the second; None if its answer has no valid date (RFC 9110 §6.6.1).

        Raises:
            HsmEnrollError: the API does not answer.
        """
        answer = self.exchange("GET", HEALTH)
        if answer.status != 200:
            raise refusal(answer, hint)
        return answer.date

    def health(self) -> Health:
        """Return what the backend says about itself (``GET /v1/health``); one try.

        Raises:
            HsmEnrollError: the API does not answer.
        """
        answer = self._transport.exchange("GET", HEALTH)
        if answer.status != 200:
            raise refusal(answer, hint)
        members = document(answer)
        version = members.get("version")
        if not isinstance(version, str):
            raise unexpected(answer.url, "no version in it")
        return Health(printable(version), policy(members))

    def exchange(
        self,
        method: str,
        target: str,
        body: Callable[[], bytes | None] = lambda: None,
        meanwhile: Callable[[], None] | None = None,
        media_type: str = JSON,
    ) -> Answer:
        """Send a request, and send it again while the API is busy or does not answer, as `Patience` says.

        Args:
            method: of HTTP.
            target: path below the base URL.
            body: returns the request's body, or None; called for each try.
            meanwhile: called, in a thread of its own, when the request has been sent; again when it is repeated.
            media_type: the body's.

        Returns:
            The first answer that is final, whatever its status.

        Raises:
            HsmEnrollError: as ``Transport.exchange``, and what `body` raises.
        """
        if self._opened is not None:
            # Not for long: if this request failed, the next one shows why.
            wait([self._opened], _OPENING_SECONDS)

        def on_sent() -> None:
            if meanwhile is not None:
                started(meanwhile)

        begin = self._clock()
        try:
            patience = Patience(self._left, self._outlasts_network)
            return retried(
                lambda: self._tried(method, target, body(), on_sent, media_type),
                patience,
                self._sleep,
                self._tell_of_wait,
                self._clock,
            )
        finally:
            self._left -= self._clock() - begin

    def _tried(
        self, method: str, target: str, body: bytes | None, on_sent: Callable[[], None], media_type: str
    ) -> Answer:
        """Send a request once; until it is certain that the API did nothing, it may have."""
        had_acted, self.may_have_acted = self.may_have_acted, True
        try:
            answer = self._transport.exchange(method, target, body, on_sent, media_type)
        except BackendUnreachableError as error:
            self.may_have_acted = had_acted or error.sent
            raise
        except ApiTlsError as error:
            # The certificate is checked before anything is sent.
            self.may_have_acted = had_acted or not error.untimely
            raise
        self.may_have_acted = had_acted or not answer.had_no_effect
        return answer

    def _tell_of_wait(self, why: str) -> None:
        self._tell(why if self._has_waited else f"{why}. {_HOW_TO_STOP}")
        self._has_waited = True

    def _open(self) -> Policy:
        # If this fails, so does the request that follows, and that one says why.
        with suppress(HsmEnrollError):
            return self.health().attestation
        return Policy.OFF


def refuse_earlier_release(answer: Answer, path: str) -> None:
    """Check that an answer is not API Gateway's own, to a path that the backend does not have.

    Raises:
        UnexpectedResponseError: it is.
    """
    if answer.status == 404 and answer.media_type == JSON:
        raise UnexpectedResponseError(f"{answer.url} has no {path}", hint=_EARLIER_RELEASE_HINT)


def _tell_nobody(_: str) -> None:
    pass
