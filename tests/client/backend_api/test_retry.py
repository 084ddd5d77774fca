"""When a request is sent again, how long is waited before, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from hsm_enroll.backend_api.answer import Answer
from hsm_enroll.backend_api.patience import Limits, Outcome, Patience, Pause, Policy, Tries
from hsm_enroll.backend_api.retry import retried
from hsm_enroll.errors import ApiTlsError, BackendUnreachableError
from tests.client.backend_api.patient import Waits

_LIMITS = Limits(tries=3, statuses={429, 503}, only_when_asked={503})
_PROBLEM = "application/problem+json"
_NOT_SENT = BackendUnreachableError("no connection", sent=False)
_LOST = BackendUnreachableError("no answer")
_ABANDONED = BackendUnreachableError("no answer in time", abandoned=True)


def _answer(status: int, retry_after: str = "", media_type: str = "") -> Answer:
    return Answer("https://api.example", status, media_type, b"", retry_after)


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


@pytest.fixture
def most_unlucky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every random wait be the longest."""
    monkeypatch.setattr("random.uniform", lambda low, high: low + high)


@pytest.mark.parametrize(
    ("outcomes", "tries"),
    [
        pytest.param([_answer(200)], 1, id="good"),
        pytest.param([_answer(404)], 1, id="a status that is not named"),
        pytest.param([_answer(429)], 3, id="busy"),
        pytest.param([_answer(503)], 1, id="503 that does not ask to come back"),
        pytest.param([_answer(503, "0")], 1, id="503 that asks for no wait"),
        pytest.param([_answer(503, "1")], 3, id="503 that asks to come back"),
        pytest.param([_answer(429, "20")], 3, id="the longest wait"),
        pytest.param([_answer(429, "21")], 1, id="too long a wait"),
        pytest.param([_answer(429), _NOT_SENT, _answer(200)], 3, id="one after the other"),
    ],
)
def test_an_operators_request_is_tried_a_few_times(outcomes: list[Answer | Exception], tries: int) -> None:
    """D16: only the statuses of the limits are tried again, as often as they say, and the last answer is returned."""
    send, sent = _sender(*outcomes)
    waits = Waits()
    assert retried(send, _LIMITS, waits.append) is outcomes[-1]
    assert len(sent) == tries == len(waits) + 1


@pytest.mark.parametrize(
    ("policy", "error", "tries"),
    [
        pytest.param(_LIMITS, _NOT_SENT, 3, id="operator, not sent"),
        pytest.param(_LIMITS, _LOST, 1, id="operator, perhaps carried out"),
        pytest.param(Patience(), _LOST, 4, id="device, perhaps carried out"),
        pytest.param(Patience(), _ABANDONED, 1, id="device, perhaps still under way"),
        pytest.param(Patience(0), _NOT_SENT, 1, id="device without patience"),
        pytest.param(Patience(), ApiTlsError("not trusted"), 1, id="any other error"),
    ],
)
def test_a_request_without_an_answer_is_repeated_if_the_policy_allows(
    policy: Policy, error: Exception, tries: int
) -> None:
    """D15, D16: what may have been carried out is repeated only by devices, and what is under way by default never."""
    send, sent = _sender(error)
    with pytest.raises(type(error)) as raised:
        retried(send, policy, lambda _: None)
    assert raised.value is error
    assert len(sent) == tries


@pytest.mark.parametrize("error", [_NOT_SENT, _LOST, _ABANDONED], ids=["not sent", "lost", "abandoned"])
def test_a_given_time_is_spent_without_a_network_too(error: BackendUnreachableError) -> None:
    """D15: an unattended first boot waits for its network as long as it is told to."""
    send, _ = _sender(error)
    waits = Waits()
    with pytest.raises(BackendUnreachableError):
        retried(send, Patience(3600, outlasts_network=True), waits.append, clock=waits.clock)
    assert sum(waits) == pytest.approx(3600)


def test_lost_answers_between_others_do_not_add_up() -> None:
    """D16: only four tries in a row without an answer mean that the API cannot be reached."""
    outcomes: list[Answer | Exception] = [*[_LOST] * 3, _answer(429), *[_LOST] * 3, _answer(200)]
    send, sent = _sender(*outcomes)
    waits = Waits()
    assert retried(send, Patience(), waits.append, clock=waits.clock).status == 200
    assert len(sent) == len(outcomes)


