"""The original article's client and backend in the same storm: a try every 5 seconds, four calls one after the other.

Each try creates a certificate of its own, which is active at once. A throttled call is repeated as boto3 does it. API
Gateway and Lambda are configured as ours are, and nothing times out, which is in the article's favour.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, insort

from benchmarks.storms.cloud import (
    GATEWAY_BURST,
    GATEWAY_RATE,
    IOT_SECONDS,
    NETWORK_SECONDS,
    Bucket,
    Function,
    Iot,
    Outcome,
)

_CALLS = ("CreateThing", "CreateCertificateFromCsr", "AttachPolicy", "AttachThingPrincipal")
_ATTEMPTS = 5  # botocore, retry mode "legacy"
_MICRO = 1_000_000
_PERIOD = 5 * _MICRO
_SPREAD = 1 * _MICRO


class _Waiting:
    """The clients that try every 5 s, by the time within those 5 s: refused ones need not be simulated one by one.

    Times are whole microseconds.
    """

    def __init__(self, firsts: list[int]) -> None:
        self._clients = sorted((first % _PERIOD, first) for first in firsts)

    def next(self, after: int) -> int | None:
        """Return when the first of them tries after a time; None if there is none."""
        if not self._clients:
            return None
        period, phase = divmod(after + 1, _PERIOD)
        index = bisect_left(self._clients, (phase,))
        if index == len(self._clients):
            return (period + 1) * _PERIOD + self._clients[0][0]
        return period * _PERIOD + self._clients[index][0]

    def leave(self, at: int) -> int:
        """Take the client out that tries at a time, and return how many tries it has made, this one included."""
        index = bisect_left(self._clients, (at % _PERIOD,))
        _, first = self._clients.pop(index)
        return (at - first) // _PERIOD + 1

    def enter(self, first: int) -> None:
        """Let a client try at a time, and every 5 s from then on."""
        insort(self._clients, (first % _PERIOD, first))


class _Storm:
    def __init__(self, gateways: int, lost: float, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a simulation, the same each time
        self._lost = lost
        self._waiting = _Waiting([self._random.randrange(_SPREAD) for _ in range(gateways)])
        self._gateway = Bucket(GATEWAY_RATE, GATEWAY_BURST)
        self._function = Function()
        self._iot = Iot()
        self._outcome = Outcome(gateways)
        # When, which of the four calls is made, and which attempt of it.
        self._calls: list[tuple[float, int, int]] = []

    def run(self) -> Outcome:
        now = 0
        while len(self._outcome.enrolled) < self._outcome.gateways:
            arrival = self._waiting.next(max(now, int(self._gateway.next(now / _MICRO) * _MICRO)))
            if self._calls and (arrival is None or self._calls[0][0] * _MICRO <= arrival):
                begin, call, attempt = heapq.heappop(self._calls)
                now = max(now, int(begin * _MICRO))
                self._call(begin, call, attempt)
            elif arrival is not None:
                now = arrival
                self._request(arrival)
        self._outcome.iot_calls = self._iot.calls
        self._outcome.active_wasted = self._outcome.wasted
        return self._outcome

    def _request(self, at: int) -> None:
        self._outcome.requests += self._waiting.leave(at)
        now = at / _MICRO
        begin = self._function.start(now) if self._gateway.take(now) else None
        if begin is None:
            self._waiting.enter(at + _PERIOD)
            return
        heapq.heappush(self._calls, (begin, 0, 1))
        self._function.occupy(math.inf)

    def _call(self, now: float, call: int, attempt: int) -> None:
        done = self._iot.call(_CALLS[call], now)
        self._outcome.certificates += done and _CALLS[call] == "CreateCertificateFromCsr"
        if done and call + 1 < len(_CALLS):
            heapq.heappush(self._calls, (now + IOT_SECONDS, call + 1, 1))
        elif not done and attempt < _ATTEMPTS:
            wait = self._random.random() * 2 ** (attempt - 1)
            heapq.heappush(self._calls, (now + IOT_SECONDS + wait, call, attempt + 1))
        else:
            self._end(now + IOT_SECONDS, has_certificate=done)

    def _end(self, now: float, *, has_certificate: bool) -> None:
        self._function.free(now)
        if has_certificate and self._random.random() >= self._lost:
            self._outcome.enrolled.append(now + NETWORK_SECONDS)
        else:
            self._waiting.enter(int(now * _MICRO) + _PERIOD)


def storm(gateways: int, lost: float = 0.0, seed: int = 1) -> Outcome:
    """As `ours.storm`; a lost answer is noticed at once."""
    return _Storm(gateways, lost, seed).run()
