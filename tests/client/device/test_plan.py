"""What a run of ``init`` decides to do, given what lies on the disk and what was asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_enroll.backend_api.client import Terms
from hsm_enroll.device.clock import check_end
from hsm_enroll.device.plan import (
    Obtain,
    Request,
    Said,
    SendMessage,
    Verify,
    attempt_with,
    decide,
    key_type_for,
    may_use,
    thing_for,
)
from hsm_enroll.errors import BackendRefusedError, ClockError, UsageError
from hsm_enroll.key import KeyType
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.uri import Pkcs11Uri
from tests.support.identities import identity
from tests.support.world import TOKEN, FakeKey, World, certificate_for

_NOW = datetime.now(UTC)
_WORLD = World()
_KEY = _WORLD.generate(KeyType.EC_P256, label="hsm-enroll-01", key_id=b"\x01")
_IDENTITY = identity(
    thing_name="gateway-17",
    certificate_pem=certificate_for(_KEY.public_key_info, "gateway-17", timedelta(days=30)),
    token=TOKEN,
    key_label=_KEY.label,
    key_id=_KEY.id,
    key_origin=_KEY.origin,
)
_FIRST = Attempt(TOKEN, KeyType.EC_P256, _KEY.label, _KEY.id, new_key=False)
_REPLACING = Attempt(TOKEN, KeyType.EC_P256, "hsm-enroll-02", b"\x02", new_key=True)
_REPLACED = replace(_FIRST, new_key=True)
_LATER = _NOW + timedelta(days=31)

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_FAR = datetime(2050, 1, 1, tzinfo=UTC)

_PLAIN = Request("gateway-17")
_NAMELESS = Request(None)
_NEW_KEY = Request("gateway-17", new_key=True)
_ELSE = Request("gateway-18", new_key=True)
_SAID_P384 = Said(key_type=KeyType.EC_P384)
_P384 = Request(None, new_key=True, said=_SAID_P384)
_CONFIGURED_P384 = Request(None, KeyType.EC_P384)
# What is in place, as exactly as it can be said.
_SAME = Said(_IDENTITY.api.upper(), KeyType.EC_P256, TOKEN.uri, TOKEN.module, has_invite=True)
_CONTRADICTIONS = {
    "another API": Said(api="https://other.example"),
    "another API in the invite": Said(api="https://other.example", has_invite=True),
    "another key type": _SAID_P384,
    "another label": Said(token=Pkcs11Uri(token="other")),
    "another serial": Said(token=TOKEN.uri._replace(serial="ff")),
    "another module": Said(module=Path("/elsewhere.so")),
}


def _obtain(name: str, under_way: Attempt | None, *, has_ended: bool = False) -> Obtain:
    """Return the plan to replace the identity."""
    return Obtain(name, under_way, _IDENTITY, has_ended=has_ended)


@pytest.mark.parametrize(
    ("request_", "identity", "attempt", "now", "plan"),
    [
        # Not enrolled.
        (_PLAIN, None, None, _NOW, Obtain("gateway-17", None)),
        (_PLAIN, None, _FIRST, _NOW, Obtain("gateway-17", _FIRST)),
        (_CONFIGURED_P384, None, _FIRST, _NOW, Obtain(None, _FIRST)),
        (_NEW_KEY, None, None, _NOW, Obtain("gateway-17", None)),
        (_NEW_KEY, None, _FIRST, _NOW, Obtain("gateway-17", _FIRST)),
        (_P384, None, _FIRST, _NOW, Obtain(None, _FIRST)),
        # Enrolled, and nothing under way.
        (_PLAIN, _IDENTITY, None, _NOW, Verify(_IDENTITY)),
        (_NAMELESS, _IDENTITY, None, _NOW, Verify(_IDENTITY)),
        (_CONFIGURED_P384, _IDENTITY, None, _NOW, Verify(_IDENTITY)),
        (Request(None, said=_SAME), _IDENTITY, None, _NOW, Verify(_IDENTITY)),
        (_NEW_KEY, _IDENTITY, None, _NOW, _obtain("gateway-17", None)),
        (_ELSE, _IDENTITY, None, _NOW, _obtain("gateway-18", None)),
        (_P384, _IDENTITY, None, _NOW, _obtain("gateway-17", None)),
        # Stored, and the first message not sent.
        (_PLAIN, _IDENTITY, _FIRST, _NOW, SendMessage(_IDENTITY)),
        (_NAMELESS, _IDENTITY, _REPLACED, _NOW, SendMessage(_IDENTITY)),
        (_CONFIGURED_P384, _IDENTITY, _REPLACED, _NOW, SendMessage(_IDENTITY)),
        (_NEW_KEY, _IDENTITY, _REPLACED, _NOW, SendMessage(_IDENTITY)),
        (Request(None, new_key=True, said=_SAME), _IDENTITY, _REPLACED, _NOW, SendMessage(_IDENTITY)),
        (_NEW_KEY, _IDENTITY, _FIRST, _NOW, _obtain("gateway-17", None)),
        (_ELSE, _IDENTITY, _REPLACED, _NOW, _obtain("gateway-18", None)),
        (_P384, _IDENTITY, _REPLACED, _NOW, _obtain("gateway-17", None)),
        # A replacement under way: only --new-key goes on with it.
        (_PLAIN, _IDENTITY, _REPLACING, _NOW, Verify(_IDENTITY)),
        (_NEW_KEY, _IDENTITY, _REPLACING, _NOW, _obtain("gateway-17", _REPLACING)),
        # The certificate has ended.
        (_PLAIN, _IDENTITY, None, _LATER, _obtain("gateway-17", None, has_ended=True)),
        (_NAMELESS, _IDENTITY, _FIRST, _LATER, _obtain("gateway-17", None, has_ended=True)),
        (_NAMELESS, _IDENTITY, _REPLACING, _LATER, _obtain("gateway-17", _REPLACING, has_ended=True)),
        (_NEW_KEY, _IDENTITY, None, _LATER, _obtain("gateway-17", None)),
        # A clock that is a little slow makes a new certificate look as if it came from the future.
        (_PLAIN, _IDENTITY, None, _NOW - timedelta(days=1.5), Verify(_IDENTITY)),
    ],
)
def test_each_state_has_its_plan(
    request_: Request, identity: Identity | None, attempt: Attempt | None, now: datetime, plan: object
) -> None:
    """What lies on the disk and what was asked for decide what is done, and nothing else does."""
    assert decide(request_, identity, attempt, now) == plan


@pytest.mark.parametrize("now", [_NOW, _LATER])
@pytest.mark.parametrize("attempt", [None, _FIRST, _REPLACING])
def test_an_enrolled_device_does_not_become_another_thing_by_the_way(attempt: Attempt | None, now: datetime) -> None:
    """Another Thing's name is refused unless a new key is asked for, whatever is under way."""
    with pytest.raises(UsageError, match="'gateway-17', not as 'gateway-18'"):
        decide(Request("gateway-18"), _IDENTITY, attempt, now)


