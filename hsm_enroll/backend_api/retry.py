"""The one loop that sends a request again, with full jitter; when it may do so is a value, the caller's policy."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from hsm_enroll.backend_api.answer import Answer
from hsm_enroll.errors import BackendUnreachableError

BACKOFF_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Policy:
    """When a request is sent again. One that never left this machine always is.

    Attributes:
        tries: how often it is sent at most.
        tries_by_status: the same for a status; an answer with any other status is final.
        only_when_asked: of these statuses, those whose answer is final unless it has a Retry-After.
        repeats_sent: whether it is sent again after a request that may have been carried out and got no answer.
    """

    tries: int
    tries_by_status: Mapping[int, int]
    only_when_asked: Set[int] = frozenset()
    repeats_sent: bool = False

    def is_final(self, answer: Answer, tries: int) -> bool:
        """Whether an answer is taken as it is after so many tries."""
        if answer.status in self.only_when_asked and not answer.wait:
            return True
        return tries >= self.tries_by_status.get(answer.status, 0) or answer.wait > _LONGEST_WAIT_SECONDS

    def gives_up(self, error: BackendUnreachableError, tries: int) -> bool:
        """Whether a request without an answer is not sent again after so many tries."""
        # An abandoned request may still arrive: a second one beside it would be two at once.
        return tries >= self.tries or error.abandoned or (error.sent and not self.repeats_sent)


def retried(
    send: Callable[[], Answer],
    policy: Policy,
    sleep: Callable[[float], None],
    tell: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Send a request until its answer is final.

    Between two tries it waits as long as Retry-After asks, and on top of that a random time from zero to a limit that
    doubles each time. A Retry-After of more than 20 s is not waited for.

    Args:
        send: one try.
        policy: when to try again.
        sleep: waits, in seconds.
        tell: is told before each wait why it waits and how long.

    Raises:
        BackendUnreachableError: the last try got no answer.
        HsmEnrollError: what else a try raises.
    """
    tries = 0
    while True:
        tries += 1
        asked = 0.0
        try:
            answer = send()
        except BackendUnreachableError as error:
            if policy.gives_up(error, tries):
                raise
            why = error.message
        else:
            if policy.is_final(answer, tries):
                return answer
            asked = answer.wait
            why = f"{answer.url} is busy (status {answer.status})"
        longest = min(_LONGEST_WAIT_SECONDS, BACKOFF_SECONDS * 2 ** (tries - 1))
        wait = asked + random.uniform(0, longest)  # noqa: S311 - spreads load, protects nothing
        when = f" in {wait:.0f} s" if wait >= 1 else ""
        tell(f"{why}; trying again{when}")
        sleep(wait)
