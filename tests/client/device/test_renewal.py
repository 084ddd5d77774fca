"""Renewal against a token, an API and a broker in memory: what it does, and what a power cut cannot break."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hsm_enroll.backend_api.client import Issued
from hsm_enroll.backend_api.proofs import Prove
from hsm_enroll.device import renewal_plan
from hsm_enroll.device.enrollment import enroll
from hsm_enroll.device.pending import What, pending
from hsm_enroll.device.plan import Request
from hsm_enroll.device.renewal import Outcome, renew
from hsm_enroll.device.renewal_due import due, due_at
from hsm_enroll.device.renewal_plan import After, Task
from hsm_enroll.errors import (
    BackendRefusedError,
    BackendUnreachableError,
    BusyError,
    ClockError,
    ForeignCertificateError,
    HsmEnrollError,
    KeyMissingError,
    MqttRefusedError,
    NotEnrolledError,
    ThrottledError,
    TokenNotFoundError,
    TokenRefusedError,
    UsageError,
)
from hsm_enroll.key import KeyType
from hsm_enroll.settings import Settings
from hsm_enroll.store import files
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from tests.support.identities import TOKEN, identity
from tests.support.power_cuts import cut_off
from tests.support.world import FakeKey, PowerCut, World

_STEPS = ["token", "key", "csr", "certificate", "message", "commit", "store", "cleanup"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An enrolled device."""
    return _enrolled(tmp_path)


def _enrolled(folder: Path) -> World:
    world = World()
    enroll(Request("gateway-17"), folder, world.ports())
    world.messages.clear()
    world.requests.clear()
    world.logins = 0
    return world


def _renew(world: World, folder: Path) -> Outcome:
    return renew(folder, world.own_ports(), world, None, world.progress)


def _skipped(outcome: Outcome) -> list[str]:
    return [step.name for step in outcome.steps if step.skipped]


def _assert_whole(world: World, folder: Path) -> None:
    """One key in the token, one active certificate, and an identity that has both; nothing under way."""
    [key] = world.keys.values()
    stored = Identity.load(folder)
    assert stored.certificate.public_key.dump() == key.public_key_info
    assert (stored.key_label, stored.key_id) == (key.label, key.id)
    assert world.ledger.active == {key.public_key_info}
    assert world.ledger.things[stored.thing_name].current == key.public_key_info
    assert stored.certificate_pem == world.ledger.certificates[key.public_key_info].certificate_pem
    assert Renewal.load(folder) is None
    assert pending(folder, stored) is None


def test_a_renewal_takes_eight_steps(world: World, tmp_path: Path) -> None:
    """One login, one request, one message; in the end the device has another key, and nothing of the old one."""
    old = Identity.load(tmp_path)
    outcome = _renew(world, tmp_path)
    assert [step.name for step in outcome.steps] == _STEPS
    assert _skipped(outcome) == []
    assert (world.logins, world.messages) == (1, ["gateway-17"])
    assert world.message_keys[-1] == outcome.identity.key_id
    [csr] = world.requests
    assert x509.load_pem_x509_csr(csr.encode()).subject.rfc4514_string() == "CN=gateway-17"
    assert outcome.identity.key_id != old.key_id
    assert outcome.identity == Identity.load(tmp_path)
    _assert_whole(world, tmp_path)


def test_the_key_type_and_what_a_newer_version_stored_stay(world: World, tmp_path: Path) -> None:
    """The new key has the old one's type whatever the configuration says, and unknown members are kept."""
    old = Identity.load(tmp_path)
    replace(old, unknown={"later": 1}).save(tmp_path)
    new = _renew(world, tmp_path).identity
    assert (new.key_type, new.unknown, new.thing_name) == (KeyType.EC_P256, {"later": 1}, "gateway-17")


@pytest.mark.parametrize("remains", [0, None])
@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_d10_power_may_go_at_any_call(tmp_path: Path, has_effect: bool, remains: int | None) -> None:
    """D10: cut off at each call and each step in turn, the next run ends with one key and one certificate."""
    before: dict[Path, Identity] = {}

    def enrolled(folder: Path) -> World:
        world = _enrolled(folder)
        world.remains = remains
        before[folder] = Identity.load(folder)
        return world

    for world, folder in cut_off(tmp_path, enrolled, _renew, has_effect=has_effect, least=20):
        old = before[folder]
        # Until the API has made the new key the current one, what is in place works.
        if world.ledger.things["gateway-17"].pending is not None:
            assert Identity.load(folder) == old
            world.send(old, world.own_ports().pin(TOKEN))
        if Renewal.load(folder) is not None or Identity.load(folder) == old:
            _renew(world, folder)
        assert Identity.load(folder) != old
        _assert_whole(world, folder)
        assert len({*world.requests}) == 1