@pytest.mark.parametrize(
    ("outcome", "elapsed", "pause"),
    [
        pytest.param(_answer(200), 0, None, id="good"),
        pytest.param(_answer(400, "5", _PROBLEM), 0, None, id="a refusal"),
        pytest.param(_answer(404), 0, None, id="wrong address"),
        pytest.param(_answer(511), 0, None, id="a network login"),
        pytest.param(_answer(503), 0, Pause(0, 0.5, 900), id="API Gateway's own"),
        pytest.param(_answer(500), 0, Pause(0, 0.5, 900), id="API Gateway's own 500"),
        pytest.param(_answer(503, "", _PROBLEM), 0, None, id="the backend's, which does not ask to come back"),
        pytest.param(_answer(503, "5", _PROBLEM), 0, Pause(5, 0.5, 900), id="the backend's, which does"),
        pytest.param(_answer(429, "800", _PROBLEM), 0, Pause(800, 0.5, 900), id="a place in the queue"),
        pytest.param(_answer(429, "800", _PROBLEM), 101, None, id="a place after the end"),
        pytest.param(_answer(429), 899.5, Pause(0, 0.5, 0.5), id="just before the end"),
        pytest.param(_answer(429), 900, None, id="at the end"),
    ],
)
def test_a_device_decides(outcome: Outcome, elapsed: float, pause: Pause | None) -> None:
    """D16, S25: "try later" is waited for within the time; whatever else an answer says is final at once."""
    assert Patience().pause(outcome, Tries().plus(outcome), elapsed) == pause


def test_a_wrong_header_puts_no_device_out_of_action() -> None:
    """D16: without an end, a Retry-After of months is one of a day."""
    answer = _answer(503, "9999999")
    assert Patience(math.inf).pause(answer, Tries().plus(answer), 0) == Pause(24 * 3600, 0.5, math.inf)


@pytest.mark.usefixtures("most_unlucky")
def test_a_device_waits_longer_and_longer_until_it_is_told_a_time() -> None:
    """D16: the limit of the wait doubles up to 5 minutes; after a Retry-After it begins anew."""
    waits = Waits()
    send, _ = _sender(*[_answer(429)] * 11, _answer(429, "7"), _answer(429), _answer(200))
    retried(send, Patience(math.inf), waits.append, clock=waits.clock)
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 7.5, 1]


def test_a_week_of_tries_is_no_overflow() -> None:
    """D16: after thousands of tries the wait is still at most 5 minutes."""
    assert Tries(9999, 9999, 0).backoff(300) == 300


@pytest.mark.usefixtures("most_unlucky")
def test_an_operators_waits_have_full_jitter_on_top_of_what_is_asked() -> None:
    """D16: each wait is Retry-After and a random part from zero to a limit that doubles up to 20 s."""
    waits = Waits()
    send, _ = _sender(_answer(429, "2"), _NOT_SENT, _answer(429, "soon"))
    retried(send, Limits(tries=9, statuses={429}), waits.append)
    assert waits == [2.5, 1, 2, 4, 8, 16, 20, 20]


@pytest.mark.usefixtures("most_unlucky")
@pytest.mark.parametrize(
    ("policy", "endings"),
    [
        (Limits(tries=3, statuses={429}), (", up to 2 more times", ", for the last time")),
        (Patience(900), (", for up to 15 min", ", up to 3 more times")),
        (Patience(900, outlasts_network=True), (", for up to 15 min", ", for up to 15 min")),
        (Patience(math.inf, outlasts_network=True), (", until it succeeds", ", until it succeeds")),
    ],
    ids=["operator", "15 minutes", "15 minutes asked for", "unlimited"],
)
def test_each_wait_is_told_with_its_reason(policy: Policy, endings: tuple[str, str]) -> None:
    """D16: before each wait it says why, when the next try is and how long it goes on; an end needs no wait."""
    told: list[str] = []
    waits = Waits()
    send, _ = _sender(_answer(429, "2"), _NOT_SENT, _answer(400))
    retried(send, policy, waits.append, told.append, waits.clock)
    assert told == [
        f"https://api.example is busy (status 429); trying again in 2 s{endings[0]}",
        f"no connection; trying again in 1 s{endings[1]}",
    ]


def test_a_wait_of_less_than_a_second_has_no_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """D16: nobody needs to know that the next try is 0.0 s away, nor to read the same line again."""
    monkeypatch.setattr("random.uniform", lambda low, _: low)
    told: list[str] = []
    waits = Waits()
    send, _ = _sender(_answer(503), _answer(503), _NOT_SENT, _NOT_SENT, _answer(400))
    retried(send, Patience(900), waits.append, told.append, waits.clock)
    assert told == [
        "https://api.example is busy (status 503); trying again, for up to 15 min",
        "no connection; trying again, up to 3 more times",
        "no connection; trying again, up to 2 more times",
    ]