@pytest.mark.parametrize(
    ("said", "keep"),
    [(Said(thing_name="gateway-18"), "leave out --thing gateway-18"), (Said(), "HSM_ENROLL_THING or in config.toml")],
)
def test_the_hint_names_the_source_of_a_things_name(said: Said, keep: str) -> None:
    """A name that contradicts what is in place is corrected where it comes from, which need not be an option."""
    with pytest.raises(UsageError) as raised:
        decide(Request("gateway-18", said=said), _IDENTITY, None, _NOW)
    assert keep in raised.value.hint
    assert "init --new-key --thing gateway-18 INVITE" in raised.value.hint


@pytest.mark.parametrize("attempt", [None, _FIRST, _REPLACING, _REPLACED])
@pytest.mark.parametrize("said", _CONTRADICTIONS.values(), ids=_CONTRADICTIONS)
def test_what_is_asked_for_may_not_contradict_what_is_in_place(said: Said, attempt: Attempt | None) -> None:
    """API, key type and token that are given in a run are not ignored: it says what is in place, and what to do."""
    with pytest.raises(UsageError, match="this device") as raised:
        decide(Request(None, said=said), _IDENTITY, attempt, _NOW)
    assert "hsm-enroll init --new-key " in raised.value.hint
    assert "eave out --" in raised.value.hint or said.has_invite
    plan = decide(Request(None, new_key=True, said=said), _IDENTITY, attempt, _NOW)
    assert plan == _obtain("gateway-17", attempt if attempt is _REPLACING else None)


@pytest.mark.parametrize(
    ("identity", "now"),
    [(None, _NEVER), (None, _FAR), (_IDENTITY, _NEVER), (_IDENTITY, _FAR), (_IDENTITY, _NOW - timedelta(days=3))],
)
@pytest.mark.parametrize("attempt", [None, _FIRST, _REPLACING])
@pytest.mark.parametrize("request_", [_PLAIN, _NEW_KEY])
def test_d14_with_a_clock_that_cannot_be_right_nothing_is_done(
    request_: Request, identity: Identity | None, attempt: Attempt | None, now: datetime
) -> None:
    """D14: before this version was made, after it can be in use, or before the device's own certificate was issued."""
    with pytest.raises(ClockError, match=f"clock is wrong: it says {now:%Y-%m-%d}"):
        decide(request_, identity, attempt, now)


