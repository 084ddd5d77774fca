"""The one loop that sends a request again; whether and when is the decision of a policy, see `patience`."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from hsm_enroll.backend_api.answer import Answer, in_words
from hsm_enroll.backend_api.patience import Outcome, Pause, Policy, Tries
from hsm_enroll.errors import BackendUnreachableError


def retried(
    send: Callable[[], Answer],
    policy: Policy,
    sleep: Callable[[float], None],
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Send a request until its outcome is final.

    Args:
        send: one try.
        policy: decides whether there is another.
        sleep: waits, in seconds.
        tell: is told before each wait why it waits, for how long, and when it will give up; of waits below a second
            only if that differs from what it was told last.
        clock: seconds since some moment.

    Raises:
        BackendUnreachableError: the last try got no answer.
        HsmEnrollError: what else a try raises.
    """
    tries, begin, told = Tries(), clock(), ""
    while True:
        outcome = _outcome(send)
        tries = tries.plus(outcome)
        pause = policy.pause(outcome, tries, clock() - begin)
        if pause is None:
            if isinstance(outcome, BackendUnreachableError):
                raise outcome
            return outcome
        seconds = pause.seconds(random.uniform)
        text = f"{_why(outcome)}; trying again{_when(seconds)}{_until(pause)}"
        if seconds >= 1 or text != told:
            tell(text)
        told = text
        sleep(seconds)


def _outcome(send: Callable[[], Answer]) -> Outcome:
    try:
        return send()
    except BackendUnreachableError as error:
        return error


def _why(outcome: Outcome) -> str:
    if isinstance(outcome, BackendUnreachableError):
        return outcome.message
    return f"{outcome.url} is busy (status {outcome.status})"


def _when(seconds: float) -> str:
    return f" in {in_words(seconds)}" if seconds >= 1 else ""


def _until(pause: Pause) -> str:
    if pause.more is not None:
        return f", up to {pause.more} more times" if pause.more > 1 else ", for the last time"
    if pause.left is None:
        return ""
    return ", until it succeeds" if math.isinf(pause.left) else f", for up to {in_words(pause.left)}"
