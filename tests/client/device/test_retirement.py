"""Retirement against a token and an API in memory: nothing is left, whatever happens in between."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import AbstractContextManager, closing, suppress
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.device.enrollment import enroll
from hsm_enroll.device.forwarding import Forwarding
from hsm_enroll.device.outbox import state
from hsm_enroll.device.pending import What, pending
from hsm_enroll.device.plan import Request
from hsm_enroll.device.recovery import recover
from hsm_enroll.device.renewal import renew
from hsm_enroll.device.retirement import Outcome, retire
from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    BusyError,
    ClockError,
    HsmEnrollError,
    InterruptedRunError,
    KeyMissingError,
    NotEnrolledError,
    RetiredLocallyError,
    StateCorruptError,
    StateError,
    ThrottledError,
    TokenNotFoundError,
    UnexpectedResponseError,
    UsageError,
)
from hsm_enroll.key import KeyType
from hsm_enroll.settings import Settings
from hsm_enroll.store import files, forwarder
from hsm_enroll.store.forwarder import ForwardReport
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.outbox import NewMessage, Outbox, OutboxLimits, exists
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from tests.support.power_cuts import cut_off
from tests.support.world import TOKEN, PowerCut, World
from tests.support.world_tpm import no_tpm

_STEPS = ["token", "cloud", "destroy", "forget"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An enrolled device."""
    return _enrolled(tmp_path)


def _enrolled(folder: Path) -> World:
    world = World()
    enroll(Request("gateway-17"), folder, world.ports())
    world.logins = 0
    return world


def _agree(_: Retirement, __: int | None) -> None:
    pass


def _retire(world: World, folder: Path) -> Outcome:
    return retire(folder, world.own_ports(), _agree, _insist, world.progress)


def _insist(error: TokenNotFoundError) -> None:
    raise error


def _assert_gone(world: World, folder: Path) -> None:
    assert world.keys == {}
    assert sorted(file.name for file in folder.iterdir()) == ["lock"]


def test_a_retired_device_has_nothing_left(world: World, tmp_path: Path) -> None:
    """Certificate, key and state go, with one login; another invite can enroll the device again."""
    outcome = _retire(world, tmp_path)
    assert [step.name for step in outcome.steps] == _STEPS
    assert outcome.retirement.thing_name == "gateway-17"
    assert (world.logins, world.ledger.active) == (1, set())
    assert world.ledger.things["gateway-17"].is_revoked
    _assert_gone(world, tmp_path)
    with pytest.raises(NotEnrolledError):
        _retire(world, tmp_path)
    enroll(Request("gateway-17"), tmp_path, world.ports())


