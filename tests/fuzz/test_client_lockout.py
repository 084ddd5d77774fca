"""Properties of reading a TPM's count: whatever the tool prints, it is three sound numbers or nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.token.tpm2.lockout import FailedTries, parse

_RUN = settings(database=None, deadline=None, max_examples=150)
_UINT32 = st.integers(0, 2**32 - 1)
_COUNTING = st.integers(1, 2**32 - 1)
_NAMES = [b"LOCKOUT_COUNTER", b"MAX_AUTH_FAIL", b"LOCKOUT_INTERVAL"]


def _line(name: bytes, value: int) -> bytes:
    return b"TPM2_PT_%s: 0x%X\n" % (name, value)


_OTHER_LINES = st.lists(
    st.sampled_from(
        [
            b"TPM2_PT_PERMANENT:\n  inLockout:                 0\n",
            b"TPM2_PT_LOCKOUT_RECOVERY: 0x3E8\n",
            b"  TPM2_PT_MAX_AUTH_FAIL: 0x7\n",
            b"TPM2_PT_MAX_AUTH_FAIL: 7\n",
            b"TPM2_PT_MAX_AUTH_FAIL: 0x7 or so\n",
            b"TPM2_PT_MAX_AUTH_FAIL: 0x100000000\n",
        ]
    )
    | st.binary(max_size=8).map(lambda text: text.replace(b"\n", b"") + b"\n")
).map(b"".join)


@_RUN
@given(tries=_UINT32, limit=_COUNTING, interval=_COUNTING, others=st.tuples(*[_OTHER_LINES] * 4), order=st.data())
def test_three_numbers_are_read_among_other_lines(
    tries: int, limit: int, interval: int, others: tuple[bytes, ...], order: st.DataObject
) -> None:
    """D1: in any order and among any other lines the three properties are found, each where it belongs."""
    lines = [_line(name, value) for name, value in zip(_NAMES, (tries, limit, interval), strict=True)]
    first, *rest = order.draw(st.permutations(lines))
    printed = others[0] + first + b"".join(other + line for other, line in zip(others[1:], rest, strict=False))
    assert parse(printed + others[3]) == FailedTries(tries, limit, interval)


@_RUN
@given(values=st.lists(st.tuples(st.sampled_from(_NAMES), _UINT32), max_size=6))
def test_a_property_that_is_missing_or_there_twice_is_no_answer(values: list[tuple[bytes, int]]) -> None:
    """D1: only an answer that holds each property once, with a limit and an interval, is one."""
    read = parse(b"".join(_line(name, value) for name, value in values))
    named = dict(values)
    if len(values) != 3 or len(named) != 3 or 0 in (named[b"MAX_AUTH_FAIL"], named[b"LOCKOUT_INTERVAL"]):
        assert read is None
    else:
        assert read == FailedTries(*(named[name] for name in _NAMES))


_NEAR_MISSES = st.lists(
    st.sampled_from(
        [b"TPM2_PT_", *_NAMES, b": ", b"0x", b"0", b"3E8", b"ffffffff", b"-1", b"\n", b"\r", b"\0", b"\xff"]
    )
    | st.builds(_line, st.sampled_from(_NAMES), _UINT32)
    | st.binary(max_size=3)
).map(b"".join)


@_RUN
@given(st.binary() | _NEAR_MISSES)
def test_any_bytes_are_an_answer_or_none(printed: bytes) -> None:
    """D1: no bytes make the reader raise, and what it takes can be told to a person."""
    read = parse(printed)
    if read is None:
        return
    assert 0 <= read.failed_tries < 2**32
    assert 0 < read.limit < 2**32
    assert 0 < read.interval_seconds < 2**32
    assert read.summary
    assert read.recovery


@_RUN
@given(tries=_UINT32, limit=_COUNTING, interval=_COUNTING)
def test_a_refusal_ends(tries: int, limit: int, interval: int) -> None:
    """D1, D2: after the forgetting that a refusal tells of nothing is refused, and one try less it still is."""
    read = FailedTries(tries, limit, interval)
    if not (read.locked or read.one_before_lockout):
        return
    assert not (read.locked and read.one_before_lockout)
    to_forget = tries - max(limit - 2, 0)
    healed, not_yet = (FailedTries(tries - forgotten, limit, interval) for forgotten in (to_forget, to_forget - 1))
    assert healed.failed_tries >= 0
    assert not healed.locked
    assert not healed.one_before_lockout
    assert not_yet.locked or not_yet.one_before_lockout