def test_until_the_new_key_has_worked_the_old_identity_stays(world: World, tmp_path: Path) -> None:
    """A broker that refuses is tried for 30 s; the old identity stays, and the next run goes on from there."""
    old = Identity.load(tmp_path)
    world.broker = [MqttRefusedError("refused")]
    with pytest.raises(MqttRefusedError, match="the old one stays in use: refused") as raised:
        _renew(world, tmp_path)
    assert raised.value.hint.endswith("The next hsm-enroll renew goes on from here.")
    assert sum(world.time.waits) == pytest.approx(30)
    assert Identity.load(tmp_path) == old
    assert world.ledger.things["gateway-17"].current == old.certificate.public_key.dump()
    unfinished = pending(tmp_path, old)
    assert unfinished is not None
    assert (unfinished.what, unfinished.thing_name) == (What.RENEWAL, "gateway-17")
    assert unfinished.advice == "To finish it: hsm-enroll renew"
    world.broker = [None]
    assert _skipped(_renew(world, tmp_path)) == ["key", "csr"]
    _assert_whole(world, tmp_path)


def test_a_run_after_the_message_only_commits(world: World, tmp_path: Path) -> None:
    """Whoever lost power once the new key had worked asks for no certificate and sends no message again."""
    _die_at(world, tmp_path, "commit")
    assert _skipped(_renew(world, tmp_path)) == ["key", "csr", "certificate", "message"]
    assert len(world.requests) == len(world.messages) == 1
    _assert_whole(world, tmp_path)


def _die_at(world: World, folder: Path, call: str, *, has_effect: bool = False) -> None:
    """Begin a renewal, and lose power at a call."""
    world.dies_at = (call, has_effect)
    with pytest.raises(PowerCut, match=call):
        _renew(world, folder)
    world.dies_at = None


@pytest.mark.parametrize("call", ["publish", "commit"])
def test_a_renewal_that_the_api_has_undone_begins_again(world: World, tmp_path: Path, call: str) -> None:
    """After an hour without a commit the API forgets a renewal: the next run asks for the certificate once more."""
    _die_at(world, tmp_path, call)
    world.ledger.undo("gateway-17")
    _renew(world, tmp_path)
    assert ("the API has undone the renewal" in " ".join(world.said)) is (call == "commit")
    _assert_whole(world, tmp_path)


@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_a_renewal_that_begins_again_keeps_what_was_proven(world: World, tmp_path: Path, has_effect: bool) -> None:
    """Cut off while the certificate is issued again, the next run still knows that the new key may be current."""
    _die_at(world, tmp_path, "commit")
    world.ledger.undo("gateway-17")
    _die_at(world, tmp_path, "renew", has_effect=has_effect)
    left = Renewal.load(tmp_path)
    assert left is not None
    assert left.identity is not None
    _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


def test_a_commit_that_arrives_late_makes_the_new_key_the_current_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API knows of no renewal, then refuses the old key: the new one is committed once more before it goes."""
    _die_at(world, tmp_path, "commit")
    _answer_before_carrying_out(world, monkeypatch, 1)
    _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


def _answer_before_carrying_out(world: World, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the API say that there is no renewal, each time as if a commit came after that."""
    commit = world.commit
    answers = [BackendRefusedError("unknown", problem_code="renewal-unknown") for _ in range(times)]

    def late(prove: Prove) -> None:
        commit(prove)
        if answers:
            raise answers.pop()

    monkeypatch.setattr(world, "commit", late)