def test_the_token_and_its_pin_stay(world: World, tmp_path: Path) -> None:
    """They are not the identity's: the next enrollment uses them."""
    (tmp_path / "pin").write_text("1234\n")
    (tmp_path / "token.json").write_text("{}")
    _retire(world, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock", "pin", "token.json"]


def test_who_says_no_keeps_everything(world: World, tmp_path: Path) -> None:
    """The question comes before anything is done, and names the Thing."""
    asked: list[str] = []

    def decline(begun: Retirement, _: int | None) -> None:
        asked.append(begun.thing_name)
        raise InterruptedRunError("nothing was changed", declined=True)

    with pytest.raises(InterruptedRunError):
        retire(tmp_path, world.own_ports(), decline, _insist)
    assert (asked, world.calls, len(world.keys)) == (["gateway-17"], [], 1)
    assert Retirement.load(tmp_path) is None


def _queue(folder: Path, *payloads: bytes) -> None:
    with Outbox.open(folder, OutboxLimits(max_bytes=2**20)) as opened:
        opened.add(*(NewMessage("device/gateway-17/x", payload) for payload in payloads))


def _retire_telling(world: World, folder: Path) -> tuple[Outcome, list[int | None]]:
    told: list[int | None] = []
    outcome = retire(folder, world.own_ports(), lambda _, messages: told.append(messages), _insist)
    return outcome, told


def test_messages_that_were_not_sent_are_lost_and_counted(world: World, tmp_path: Path) -> None:
    """Whoever is asked knows how many there are; the outbox goes with the identity, and a later one is empty."""
    _queue(tmp_path, b"1", b"2", b"3")
    outcome, told = _retire_telling(world, tmp_path)
    assert (told, outcome.lost_messages) == ([3], 3)
    # The lock stays: other processes may have opened it.
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lock", "outbox.lock"]
    assert state(tmp_path).messages == 0


def test_what_is_wrong_with_the_outbox_does_not_keep_a_device_in_service(world: World, tmp_path: Path) -> None:
    """An outbox of a newer version goes too, although nobody can say what is in it."""
    _queue(tmp_path, b"1")
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute("PRAGMA user_version = 2")
    outcome, told = _retire_telling(world, tmp_path)
    assert (told, outcome.lost_messages) == ([None], None)
    assert not (tmp_path / "outbox.db").exists()


def test_what_was_set_aside_as_damaged_stays(world: World, tmp_path: Path) -> None:
    """A person may still want to look at it: retiring removes what works."""
    damaged = tmp_path / "outbox.db.damaged-20261126T140211Z"
    damaged.write_bytes(b"not a database")
    _queue(tmp_path, b"1")
    _retire(world, tmp_path)
    assert damaged.exists()


def test_a_forwarder_that_runs_has_to_be_stopped_first(world: World, tmp_path: Path) -> None:
    """Nobody is asked and nothing is done while messages are being sent; the forwarder's files go in the end."""
    ForwardReport().save(tmp_path)
    with forwarder.running(tmp_path), pytest.raises(BusyError, match="hsm-enroll forward is running"):
        retire(tmp_path, world.own_ports(), lambda *_: pytest.fail("asked"), _insist)
    assert (world.calls, len(world.keys)) == ([], 1)
    _retire(world, tmp_path)
    _assert_gone(world, tmp_path)


def test_no_forwarder_is_started_meanwhile(world: World, tmp_path: Path) -> None:
    """A service manager may start it again at any moment: from the question on, it finds the state folder busy."""

    def agree(_: Retirement, __: int | None) -> None:
        started.append(forwarder.is_running(tmp_path))

    started: list[bool] = []
    retire(tmp_path, world.own_ports(), agree, _insist)
    assert started == [True]


def test_a_forwarder_that_started_too_late_finds_no_identity(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is retired while a forwarder starts gets no new outbox, and no connection."""

    def running_after_retirement(folder: Path) -> AbstractContextManager[None]:
        monkeypatch.undo()
        _retire(world, folder)
        return forwarder.running(folder)

    monkeypatch.setattr(forwarder, "running", running_after_retirement)
    forwarding = Forwarding(Settings(state=tmp_path), lambda *_: pytest.fail("connected"), lambda _: None)
    with pytest.raises(NotEnrolledError):
        forwarding.run()
    assert not exists(tmp_path)


def test_a_replaced_device_does_not_have_its_successor_revoked(world: World, tmp_path: Path) -> None:
    """The Thing has another device's key: this one's is destroyed, and nobody is told to revoke the Thing."""
    thing = world.ledger.things["gateway-17"]
    thing.old.add(thing.current)
    thing.current = b"of the new board"
    with pytest.raises(RetiredLocallyError, match="it has another key") as caught:
        _retire(world, tmp_path)
    assert "fleet revoke" not in caught.value.hint
    assert not thing.is_revoked
    _assert_gone(world, tmp_path)


@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_d10_power_may_go_at_any_call(tmp_path: Path, has_effect: bool) -> None:
    """D10: cut off at each call and each step in turn, the next run ends with nothing, and asks no question again."""
    for world, folder in cut_off(tmp_path, _enrolled, _retire, has_effect=has_effect, least=10):
        if (folder / "retirement.json").exists():
            with pytest.raises(UsageError, match="the retirement of this device is not finished"):
                enroll(Request(None), folder, world.ports())
        with suppress(NotEnrolledError):
            _retire(world, folder)
        _assert_gone(world, folder)
        assert world.ledger.active == set()


def test_d10_power_may_go_between_any_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D10: whichever files are gone already, the next run removes the rest, without the API."""
    remove = files.remove
    for number in count(1):
        folder = tmp_path / str(number)
        world = _enrolled(folder)
        removed: list[Path] = []

        def cut(file: Path, removed: list[Path] = removed, number: int = number) -> None:
            if len(removed) == number:
                raise PowerCut(file.name)
            removed.append(file)
            remove(file)

        with monkeypatch.context() as patch:
            patch.setattr(files, "remove", cut)
            try:
                _retire(world, folder)
            except PowerCut:
                pass
            else:
                assert number >= 5
                return
        unfinished = pending(folder, None)
        assert unfinished is not None
        assert (unfinished.what, unfinished.thing_name) == (What.RETIREMENT, "gateway-17")
        contacts = world.contacts
        assert [step.name for step in _retire(world, folder).steps if step.skipped] == ["cloud"]
        assert world.contacts == contacts
        _assert_gone(world, folder)


@pytest.mark.parametrize(
    "error",
    [
        BackendUnreachableError("no answer"),
        UnexpectedResponseError("a portal"),
        ApiTlsError("not trusted"),
        BackendRefusedError("refused", problem_code="proof-invalid"),
        BackendRefusedError("refused", problem_code="proof-malformed"),
    ],
)
def test_without_the_cloud_the_device_does_its_own_half(world: World, tmp_path: Path, error: HsmEnrollError) -> None:
    """Key and state go all the same; the error names what the operator has to run, and has its own status."""
    world.outage = error
    with pytest.raises(RetiredLocallyError, match="the cloud may not have been told, and the certificate") as raised:
        _retire(world, tmp_path)
    assert raised.value.exit_status == 34
    assert raised.value.hint == "Ask the operator to run: hsm-enroll fleet revoke gateway-17"
    _assert_gone(world, tmp_path)
    assert len(world.ledger.active) == 1


def test_a_device_without_an_identity_is_not_told_to_enroll(tmp_path: Path) -> None:
    """Whoever retires a device a second time hears that there is nothing to retire."""
    with pytest.raises(NotEnrolledError, match="there is nothing to retire: this device is not enrolled: ") as caught:
        _retire(World(), tmp_path)
    assert caught.value.hint == "If only the state folder was lost, run hsm-enroll recover first."


def test_keys_that_the_state_folder_does_not_name_are_counted(world: World, tmp_path: Path) -> None:
    """They may be another state folder's, so they stay, and the person is told."""
    world.generate(KeyType.EC_P256, label="another", key_id=b"another")
    assert _retire(world, tmp_path).other_keys == 1
    assert [label for label, _ in world.keys] == ["another"]


@pytest.mark.parametrize("error", [ThrottledError("busy"), BackendUnreachableError("failed", answered=True)])
def test_a_busy_api_is_asked_again_before_anything_is_destroyed(
    world: World, tmp_path: Path, error: HsmEnrollError
) -> None:
    """D16: an API that answers with 429 or 5xx is there: the error keeps its status, and the next run retires."""
    world.outage = error
    with pytest.raises(type(error), match="this device still has its key") as raised:
        _retire(world, tmp_path)
    assert "run the same command again" in raised.value.hint
    assert (len(world.keys), "destroy" in world.calls) == (1, False)
    world.outage = None
    _retire(world, tmp_path)
    _assert_gone(world, tmp_path)


@pytest.mark.parametrize(
    "error", [ThrottledError("busy"), ClockError("off"), ApiTlsError("has expired", untimely=True)]
)
def test_a_refused_retirement_leaves_the_device_as_it_was(world: World, tmp_path: Path, error: HsmEnrollError) -> None:
    """If the API certainly did nothing there is no journal: the device can renew, and is asked about anew.

    A clock that is off by more than the API's certificate's lifetime looks like an API that is not trusted.
    """
    world.outage = error
    with pytest.raises(type(error)):
        _retire(world, tmp_path)
    assert len(world.keys) == 1
    assert Retirement.load(tmp_path) is None
    world.outage = None
    renew(tmp_path, world.own_ports(), world)


def test_a_retirement_that_the_api_may_have_carried_out_stays(world: World, tmp_path: Path) -> None:
    """After a failure of the API, or an earlier run that was cut off, its journal is kept: the device may be out."""
    world.outage = BackendUnreachableError("failed", answered=True)
    for error in (world.outage, ThrottledError("busy")):
        world.outage = error
        with pytest.raises(type(error)):
            _retire(world, tmp_path)
        assert Retirement.load(tmp_path) is not None


@pytest.mark.parametrize("is_told", [False, True])
def test_a_token_that_is_gone_can_be_given_up(world: World, tmp_path: Path, is_told: bool) -> None:
    """Nothing happens without the person's word; with it the identity goes, and the operator acts if it is needed."""
    if is_told:
        world.dies_at = ("begin destroy", False)
        with pytest.raises(PowerCut):
            _retire(world, tmp_path)
    other = World(token=world.token._replace(name=world.token.name._replace(serial="another")))
    with pytest.raises(TokenNotFoundError):
        _retire(other, tmp_path)
    assert Identity.load(tmp_path).thing_name == "gateway-17"
    if is_told:
        assert not retire(tmp_path, other.own_ports(), _agree, lambda _: None).has_destroyed
    else:
        with pytest.raises(RetiredLocallyError, match="may not have been told"):
            retire(tmp_path, other.own_ports(), _agree, lambda _: None)
    _assert_gone(other, tmp_path)


def test_a_wrong_clock_is_set_first(world: World, tmp_path: Path) -> None:
    """While a wrong clock is all that keeps the cloud from being told, nothing is destroyed."""
    world.outage = ClockError("off")
    with pytest.raises(ClockError):
        _retire(world, tmp_path)
    assert len(world.keys) == 1
    world.outage = None
    _retire(world, tmp_path)
    _assert_gone(world, tmp_path)


def test_a_revoked_thing_counts_as_told(world: World, tmp_path: Path) -> None:
    """Its certificate is off already."""
    world.outage = BackendRefusedError("refused", problem_code="thing-revoked")
    _retire(world, tmp_path)
    _assert_gone(world, tmp_path)


def test_d8_a_token_that_has_lost_the_key_can_prove_nothing(world: World, tmp_path: Path) -> None:
    """D8: the state goes, and the operator has to act."""
    world.keys.clear()
    with pytest.raises(RetiredLocallyError):
        _retire(world, tmp_path)
    _assert_gone(world, tmp_path)


def test_an_identity_of_an_old_backup_is_recovered_first(world: World, tmp_path: Path) -> None:
    """The token has the newer key, which would outlive the device's retirement: nothing is done before."""
    old = Identity.load(tmp_path)
    renew(tmp_path, world.own_ports(), world)
    old.save(tmp_path)
    with pytest.raises(KeyMissingError, match="does not have the key of gateway-17's identity") as raised:
        _retire(world, tmp_path)
    assert raised.value.hint.startswith("Run hsm-enroll recover first")
    assert (len(world.keys), Retirement.load(tmp_path)) == (1, None)
    find, api = lambda: lambda: world.token, lambda _: world.base_url
    recover(tmp_path, world.own_ports(), find, api, lambda _: "gateway-17", no_tpm)
    _retire(world, tmp_path)
    _assert_gone(world, tmp_path)
    assert world.ledger.active == set()


@pytest.mark.parametrize("differs", ["thing", "token", "key"])
def test_a_journal_about_another_identity_is_damaged(world: World, tmp_path: Path, differs: str) -> None:
    """It was edited, or came from another device: neither of the two is retired, and the way out is named."""
    present = Identity.load(tmp_path)
    Retirement(
        "someone" if differs == "thing" else present.thing_name,
        present.api,
        present.token._replace(serial="another") if differs == "token" else present.token,
        present.key_type,
        (KeyName("a", b"a") if differs == "key" else KeyName(present.key_label, present.key_id),),
        is_told=True,
    ).save(tmp_path)
    with pytest.raises(
        StateCorruptError, match=r"retirement\.json is damaged: .* not about the identity in place"
    ) as raised:
        _retire(world, tmp_path)
    assert raised.value.hint.startswith("Move the file away, then run hsm-enroll retire again")
    assert (Identity.load(tmp_path), len(world.keys)) == (present, 1)


@pytest.mark.parametrize("call", ["publish", "begin store", "begin cleanup"])
def test_an_unfinished_renewal_is_retired_with_its_keys(world: World, tmp_path: Path, call: str) -> None:
    """Whichever of the two keys is current proves it, and both are destroyed."""
    world.dies_at = (call, False)
    with pytest.raises(PowerCut):
        renew(tmp_path, world.own_ports(), world, None, world.progress)
    world.dies_at = None
    assert len(world.keys) == 2
    _retire(world, tmp_path)
    assert world.ledger.active == set()
    _assert_gone(world, tmp_path)


def test_the_key_of_an_unfinished_replacement_goes_too(world: World, tmp_path: Path) -> None:
    """The journal is removed, so nothing would name that key any more."""
    attempt = Attempt.begin(TOKEN, KeyType.EC_P384, new_key=True)
    attempt.save(tmp_path)
    world.generate(KeyType.EC_P384, label=attempt.key_label, key_id=attempt.key_id)
    _retire(world, tmp_path)
    _assert_gone(world, tmp_path)


@pytest.mark.parametrize("thing", ["gateway-17", "gateway-18"])
def test_a_key_that_was_enrolled_without_the_device_knowing_is_retired(
    world: World, tmp_path: Path, thing: str
) -> None:
    """The answer to ``init --new-key`` was lost: its key is the current one, of this Thing or of another one."""
    world.dies_at = ("enroll", True)
    with pytest.raises(PowerCut):
        enroll(Request(thing, new_key=True), tmp_path, world.ports())
    world.dies_at = None
    if thing == "gateway-17":
        # The invite was one that replaces the key.
        old = Identity.load(tmp_path).certificate.public_key.dump()
        world.ledger.things[thing].old.add(old)
        world.ledger.active.discard(old)
    _retire(world, tmp_path)
    assert world.ledger.active == set()
    _assert_gone(world, tmp_path)


def test_a_replaced_device_with_an_unfinished_enrollment_is_told_so_too(world: World, tmp_path: Path) -> None:
    """Neither key is the Thing's: the operator is not sent to revoke its successor."""
    world.dies_at = ("enroll", False)
    with pytest.raises(PowerCut):
        enroll(Request("gateway-17", new_key=True), tmp_path, world.ports())
    world.dies_at = None
    thing = world.ledger.things["gateway-17"]
    thing.old.add(thing.current)
    thing.current = b"of the new board"
    with pytest.raises(RetiredLocallyError, match="it has another key"):
        _retire(world, tmp_path)
    assert not thing.is_revoked
    _assert_gone(world, tmp_path)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_done(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D11: the journal comes first: without it neither the cloud nor the key is touched."""

    def refuse(*_: object, **__: object) -> None:
        raise StateError("read-only")

    monkeypatch.setattr(files, "write", refuse)
    with pytest.raises(StateError):
        _retire(world, tmp_path)
    assert ("retire" in world.calls, len(world.keys), len(world.ledger.active)) == (False, 1, 1)


_DEATHS = st.none() | st.tuples(st.integers(1, 26), st.booleans())
_RUNS = st.tuples(st.sampled_from(["renew", "renew", "renew", "recover", "lost", "undone", "away", "retire"]), _DEATHS)


@settings(max_examples=100, deadline=None)
@given(st.lists(_RUNS, max_size=7))
def test_d10_whatever_happened_the_device_is_whole_or_gone(runs: list[tuple[str, tuple[int, bool] | None]]) -> None:
    """D10: after any runs, cut short or refused, one more of each ends with one key and one certificate, or none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = _enrolled(folder)
        for what, dies_at in runs:
            world.dies_at, world.outage = dies_at, None
            with suppress(PowerCut, HsmEnrollError):
                _run(what, world, folder)
        world.dies_at = world.outage = None
        if Retirement.load(folder) is None and not world.ledger.things["gateway-17"].is_revoked:
            _finish(world, folder)
            return
        with suppress(NotEnrolledError, RetiredLocallyError):
            _retire(world, folder)
        _assert_gone(world, folder)


def _run(what: str, world: World, folder: Path) -> None:
    if what == "lost":
        # Together with all that could say what was in progress, which is what a lost SD card is not.
        (folder / "identity.json").unlink(missing_ok=True)
    elif what == "undone":
        world.ledger.undo("gateway-17")
    elif what == "recover":
        find, api, thing = lambda: lambda: world.token, lambda _: world.base_url, lambda _: "gateway-17"
        recover(folder, world.own_ports(), find, api, thing, no_tpm, world.progress)
    elif what == "retire":
        _retire(world, folder)
    else:
        world.outage = BackendUnreachableError("no answer") if what == "away" else None
        renew(folder, world.own_ports(), world, None, world.progress)


def _finish(world: World, folder: Path) -> None:
    """See that the device works, or can be made to: recover it if it is not there, then renew."""
    if not world.keys:
        return  # it was retired while the API was away
    for what in ("recover", "renew"):
        _run(what, world, folder)
    [key] = world.keys.values()
    identity = Identity.load(folder)
    assert identity.certificate.public_key.dump() == key.public_key_info
    assert world.ledger.active == {key.public_key_info}
    assert Renewal.load(folder) is None
    assert pending(folder, identity) is None
