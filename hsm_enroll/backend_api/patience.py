"""Whether a request is sent again, and when: pure decisions, which the client and ``scripts/bench storm`` share."""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hsm_enroll.backend_api.answer import Answer
from hsm_enroll.errors import BackendUnreachableError

BACKOFF_SECONDS = 0.5
DEFAULT_WAIT_SECONDS = 15 * 60.0
UNLIMITED = math.inf

Outcome = Answer | BackendUnreachableError
"""What a try ended with: an answer of any status, or none."""

# Of the API, or API Gateway's own, whose bodies say nothing: throttled, the function failed or is fully occupied.
_TRY_LATER = frozenset({429, 500, 502, 503, 504})
_UNANSWERED_TRIES = 4
_LONGEST_BACKOFF_SECONDS = 300.0
_LONGEST_ASKED_SECONDS = 24 * 3600.0
_LONGEST_WAIT_OF_LIMITS_SECONDS = 20.0


class Tries(NamedTuple):
    """The tries of one request so far.

    Attributes:
        total: all of them.
        unasked: those since the API last said when to come back, that one included; all if it never did.
        unanswered: the last ones in a row that got no answer.
    """

    total: int = 0
    unasked: int = 0
    unanswered: int = 0

    def plus(self, outcome: Outcome) -> Tries:
        """Return the tries including one more that ended like this."""
        if isinstance(outcome, BackendUnreachableError):
            return Tries(self.total + 1, self.unasked + 1, self.unanswered + 1)
        return Tries(self.total + 1, 1 if outcome.wait else self.unasked + 1, 0)

    def backoff(self, longest: float) -> float:
        """Return the limit of the random wait in seconds: 0.5 s, doubled with each try, but not above the longest."""
        # Above 2 ** 1023 a float overflows; days of tries are many.
        return min(longest, BACKOFF_SECONDS * 2.0 ** min(self.unasked - 1, 64))


class Pause(NamedTuple):
    """A wait before the next try, in seconds.

    Attributes:
        asked: what the API asks for (Retry-After).
        jitter: the longest random wait on top of it.
        left: how long the request may go on in all; None if it is limited by the number of tries only.
        more: how many more tries there are at most, if the next ones end alike; None if only the time limits them.
    """

    asked: float
    jitter: float
    left: float | None = None
    more: int | None = None

    def seconds(self, uniform: Callable[[float, float], float]) -> float:
        """Draw the wait, with full jitter. The last try is made when the time is up."""
        drawn = self.asked + uniform(0, self.jitter)
        return drawn if self.left is None else min(drawn, self.left)


class Policy(Protocol):
    """Decides whether a request is sent again."""

    def pause(self, outcome: Outcome, tries: Tries, elapsed: float) -> Pause | None:
        """Return the wait before the next try; None if the outcome is final.

        Args:
            outcome: what the last try ended with.
            tries: including that one.
            elapsed: seconds since the first of them began.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """A few tries within a minute or two, for an operator. A request that never left this machine is always repeated.

    Attributes:
        tries: how often it is sent at most.
        statuses: those that are tried again; an answer with any other status is final.
        only_when_asked: of these statuses, those whose answer is final unless it has a Retry-After.
    """

    tries: int
    statuses: Set[int]
    only_when_asked: Set[int] = frozenset()

    def pause(self, outcome: Outcome, tries: Tries, elapsed: float) -> Pause | None:
        """Decide; a Retry-After of more than 20 s is not waited for, nor is a request repeated that was sent."""
        del elapsed
        if tries.total >= self.tries:
            return None
        asked = 0.0
        if isinstance(outcome, BackendUnreachableError):
            if outcome.sent:
                return None
        else:
            asked = outcome.wait
            if outcome.status not in self.statuses or asked > _LONGEST_WAIT_OF_LIMITS_SECONDS:
                return None
            if outcome.status in self.only_when_asked and not asked:
                return None
        return Pause(asked, tries.backoff(_LONGEST_WAIT_OF_LIMITS_SECONDS), more=self.tries - tries.total)


@dataclass(frozen=True, slots=True)
class Patience:
    """As many tries as a time allows, for a device: the API answers a repeated request with the same certificate.

    Attributes:
        seconds: how long a request goes on while the API is busy; 0 is one try, `UNLIMITED` has no end.
        outlasts_network: whether it goes on for as long while there is no answer. Otherwise four tries in a row without
            an answer are the last, and so is one that was abandoned and may still arrive.
    """

    seconds: float = DEFAULT_WAIT_SECONDS
    outlasts_network: bool = False

    def pause(self, outcome: Outcome, tries: Tries, elapsed: float) -> Pause | None:
        """Decide; the wait grows up to 5 minutes. A Retry-After that ends after the time is up is not waited for."""
        left = self.seconds - elapsed
        asked, more = 0.0, None
        if isinstance(outcome, BackendUnreachableError):
            more = None if self.outlasts_network else _UNANSWERED_TRIES - tries.unanswered
            may_pass = more is None or (more > 0 and not outcome.abandoned)
        else:
            may_pass = _may_pass(outcome)
            # Asking sooner costs little, and a wrong header would put a device out of action for months.
            asked = min(outcome.wait, _LONGEST_ASKED_SECONDS)
        if not may_pass or left <= 0 or asked > left:
            return None
        return Pause(asked, tries.backoff(_LONGEST_BACKOFF_SECONDS), left, more)


def _may_pass(answer: Answer) -> bool:
    """Whether the same request may succeed later. The backend's own problem documents say so with a Retry-After."""
    return answer.status in _TRY_LATER and (not answer.is_problem or answer.retry_after != "")