def test_a_new_key_that_is_refused_once_more_goes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither key is the current one: the device is as before, and hears first of all that a third key is."""
    old = Identity.load(tmp_path)
    _die_at(world, tmp_path, "commit")
    _answer_before_carrying_out(world, monkeypatch, 2)
    with pytest.raises(BackendRefusedError, match="key-not-current"):
        _renew(world, tmp_path)
    assert list(world.keys) == [(old.key_label, old.key_id)]
    assert Renewal.load(tmp_path) is None


@pytest.mark.parametrize("code", ["key-not-current", "thing-revoked", "proof-invalid", "csr-malformed", "key-reused"])
def test_a_refused_renewal_leaves_nothing(world: World, tmp_path: Path, code: str) -> None:
    """S19: what will not pass is told, and the device is as it was: one key, no journal."""
    old = Identity.load(tmp_path)
    world.outage = BackendRefusedError("refused", problem_code=code)
    with pytest.raises(BackendRefusedError) as raised:
        _renew(world, tmp_path)
    assert raised.value.problem_code == code
    assert (Identity.load(tmp_path), Renewal.load(tmp_path)) == (old, None)
    assert list(world.keys) == [(old.key_label, old.key_id)]
    world.outage = None
    _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        BackendUnreachableError("no answer"),
        BackendRefusedError("refused", problem_code="renewal-in-progress"),
        BackendRefusedError("refused", problem_code="enrollment-in-progress"),
        BackendRefusedError("refused", problem_code="clock-skew"),
        BackendRefusedError("refused", problem_code="proof-replayed"),
        ThrottledError("renewed too often"),
    ],
)
def test_what_may_pass_keeps_the_new_key(world: World, tmp_path: Path, error: HsmEnrollError) -> None:
    """D16: the next run goes on with the same key and the same request."""
    world.outage = error
    for _ in range(2):
        with pytest.raises(HsmEnrollError):
            _renew(world, tmp_path)
    assert len(world.keys) == 2
    world.outage = None
    world.said.clear()
    assert _skipped(_renew(world, tmp_path)) == ["key", "csr"]
    assert world.said[0] == "- resuming the renewal that was not finished"
    _assert_whole(world, tmp_path)


def test_s19_of_two_holders_of_a_key_one_wins(world: World, tmp_path: Path) -> None:
    """S19: a clone of the token is told that another renewal is in progress, and then that its key was replaced."""
    stolen = Identity.load(tmp_path)
    clone = World(keys=dict(world.keys))
    clone.ledger = world.ledger
    thief = tmp_path / "thief"
    thief.mkdir(mode=0o700)
    stolen.save(thief)
    _die_at(world, tmp_path, "publish")
    with pytest.raises(BackendRefusedError, match="renewal-in-progress"):
        _renew(clone, thief)
    _renew(world, tmp_path)
    with pytest.raises(BackendRefusedError, match="key-not-current"):
        _renew(clone, thief)
    assert list(clone.keys) == [(stolen.key_label, stolen.key_id)]
    _assert_whole(world, tmp_path)


def test_a_device_revoked_in_the_middle_is_told(world: World, tmp_path: Path) -> None:
    """A Thing that is revoked before the commit gets no other key, and the new one does not stay."""
    _die_at(world, tmp_path, "commit")
    world.ledger.revoke("gateway-17")
    with pytest.raises(BackendRefusedError, match=r"thing-revoked"):
        _renew(world, tmp_path)
    assert len(world.keys) == 1
    assert Renewal.load(tmp_path) is None


def test_a_key_that_was_replaced_after_the_commit_goes(world: World, tmp_path: Path) -> None:
    """The answer was lost, and another device has taken the Thing's place since: the new key is of no use either."""
    _die_at(world, tmp_path, "commit", has_effect=True)
    thing = world.ledger.things["gateway-17"]
    thing.old.add(thing.current)
    thing.current = b"another device's"
    with pytest.raises(BackendRefusedError, match="key-not-current"):
        _renew(world, tmp_path)
    old = Identity.load(tmp_path)
    assert list(world.keys) == [(old.key_label, old.key_id)]
    assert Renewal.load(tmp_path) is None


def test_d8_without_the_old_key_none_is_made(world: World, tmp_path: Path) -> None:
    """D8: a token that has lost the key, or has another one in its place, gets no second one."""
    [name] = world.keys
    del world.keys[name]
    with pytest.raises(KeyMissingError):
        _renew(world, tmp_path)
    assert world.keys == {}
    assert Renewal.load(tmp_path) is None
    world.generate(KeyType.EC_P256, label=name[0], key_id=name[1])
    with pytest.raises(KeyMissingError, match="does not match the certificate"):
        _renew(world, tmp_path)
    assert len(world.keys) == 1


