"""Our gateways and our backend: the real decisions of both, `Patience` and `admission`, in simulated time.

Each gateway runs ``init --wait unlimited``: it asks about its invite, makes a key, and asks for its certificate.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from benchmarks.storms.cloud import (
    CERTIFICATE_RATE,
    GATEWAY_BURST,
    GATEWAY_RATE,
    IOT_SECONDS,
    NETWORK_SECONDS,
    TABLE_SECONDS,
    Bucket,
    Function,
    Iot,
    Outcome,
)
from enrollment_backend import admission
from enrollment_backend.aws_errors import ThrottledError
from hsm_enroll.backend_api.answer import Answer
from hsm_enroll.backend_api.patience import UNLIMITED, Patience, Tries
from hsm_enroll.backend_api.patience import Outcome as Try
from hsm_enroll.errors import BackendUnreachableError

_PATIENCE = Patience(UNLIMITED, outlasts_network=True)
_KEY_SECONDS = 1.0
_SPREAD_SECONDS = 1.0  # how far apart the gateways ask first

_GOOD = Answer("", 200, "application/json", b"")
_THROTTLED = Answer("", 429, "application/json", b"")
_UNAVAILABLE = Answer("", 503, "application/json", b"")
_LOST = BackendUnreachableError("no answer")


@dataclass(slots=True)
class _Gateway:
    """A gateway, and what the ledger has about it: its turn, and whether it has a certificate."""

    has_asked: bool = False
    tries: Tries = field(default_factory=Tries)
    turn: float | None = None
    has_certificate: bool = False


class _Storm:
    def __init__(self, gateways: int, lost: float, silence: float, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a simulation, the same each time
        self._lost, self._silence = lost, silence
        self._gateways = [_Gateway() for _ in range(gateways)]
        # For each route one, as API Gateway has it.
        self._invites, self._certificates = (Bucket(GATEWAY_RATE, GATEWAY_BURST) for _ in range(2))
        self._function = Function()
        self._iot = Iot()
        self._free_at = 0.0
        self._outcome = Outcome(gateways)
        # When, and which gateway sends a request, or has it attached: the second call of a request that has begun.
        self._events = [(self._random.random() * _SPREAD_SECONDS, number, False) for number in range(gateways)]
        heapq.heapify(self._events)

    def run(self) -> Outcome:
        while self._events:
            now, number, attaching = heapq.heappop(self._events)
            if attaching:
                self._attach(now, number)
            else:
                self._outcome.requests += 1
                self._request(now, number)
        self._outcome.enrolled.sort()
        self._outcome.iot_calls = self._iot.calls
        return self._outcome

    def _request(self, now: float, number: int) -> None:
        gateway = self._gateways[number]
        bucket = self._certificates if gateway.has_asked else self._invites
        if not bucket.take(now):
            return self._answer(now, number, _THROTTLED)
        begin = self._function.start(now)
        if begin is None:
            return self._answer(now, number, _UNAVAILABLE)
        begin += TABLE_SECONDS
        if not gateway.has_asked:
            self._function.occupy(begin)
            return self._answer(begin, number, _GOOD)
        return self._enroll(begin, number, gateway)

    def _enroll(self, now: float, number: int, gateway: _Gateway) -> None:
        """Do what ``EnrollmentService.enroll`` does."""
        if gateway.turn is None:
            gateway.turn, self._free_at = admission.turn(self._free_at, now, CERTIFICATE_RATE)
        seconds = admission.seconds_to_wait(gateway.turn, now)
        if seconds:
            self._function.occupy(now)
            return self._answer(now, number, _problem(seconds))
        if gateway.has_certificate:
            self._function.occupy(now + IOT_SECONDS)
            return self._attach(now, number)
        made_thing = self._iot.call("CreateThing", now)
        made_certificate = self._iot.call("CreateCertificateFromCsr", now)
        self._outcome.certificates += made_certificate
        if not (made_thing and made_certificate):
            # A certificate without its Thing is deleted.
            self._function.occupy(now + IOT_SECONDS)
            return self._throttled(now + IOT_SECONDS, number)
        gateway.has_certificate = True
        attaching = now + IOT_SECONDS + TABLE_SECONDS
        self._function.occupy(attaching + IOT_SECONDS)
        heapq.heappush(self._events, (attaching, number, True))
        return None

    def _attach(self, now: float, number: int) -> None:
        has_policy = self._iot.call("AttachPolicy", now)
        has_thing = self._iot.call("AttachThingPrincipal", now)
        if not (has_policy and has_thing):
            return self._throttled(now + IOT_SECONDS, number)
        return self._answer(now + IOT_SECONDS, number, _GOOD)

    def _throttled(self, now: float, number: int) -> None:
        self._answer(now, number, _problem(ThrottledError.retry_after))

    def _answer(self, now: float, number: int, answer: Answer) -> None:
        """Give a gateway its answer, unless that is lost, and let it decide what it does next."""
        gateway = self._gateways[number]
        is_lost = self._random.random() < self._lost
        heard = now + (self._silence if is_lost else NETWORK_SECONDS)
        outcome: Try = _LOST if is_lost else answer
        gateway.tries = gateway.tries.plus(outcome)
        pause = _PATIENCE.pause(outcome, gateway.tries, 0.0)
        if pause is not None:
            again = heard + pause.seconds(self._random.uniform)
        elif gateway.has_asked:
            self._outcome.enrolled.append(heard)
            return
        else:
            gateway.has_asked, gateway.tries = True, Tries()
            again = heard + _KEY_SECONDS
        heapq.heappush(self._events, (again, number, False))


def storm(gateways: int, lost: float = 0.0, silence: float = NETWORK_SECONDS, seed: int = 1) -> Outcome:
    """Let so many gateways begin within a second.

    Args:
        gateways: how many.
        lost: the part of all answers that do not arrive.
        silence: seconds after which a gateway notices that; by default at once, as if the connection was cut.
        seed: of the random numbers; with the same one the outcome is the same.
    """
    return _Storm(gateways, lost, silence, seed).run()


def _problem(seconds: int) -> Answer:
    return Answer("", 429, "application/problem+json", b"", str(seconds))