@pytest.mark.parametrize(
    ("api", "is_wrong"), [(None, False), (_LATER, False), (_NOW, True), (_LATER - timedelta(days=2), True)]
)
def test_d14_a_certificate_ends_by_the_apis_clock(api: datetime | None, is_wrong: bool) -> None:
    """D14: a certificate that has ended by this machine's clock only means that this clock is wrong."""
    end = _IDENTITY.certificate.not_valid_after
    if is_wrong:
        with pytest.raises(ClockError, match="clock is wrong"):
            check_end(end, _LATER, api)
    else:
        check_end(end, _LATER, api)


@pytest.mark.parametrize("name", ["", "a b", "gateway-17\n", "../x", "$aws", "*", "ä", "x" * 65])
def test_s11_a_thing_needs_a_valid_name(name: str) -> None:
    """S11: a name that AWS IoT would refuse is wrong usage, before anything is asked."""
    with pytest.raises(UsageError, match="Thing name"):
        decide(Request(name), None, None, _NOW)


@given(
    request=st.builds(
        Request,
        st.sampled_from([None, "gateway-17", "gateway-18"]),
        st.sampled_from([KeyType.EC_P256, KeyType.EC_P384]),
        new_key=st.booleans(),
        said=st.sampled_from([Said(), _SAME, *_CONTRADICTIONS.values()]),
    ),
    attempt=st.sampled_from([None, _FIRST, _REPLACING, _REPLACED]),
    now=st.sampled_from([_NOW, _LATER, _NEVER, _FAR]),
)
def test_a_valid_identity_goes_only_when_told_to(request: Request, attempt: Attempt | None, now: datetime) -> None:
    """Without ``new_key``, a device with a valid certificate never asks for another one, nor with any wrong clock."""
    try:
        plan = decide(request, _IDENTITY, attempt, now)
    except UsageError:
        assert not request.new_key
        assert request.thing_name == "gateway-18" or request.said not in {Said(), _SAME}
        return
    except ClockError:
        assert now in {_NEVER, _FAR}
        return
    assert now not in {_NEVER, _FAR}
    assert request.new_key or request.said in {Said(), _SAME}
    assert not isinstance(plan, Obtain) or request.new_key or now == _LATER
    if isinstance(plan, Obtain):
        # The journal of an identity that is in place is not the journal of another one.
        assert plan.under_way is None or plan.under_way.key_id != _IDENTITY.key_id
        assert plan.has_ended or request.new_key
        assert now == _LATER or not plan.has_ended


def test_a_device_without_a_name_may_have_an_invite_that_knows_it() -> None:
    """Without a name and an identity the plan leaves the name to the invite."""
    assert decide(_NAMELESS, None, _FIRST, _NOW) == Obtain(None, _FIRST)


@pytest.mark.parametrize(
    ("wanted", "terms", "thing"),
    [
        ("gateway-17", None, "gateway-17"),
        ("gateway-17", Terms("gateway-17"), "gateway-17"),
        ("gateway-17", Terms("gateway-*"), "gateway-17"),
        ("gateway-17", Terms("*"), "gateway-17"),
        (None, Terms("gateway-17"), "gateway-17"),
    ],
)
def test_which_thing_the_device_becomes(wanted: str | None, terms: Terms | None, thing: str) -> None:
    """The name that was given, where the invite allows it; else the invite's."""
    assert thing_for(Obtain(wanted, None), terms) == thing


def test_a_used_invite_is_for_the_device_that_may_have_used_it() -> None:
    """S12: with a used invite only a device whose request may have been carried out goes on."""
    used = Terms("gateway-17", is_used_up=True)
    for under_way in (None, _FIRST):
        with pytest.raises(BackendRefusedError, match="used already"):
            thing_for(Obtain("gateway-17", under_way), used)
    assert thing_for(Obtain("gateway-17", replace(_FIRST, csr="-----BEGIN…")), used) == "gateway-17"