def test_a_token_without_room_for_a_second_key_is_as_it_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that generates no key refuses, and no renewal is left unfinished."""

    def refuse(*_: object, **__: object) -> FakeKey:
        raise TokenRefusedError("no room")

    monkeypatch.setattr(world, "generate", refuse)
    with pytest.raises(TokenRefusedError):
        _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


def test_an_old_key_that_stays_is_removed_by_the_next_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is renewed all the same, which the error says; the next run needs no API."""
    destroy = world.destroy

    def refuse(*, label: str, key_id: bytes) -> None:
        if label == old.key_label:
            raise TokenRefusedError("refused")
        destroy(label=label, key_id=key_id)

    old = Identity.load(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(world, "destroy", refuse)
        with pytest.raises(TokenRefusedError, match="identity is renewed; only"):
            _renew(world, tmp_path)
    contacts = world.contacts
    world.outage = BackendUnreachableError("no answer")
    assert [step.name for step in _renew(world, tmp_path).steps] == ["token", "cleanup"]
    assert (world.contacts - contacts, len(world.requests)) == (1, 1)
    _assert_whole(world, tmp_path)


def test_d18_a_certificate_for_another_key_is_not_used(world: World, tmp_path: Path) -> None:
    """D18: it is refused before a message is sent with it, and the next run asks again."""
    stranger = _enrolled(tmp_path / "other")
    foreign = Identity.load(tmp_path / "other").certificate_pem
    del stranger
    world.answer = Issued(foreign, "0b" * 32, "gateway-17", "localhost", 8883, attested=False)
    with pytest.raises(ForeignCertificateError, match="another key"):
        _renew(world, tmp_path)
    assert world.messages == []
    world.answer = None
    _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


def test_d14_a_wrong_clock_makes_no_key(world: World, tmp_path: Path) -> None:
    """D14: a clock that cannot be right is told before anything is done."""
    world.time.shift = timedelta(days=-10_000)
    with pytest.raises(ClockError):
        _renew(world, tmp_path)
    assert (world.logins, world.calls) == (0, [])


@pytest.mark.parametrize(
    ("ahead", "shown"),
    [(timedelta(minutes=7), "7 min ahead of"), (timedelta(hours=-3), "3 h behind")],
)
def test_a_clock_that_is_off_is_told_by_how_much(world: World, tmp_path: Path, ahead: timedelta, shown: str) -> None:
    """The API's own time says which clock is wrong; if that one cannot be right, it is the API's."""
    now = datetime.now(UTC)
    world.time.shift = ahead
    world.outage = BackendRefusedError("refused", problem_code="clock-skew", api_time=now)
    with pytest.raises(ClockError, match=f"this machine's clock is {shown} the API's"):
        _renew(world, tmp_path)
    world.outage = BackendRefusedError("refused", problem_code="clock-skew", api_time=now - timedelta(days=10_000))
    with pytest.raises(BackendRefusedError, match="the API's cannot be right"):
        _renew(world, tmp_path)


def test_a_first_message_that_was_never_sent_is_not_missed(world: World, tmp_path: Path) -> None:
    """The renewal's own message takes its place: nothing is unfinished afterwards."""
    old = Identity.load(tmp_path)
    Attempt(old.token, old.key_type, old.key_label, old.key_id, new_key=False).save(tmp_path)
    _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


def test_a_device_without_an_identity_has_nothing_to_renew(tmp_path: Path) -> None:
    """The error is the one of every command that needs an identity."""
    with pytest.raises(NotEnrolledError):
        _renew(World(), tmp_path)


def test_a_device_that_is_being_retired_is_not_renewed(world: World, tmp_path: Path) -> None:
    """Its identity is about to go: only ``retire`` goes on."""
    Retirement("gateway-17", world.base_url, TOKEN, KeyType.EC_P256, (KeyName("a", b"a"),)).save(tmp_path)
    with pytest.raises(UsageError, match="the retirement of this device is not finished"):
        _renew(world, tmp_path)
    with pytest.raises(UsageError, match="the retirement of this device is not finished"):
        enroll(Request(None), tmp_path, world.ports())


def test_d13_a_second_run_does_not_wait(world: World, tmp_path: Path) -> None:
    """D13: while another run holds the folder, nothing is asked."""
    with files.locked(tmp_path), pytest.raises(BusyError):
        _renew(world, tmp_path)
    assert world.calls == []


@pytest.mark.parametrize("has_journal", [True, False])
def test_an_unfinished_replacement_is_to_be_finished(world: World, tmp_path: Path, has_journal: bool) -> None:
    """The answer to ``init --new-key`` was lost: the device itself took the key's place, and nobody else did."""
    old = Identity.load(tmp_path).certificate.public_key.dump()
    world.dies_at = ("enroll", True)
    with pytest.raises(PowerCut):
        enroll(Request("gateway-17", new_key=True), tmp_path, world.ports())
    world.dies_at = None
    world.ledger.things["gateway-17"].old.add(old)
    if not has_journal:
        (tmp_path / "journal.json").unlink()
    with pytest.raises(BackendRefusedError, match="key-not-current") as raised:
        _renew(world, tmp_path)
    assert ("same invite: hsm-enroll init --new-key INVITE" in raised.value.hint) is has_journal


def test_an_unfinished_renewal_keeps_init_from_replacing_the_key(world: World, tmp_path: Path) -> None:
    """``init`` finds the device enrolled as ever, and leaves another new key to ``renew``."""
    _die_at(world, tmp_path, "commit")
    assert enroll(Request(None), tmp_path, world.ports()).already_enrolled
    with pytest.raises(UsageError, match="a renewal of this device's identity is not finished"):
        enroll(Request("gateway-17", new_key=True), tmp_path, world.ports())
    _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


def test_a_proven_renewal_is_finished_without_the_old_key(world: World, tmp_path: Path) -> None:
    """Only the new key signs the commit, so the old one may be gone from the token."""
    old = Identity.load(tmp_path)
    _die_at(world, tmp_path, "commit")
    del world.keys[old.key_label, old.key_id]
    _renew(world, tmp_path)
    _assert_whole(world, tmp_path)


def test_a_renewal_that_cannot_go_on_without_the_old_key_is_given_up(world: World, tmp_path: Path) -> None:
    """It was undone, and nothing is left to ask with: the new key goes, and ``init --new-key`` is free to enroll."""
    old = Identity.load(tmp_path)
    _die_at(world, tmp_path, "commit")
    world.ledger.undo("gateway-17")
    del world.keys[old.key_label, old.key_id]
    with pytest.raises(KeyMissingError):
        _renew(world, tmp_path)
    assert (world.keys, Renewal.load(tmp_path)) == ({}, None)
    enroll(Request("gateway-17", new_key=True), tmp_path, world.ports())


def test_a_renewal_whose_key_was_never_used_gives_way_to_another_key(world: World, tmp_path: Path) -> None:
    """The old key is gone, and the new one cannot be current: ``init --new-key`` enrolls, and the renewal is over."""
    old = Identity.load(tmp_path)
    _die_at(world, tmp_path, "publish")
    del world.keys[old.key_label, old.key_id]
    new = enroll(Request("gateway-17", new_key=True), tmp_path, world.ports()).identity
    assert Renewal.load(tmp_path) is None
    assert pending(tmp_path, new) is None


def test_a_renewal_whose_token_is_gone_is_in_nobodys_way(world: World, tmp_path: Path) -> None:
    """With another token ``init --new-key`` replaces the identity, and the renewal is forgotten."""
    _die_at(world, tmp_path, "publish")
    other = World(token=world.token._replace(name=world.token.name._replace(serial="another")))
    with pytest.raises(TokenNotFoundError):
        _renew(other, tmp_path)
    new = enroll(Request("gateway-17", new_key=True), tmp_path, other.ports()).identity
    assert new.token.serial == "another"
    assert Renewal.load(tmp_path) is None


def test_a_token_that_is_not_there_leaves_no_renewal(world: World, tmp_path: Path) -> None:
    """Nothing has begun that somebody would have to finish."""
    world.token = world.token._replace(name=world.token.name._replace(serial="another"))
    with pytest.raises(TokenNotFoundError):
        _renew(world, tmp_path)
    assert Renewal.load(tmp_path) is None


def test_an_enrollment_without_an_identity_forgets_a_renewal(world: World, tmp_path: Path) -> None:
    """A renewal of an identity that is lost has nothing to go on with once there is another one."""
    _die_at(world, tmp_path, "publish")
    (tmp_path / "identity.json").unlink()
    new = enroll(Request("gateway-17"), tmp_path, world.ports()).identity
    assert Renewal.load(tmp_path) is None
    assert pending(tmp_path, new) is None


_OLD = identity()
_UNDER_WAY = Renewal.begin(_OLD)


@pytest.mark.parametrize(
    ("present", "renewal", "task"),
    [
        (_OLD, None, Task.BEGIN),
        (_OLD, _UNDER_WAY, Task.RESUME),
        (_OLD, replace(_UNDER_WAY, csr="csr"), Task.RESUME),
        (_OLD, replace(_UNDER_WAY, identity=_OLD), Task.RESUME),
        (identity(key_id=_UNDER_WAY.key_id), _UNDER_WAY, Task.CLEAN_UP),
        (identity(key_id=b"a third"), _UNDER_WAY, Task.BEGIN),
    ],
)
def test_what_a_run_does_follows_from_what_is_stored(present: Identity, renewal: Renewal | None, task: Task) -> None:
    """The journal counts if it is for the identity's key: it is the old one, or the new one already."""
    assert renewal_plan.decide(present, renewal) is task


@pytest.mark.parametrize(
    ("code", "after"),
    [
        ("key-not-current", After.TAKE_BACK),
        ("thing-revoked", After.TAKE_BACK),
        ("proof-invalid", After.TAKE_BACK),
        ("key-enrolled", After.TAKE_BACK),
        ("key-reused", After.TAKE_BACK),
        ("csr-key-weak", After.TAKE_BACK),
        ("renewal-in-progress", After.KEEP),
        ("enrollment-in-progress", After.KEEP),
        ("clock-skew", After.KEEP),
        ("", After.KEEP),
    ],
)
def test_what_follows_a_refused_request(code: str, after: After) -> None:
    """Only a refusal of the Thing, of a key or of the request itself is final, unless the new key may be current."""
    assert renewal_plan.after_request(code, may_be_current=False) is after
    committed = After.COMMIT_AGAIN if code == "key-not-current" else after
    assert renewal_plan.after_request(code, may_be_current=True) is committed


@pytest.mark.parametrize(
    ("code", "is_repeated", "after"),
    [
        ("renewal-unknown", False, After.ASK_AGAIN),
        ("proof-invalid", False, After.KEEP),
        ("renewal-unknown", True, After.TAKE_BACK),
        ("proof-invalid", True, After.KEEP),
        ("thing-revoked", False, After.TAKE_BACK),
        ("key-not-current", False, After.TAKE_BACK),
        ("clock-skew", False, After.KEEP),
        ("anything", False, After.KEEP),
    ],
)
def test_what_follows_a_refused_commit(code: str, is_repeated: bool, after: After) -> None:
    """A renewal that was undone is begun once more; a key that may be current already is never destroyed."""
    assert renewal_plan.after_commit(code, is_repeated=is_repeated) is after


_BEGIN, _END = _OLD.certificate.not_valid_before, _OLD.certificate.not_valid_after


@pytest.mark.parametrize(
    ("days", "share", "expected"),
    [
        (0, 1.0, _END),
        (0, 0.5, _BEGIN + (_END - _BEGIN) / 2),
        (1, 1.0, _BEGIN + timedelta(days=1)),
        (36500, 0.5, _BEGIN + (_END - _BEGIN) / 2),
    ],
)
def test_a_renewal_is_due_at_an_age_or_late_in_the_lifetime(days: int, share: float, expected: datetime) -> None:
    """Whichever comes first; 0 days is never by age."""
    assert due_at(_OLD, after_days=days, at_lifetime_share=share) == expected


@pytest.mark.parametrize(("days", "is_now"), [(6999, False), (7001, True)])
def test_a_renewal_is_due_at_the_age_that_the_configuration_says(tmp_path: Path, days: int, is_now: bool) -> None:
    """AWS IoT's certificates live so long that it is this setting that counts."""
    configured = Settings(state=tmp_path, renew_after_days=7000, renew_at_lifetime_share=1.0)
    found = due(_OLD, configured, _BEGIN + timedelta(days=days))
    assert (found.is_now, found.at) == (is_now, _BEGIN + timedelta(days=7000))
