"""Properties of invites, over any code and any text."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hsm_enroll.backend_api.invite import parse
from hsm_enroll.errors import UsageError

_RUN = settings(database=None, deadline=None, max_examples=150)

_API = "https://api.example/#"
_SYMBOLS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_WRITTEN_AS = {"1": "1IiLl", "0": "0Oo"}


def _coded(number: int) -> str:
    """Write a number of 120 bits as Crockford does, with its check symbol."""
    bits = f"{number:0120b}"
    digits = [_SYMBOLS[int(bits[place : place + 5], 2)] for place in range(0, 120, 5)]
    return "".join(digits) + f"{_SYMBOLS}*~$=U"[number % 37]


_CODES = st.integers(0, 2**120 - 1).filter(lambda number: number % 37 < 32).map(_coded)


def _refusal(text: str) -> UsageError | None:
    try:
        code = parse(text).code.reveal()
    except UsageError as error:
        return error
    assert len(code) == 25
    assert set(code) <= set(_SYMBOLS)
    return None


def _is_refused(code: str) -> bool:
    return _refusal(_API + code) is not None


@_RUN
@given(_CODES, st.data())
def test_any_writing_of_a_code_is_read_alike(code: str, data: st.DataObject) -> None:
    """Any grouping with spaces and dashes, any case and any look-alike gives the same code."""
    written = "".join(
        data.draw(st.sampled_from(_WRITTEN_AS.get(symbol, symbol + symbol.lower())))
        + data.draw(st.text(" -", max_size=2))
        for symbol in code
    )
    assert parse(_API + written).code.reveal() == code


@_RUN
@given(_CODES, st.integers(0, 24), st.sampled_from(f"{_SYMBOLS}*~$=U"))
def test_one_wrong_character_is_found(code: str, place: int, other: str) -> None:
    """Any one character replaced by any other symbol is refused."""
    assume(code[place] != other)
    assert _is_refused(code[:place] + other + code[place + 1 :])


@_RUN
@given(_CODES)
def test_swapped_neighbours_are_found(code: str) -> None:
    """Any two different neighbours in each other's place are refused."""
    for place in range(24):
        swapped = code[:place] + code[place + 1] + code[place] + code[place + 2 :]
        assert swapped == code or _is_refused(swapped)


@_RUN
@given(_CODES, st.integers(0, 25), st.sampled_from(_SYMBOLS))
def test_a_missing_or_extra_character_is_found(code: str, place: int, extra: str) -> None:
    """A code that lost a character, or got one too many, is refused."""
    assert _is_refused(code[:place] + extra + code[place:])
    assert place == 25 or _is_refused(code[:place] + code[place + 1 :])


_FOREIGN = st.text() | st.lists(
    st.sampled_from(
        ["https://", "#", "-", " ", "%20", "\n", "\0", "\ufeff", "api.example", "\u0131", "\u017f", "\u212a", "\uff10"]
    )
    | st.text(_SYMBOLS, max_size=8)
    | st.characters(categories=["Cs"])
).map("".join)


@_RUN
@given(before=_FOREIGN, after=_FOREIGN)
def test_any_text_is_an_invite_or_wrong_usage_that_does_not_repeat_it(before: str, after: str) -> None:
    """No text makes the parser raise anything but UsageError, and nothing of the text is in it."""
    for start in ("", "https://", _API):
        error = _refusal(f"{start}{before}7K3QM{after}")
        assert error is None or "7K3QM" not in f"{error!r} {error.hint} {error.__cause__!r} {error.__context__!r}"