@pytest.mark.parametrize(
    ("wanted", "terms", "message"),
    [
        (None, None, "no Thing name given"),
        (None, Terms("gateway-*"), "any name that matches gateway-\\*"),
        (None, Terms("x" * 65), "not a valid Thing name"),
        ("gateway-18", Terms("gateway-17"), "for 'gateway-17', not for 'gateway-18'"),
        ("gateway-17x", Terms("gateway-17"), "not for 'gateway-17x'"),
        ("press-1", Terms("gateway-*"), "not for 'press-1'"),
    ],
)
def test_a_name_and_an_invite_that_do_not_fit_are_refused(
    wanted: str | None, terms: Terms | None, message: str
) -> None:
    """S12: no name, a name of another invite, and a name too long for a certificate are said before a key is made."""
    with pytest.raises((UsageError, BackendRefusedError), match=message):
        thing_for(Obtain(wanted, None), terms)


def test_an_attempt_under_way_is_resumed_as_it_is() -> None:
    """The same token and key type go on with the same key name and request."""
    under_way = replace(_FIRST, csr="-----BEGIN…", is_spent=True)
    moved = TOKEN._replace(module=Path("/elsewhere.so"), manufacturer="renamed")
    assert attempt_with(moved, _PLAIN, under_way) is under_way


def test_an_attempt_under_way_keeps_its_key_type() -> None:
    """After Ctrl-C on ``--key-type`` a plain run goes on with that type, whatever the configuration says."""
    rsa = replace(_FIRST, key_type=KeyType.RSA_4096)
    for request in (_PLAIN, _NEW_KEY, _CONFIGURED_P384):
        assert key_type_for(request, rsa) is KeyType.RSA_4096
        assert attempt_with(TOKEN, request, rsa) is rsa
    assert key_type_for(_CONFIGURED_P384, None) is KeyType.EC_P384
    assert key_type_for(_P384, None) is KeyType.EC_P384


@pytest.mark.parametrize("identity", [None, _IDENTITY])
def test_an_attempt_under_way_does_not_change_its_key_type_by_the_way(identity: Identity | None) -> None:
    """Another type that is asked for is refused, with the commands for both; ``new_key`` gives the key up."""
    attempt, now = replace(_REPLACING, key_type=KeyType.RSA_4096), _LATER if identity else _NOW
    said = Said(key_type=KeyType.EC_P256)
    with pytest.raises(UsageError, match="an unfinished enrollment uses a key of type rsa-4096, not ec-p256") as raised:
        decide(Request(None, said=said), identity, attempt, now)
    assert "hsm-enroll init --new-key --key-type ec-p256 INVITE" in raised.value.hint
    given_up = attempt_with(TOKEN, Request(None, new_key=True, said=said), attempt)
    # Its key is destroyed under its name.
    assert given_up == replace(attempt, key_type=KeyType.EC_P256)


def test_an_attempt_under_way_does_not_change_its_token_by_the_way() -> None:
    """Another token is refused unless ``new_key`` gives the attempt up; nothing in that token has its key's name."""
    other = TOKEN._replace(serial="ff")
    with pytest.raises(UsageError, match="an unfinished enrollment uses token 'gateway', serial '0a1b'"):
        attempt_with(other, _PLAIN, _FIRST)
    given_up = attempt_with(other, _NEW_KEY, _FIRST)
    assert given_up.key_id != _FIRST.key_id
    assert given_up.token == other


def test_a_new_attempt_has_a_name_of_its_own() -> None:
    """No key has the name of a key that is to be made."""
    attempts = [attempt_with(TOKEN, _NEW_KEY, None) for _ in range(100)]
    assert len({attempt.key_label for attempt in attempts}) == 100
    assert all(attempt.new_key and attempt.csr is None for attempt in attempts)


# One attribute of its birth after the other is not what it should be.
_LOOSE = [_KEY.origin._replace(**{name: not value}) for name, value in _KEY.origin._asdict().items()]


@pytest.mark.parametrize(
    ("key", "attempt", "request_", "usable"),
    [
        (None, _FIRST, _PLAIN, False),
        (_KEY, _FIRST, _PLAIN, True),
        (_KEY, _FIRST, _NEW_KEY, True),
        (_KEY, replace(_FIRST, is_spent=True), _PLAIN, True),
        (_KEY, replace(_FIRST, is_spent=True), _NEW_KEY, False),
        (_KEY, replace(_FIRST, key_type=KeyType.EC_P384), _PLAIN, False),
        *((replace(_KEY, origin=origin), _FIRST, _PLAIN, False) for origin in _LOOSE),
    ],
)
def test_which_key_is_enrolled(key: FakeKey | None, attempt: Attempt, request_: Request, usable: bool) -> None:
    """D8: a key of the attempt's type that was born in the token is used, unless the API will never take it."""
    assert may_use(key, attempt, request_) is usable
