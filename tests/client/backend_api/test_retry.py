"""When a request is sent again, and how long is waited before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hsm_enroll.backend_api.answer import Answer
from hsm_enroll.backend_api.retry import Policy, retried
from hsm_enroll.errors import ApiTlsError, BackendUnreachableError

_CAREFUL = Policy(tries=3, tries_by_status={429: 3, 503: 3}, only_when_asked={503})
_IDEMPOTENT = Policy(tries=4, tries_by_status={500: 2, 503: 4}, repeats_sent=True)
_NOT_SENT = BackendUnreachableError("no connection", sent=False)
_LOST = BackendUnreachableError("no answer")
_ABANDONED = BackendUnreachableError("no answer in time", abandoned=True)


def _answer(status: int, retry_after: str = "") -> Answer:
    return Answer("https://api.example", status, "", b"", retry_after)


def _sender(*outcomes: Answer | Exception) -> tuple[Callable[[], Answer], list[int]]:
    """Return what sends a request with these outcomes, the last one again and again, and counts how often."""
    tries = list[int]()

    def send() -> Answer:
        outcome = outcomes[min(len(tries), len(outcomes) - 1)]
        tries.append(len(tries) + 1)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return send, tries


@pytest.mark.parametrize(
    ("policy", "outcomes", "tries"),
    [
        pytest.param(_CAREFUL, [_answer(200)], 1, id="good"),
        pytest.param(_CAREFUL, [_answer(404)], 1, id="a status that is not named"),
        pytest.param(_CAREFUL, [_answer(429)], 3, id="busy"),
        pytest.param(_CAREFUL, [_answer(503)], 1, id="503 that does not ask to come back"),
        pytest.param(_CAREFUL, [_answer(503, "0")], 1, id="503 that asks for no wait"),
        pytest.param(_CAREFUL, [_answer(503, "1")], 3, id="503 that asks to come back"),
        pytest.param(_CAREFUL, [_answer(429, "20")], 3, id="the longest wait"),
        pytest.param(_CAREFUL, [_answer(429, "21")], 1, id="too long a wait"),
        pytest.param(_CAREFUL, [_answer(429), _NOT_SENT, _answer(200)], 3, id="one after the other"),
        pytest.param(_IDEMPOTENT, [_answer(500)], 2, id="a status with tries of its own"),
        pytest.param(_IDEMPOTENT, [_answer(503), _answer(500)], 2, id="they count what came before"),
    ],
)
def test_an_answer_is_final_or_asked_for_again(policy: Policy, outcomes: list[Answer | Exception], tries: int) -> None:
    """D16: only the statuses of the policy are tried again, as often as it says, and the last answer is returned."""
    send, sent = _sender(*outcomes)
    waits: list[float] = []
    assert retried(send, policy, waits.append) is outcomes[-1]
    assert len(sent) == tries == len(waits) + 1


@pytest.mark.parametrize(
    ("policy", "error", "tries"),
    [
        pytest.param(_CAREFUL, _NOT_SENT, 3, id="not sent"),
        pytest.param(_CAREFUL, _LOST, 1, id="perhaps carried out"),
        pytest.param(_IDEMPOTENT, _LOST, 4, id="perhaps carried out, and may be twice"),
        pytest.param(_IDEMPOTENT, _ABANDONED, 1, id="perhaps still under way"),
        pytest.param(_IDEMPOTENT, ApiTlsError("not trusted"), 1, id="any other error"),
    ],
)
def test_a_request_without_an_answer_is_repeated_if_the_policy_allows(
    policy: Policy, error: Exception, tries: int
) -> None:
    """D16: what may have been carried out is repeated only where the policy says so, and what is under way never."""
    send, sent = _sender(error)
    with pytest.raises(type(error)) as raised:
        retried(send, policy, lambda _: None)
    assert raised.value is error
    assert len(sent) == tries


def test_each_wait_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """D16: before each wait it says why, and when the next try is; the last try is not followed by a wait."""
    monkeypatch.setattr("random.uniform", lambda low, high: low + high)
    told: list[str] = []
    send, _ = _sender(_answer(429, "2"), _NOT_SENT, _answer(503))
    retried(send, Policy(tries=3, tries_by_status={429: 3, 503: 3}), lambda _: None, told.append)
    assert told == [
        "https://api.example is busy (status 429); trying again in 2 s",
        "no connection; trying again in 1 s",
    ]


def test_a_wait_of_less_than_a_second_has_no_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """D16: nobody needs to know that the next try is 0.0 s away."""
    monkeypatch.setattr("random.uniform", lambda low, _: low)
    told: list[str] = []
    send, _ = _sender(_NOT_SENT, _answer(503))
    retried(send, Policy(tries=2, tries_by_status={}), lambda _: None, told.append)
    assert told == ["no connection; trying again"]


def test_the_waits_have_full_jitter_on_top_of_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """D16: each wait is Retry-After and a random part from zero to a limit that doubles up to 20 s."""
    monkeypatch.setattr("random.uniform", lambda low, high: low + high)
    waits: list[float] = []
    send, _ = _sender(_answer(429, "2"), _NOT_SENT, _answer(429, "soon"))
    retried(send, Policy(tries=9, tries_by_status={429: 9}), waits.append)
    assert waits == [2.5, 1, 2, 4, 8, 16, 20, 20]
