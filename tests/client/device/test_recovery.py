"""Recovery against a token and an API in memory: the identity comes back, and nothing else happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hsm_enroll.device import enrollment
from hsm_enroll.device.enrollment import enroll
from hsm_enroll.device.pending import pending
from hsm_enroll.device.plan import Request
from hsm_enroll.device.recovery import Outcome, recover
from hsm_enroll.device.renewal import renew
from hsm_enroll.errors import (
    BackendRefusedError,
    BackendUnreachableError,
    ClockError,
    HsmEnrollError,
    KeyAmbiguousError,
    KeyMissingError,
    StateTooNewError,
    UsageError,
)
from hsm_enroll.key import KeyType
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from hsm_enroll.token.fault import Fault
from tests.support.power_cuts import cut_off
from tests.support.world import TOKEN, PowerCut, World
from tests.support.world_tpm import no_tpm

_STEPS = ["token", "certificate", "store"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An enrolled device, whose state folder is ``tmp_path``."""
    world = World()
    enroll(Request("gateway-17"), tmp_path, world.ports())
    world.requests.clear()
    world.contacts = world.logins = 0
    return world


def _recover(world: World, folder: Path, thing: str | None = None) -> Outcome:
    def wanted(stored: Identity | None) -> str | None:
        return thing or (stored.thing_name if stored else None)

    def by_tpm(stored: Identity | None) -> enrollment.Outcome:
        request = Request(wanted(stored), new_key=stored is not None, by_tpm=True)
        return enroll(request, folder, world.ports(publishes=False), world.progress)

    def api(_: Identity | None) -> str:
        return world.base_url

    return recover(folder, world.own_ports(), lambda: lambda: world.token, api, wanted, by_tpm, world.progress)


def _enroll_another(world: World, folder: Path) -> Identity:
    """Enroll another Thing with a key in the same token, from a state folder of its own."""
    return enroll(Request("gateway-18"), folder, world.ports()).identity


def test_a_lost_state_folder_comes_back(world: World, tmp_path: Path) -> None:
    """The same certificate, Thing, key and endpoint, with one login; nothing is issued."""
    outcome = _recover(world, tmp_path / "new")
    assert outcome.identity == Identity.load(tmp_path) == Identity.load(tmp_path / "new")
    assert ([step.name for step in outcome.steps], outcome.was_there, outcome.other_keys) == (_STEPS, False, 0)
    assert not outcome.may_be_renewing
    assert (world.logins, world.requests, len(world.keys)) == (1, [], 1)
    assert (tmp_path / "new" / "certificate.pem").read_text() == outcome.identity.certificate_pem


def test_a_valid_identity_is_left_as_it_is(world: World, tmp_path: Path) -> None:
    """The API has the same one, so nothing is changed; what an unfinished enrollment left of its own stays."""
    attempt = Attempt.begin(TOKEN, KeyType.EC_P256, new_key=True)
    attempt.save(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.*")}
    outcome = _recover(world, tmp_path)
    assert (outcome.identity, outcome.was_there, outcome.steps) == (Identity.load(tmp_path), True, ())
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.*")} == before
    assert (world.contacts, world.logins) == (1, 1)


def test_the_identity_in_place_says_which_api(world: World, tmp_path: Path) -> None:
    """It is known even if the token has its key no more; a damaged one says nothing."""
    asked: list[Identity | None] = []

    def api(stored: Identity | None) -> str:
        asked.append(stored)
        return world.base_url

    old = Identity.load(tmp_path)
    new = renew(tmp_path, world.own_ports(), world).identity
    for stored in (old, None):
        if stored is not None:
            stored.save(tmp_path)
        else:
            (tmp_path / "identity.json").write_text("{")
        outcome = recover(tmp_path, world.own_ports(), lambda: lambda: world.token, api, lambda _: None, no_tpm)
        assert outcome.identity == new
    assert asked == [old, None]


def test_a_device_does_not_become_another_thing(world: World, tmp_path: Path) -> None:
    """Its own Thing is revoked, and the token has another one's key: that is an error which names both, and the way."""
    _enroll_another(world, tmp_path / "another")
    before = Identity.load(tmp_path)
    world.ledger.revoke("gateway-17")
    for token in (world.token, world.token._replace(name=world.token.name._replace(serial="unplugged before"))):
        world.token = token
        with pytest.raises(BackendRefusedError, match=r"gateway-18, but not of gateway-17: .*revoked") as raised:
            _recover(world, tmp_path)
        assert raised.value.problem_code == "thing-revoked"
        assert "recover --thing gateway-18" in raised.value.hint
        assert Identity.load(tmp_path) == before
    assert _recover(world, tmp_path, "gateway-18").identity.thing_name == "gateway-18"


def test_a_token_with_another_things_key_alone_is_the_wrong_one(world: World, tmp_path: Path) -> None:
    """The Thing that was named, or was in place, has no key there: nothing is stored."""
    with pytest.raises(KeyMissingError, match="current key of gateway-17, but not of gateway-19") as raised:
        _recover(world, tmp_path / "new", "gateway-19")
    assert "recover --thing gateway-17" in raised.value.hint
    assert not (tmp_path / "new" / "identity.json").exists()


def test_of_several_things_somebody_has_to_name_one(world: World, tmp_path: Path) -> None:
    """Nothing says which of them the device was; the other's key is in use, and no surplus."""
    _enroll_another(world, tmp_path / "another")
    with pytest.raises(KeyAmbiguousError, match="the keys of 2 Things: gateway-17, gateway-18") as raised:
        _recover(world, tmp_path / "new")
    assert raised.value.hint == "Say which of them this device is: hsm-enroll recover --thing NAME"
    assert not (tmp_path / "new" / "identity.json").exists()
    for name, other in (("gateway-17", "gateway-18"), ("gateway-18", "gateway-17")):
        outcome = _recover(world, tmp_path / name, name)
        assert outcome.identity.thing_name == name
        assert (outcome.other_keys, outcome.other_things) == (0, (other,))


def test_of_several_keys_the_enrolled_one_wins(world: World, tmp_path: Path) -> None:
    """Every key of ours is asked for; the others are counted, and stay."""
    for number in (0, 1):
        world.generate(KeyType.EC_P384, label=f"hsm-enroll-{number}", key_id=bytes([number]))
    world.keys = dict(reversed(world.keys.items()))
    outcome = _recover(world, tmp_path / "new")
    assert (outcome.identity, outcome.other_keys, len(world.keys)) == (Identity.load(tmp_path), 2, 3)


def test_a_token_with_keys_that_nobody_enrolled_recovers_nothing(tmp_path: Path) -> None:
    """The refusal says what to ask for; no identity is stored."""
    world = World()
    world.generate(KeyType.EC_P256, label="hsm-enroll-0", key_id=b"\0")
    with pytest.raises(BackendRefusedError, match=r"^refused") as raised:
        _recover(world, tmp_path)
    assert raised.value.problem_code == "proof-invalid"
    assert raised.value.__cause__ is not raised.value  # whoever looks for the first cause would never find it
    world.generate(KeyType.EC_P256, label="hsm-enroll-1", key_id=b"\1")
    with pytest.raises(BackendRefusedError, match="none of this token's 2 keys is enrolled"):
        _recover(world, tmp_path)
    assert not (tmp_path / "identity.json").exists()


def test_a_revoked_device_is_told(world: World, tmp_path: Path) -> None:
    """Of several refusals, the one that says most is shown."""
    world.generate(KeyType.EC_P256, label="hsm-enroll-0", key_id=b"\0")
    world.ledger.revoke("gateway-17")
    with pytest.raises(BackendRefusedError, match="thing-revoked") as raised:
        _recover(world, tmp_path / "new")
    assert raised.value.problem_code == "thing-revoked"


@pytest.fixture
def wiped(world: World) -> World:
    """The device, whose token is in a TPM that the operator has listed, after the disk with its keys was lost."""
    world.keys.clear()
    world.tpm.fault, world.attestations.listed = None, {b"ek": "gateway-17"}
    world.contacts = world.logins = 0
    return world


@pytest.mark.parametrize("has_state", [False, True])
def test_a_token_without_keys_is_the_same_thing_again_by_its_tpm(wiped: World, tmp_path: Path, has_state: bool) -> None:
    """The same Thing gets a new key, attested, and needs no invite; also if the state folder is still there."""
    folder = tmp_path if has_state else tmp_path / "new"
    outcome = _recover(wiped, folder)
    assert (outcome.was_issued, outcome.was_there, outcome.identity.attested) == (True, False, True)
    assert outcome.identity.thing_name == "gateway-17"
    assert outcome.identity == Identity.load(folder)
    assert [step.name for step in outcome.steps] == [
        "token",
        "thing",
        "key",
        "csr",
        "attestation",
        "certificate",
        "store",
    ]
    [key] = wiped.keys.values()
    assert outcome.identity.certificate.public_key.dump() == key.public_key_info
    assert wiped.messages == ["gateway-17"]
    assert pending(folder, outcome.identity) is None
    assert _recover(wiped, folder).was_there


def test_a_renewal_whose_keys_are_lost_does_not_keep_a_tpm_from_recovering(wiped: World, tmp_path: Path) -> None:
    """Its journal can never be finished, and goes."""
    stored = Identity.load(tmp_path)
    replace(Renewal.begin(stored), identity=stored).save(tmp_path)
    assert _recover(wiped, tmp_path).was_issued
    assert Renewal.load(tmp_path) is None


@pytest.mark.parametrize("code", ["ek-unknown", "ek-untrusted"])
def test_a_tpm_that_nobody_knows_recovers_nothing(wiped: World, tmp_path: Path, code: str) -> None:
    """The error is about the missing key, and says that the TPM did not help either; nothing was made."""
    wiped.attestations.listed, wiped.attestations.refused = {}, {b"ek": code}
    with pytest.raises(KeyMissingError, match=rf"nor does the API know its TPM: .*{code}"):
        _recover(wiped, tmp_path / "new")
    assert (wiped.keys, wiped.requests) == ({}, [])


def test_a_tpm_that_cannot_prove_anything_yet_says_what_is_missing(wiped: World, tmp_path: Path) -> None:
    """What to install comes before the operator's way, since it may be all that is needed."""
    wiped.token = wiped.token._replace(name=wiped.token.name._replace(serial="0" * 16, manufacturer="IBM"))
    wiped.tpm.fault = Fault("the package is not installed", "Install it.")
    with pytest.raises(KeyMissingError, match=r"nor can its TPM prove .*: the package is not installed") as raised:
        _recover(wiped, tmp_path / "new")
    assert raised.value.hint.startswith("Install it. Then run hsm-enroll recover again. Or else: ")


def test_another_refusal_of_the_tpm_is_told_as_it_is(wiped: World, tmp_path: Path) -> None:
    """A Thing that was revoked does not come back by its chip."""
    wiped.attestations.refused = {b"ek": "thing-revoked"}
    with pytest.raises(BackendRefusedError, match="thing-revoked"):
        _recover(wiped, tmp_path / "new")


@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_d10_power_may_go_while_a_tpm_recovers(tmp_path: Path, has_effect: bool) -> None:
    """D10: cut off anywhere, the next run ends with one key, and the identity that has it."""

    def listed(_: Path) -> World:
        world = World()
        world.tpm.fault, world.attestations.listed = None, {b"ek": "gateway-17"}
        return world

    for world, folder in cut_off(tmp_path, listed, _recover, has_effect=has_effect, least=5):
        identity = _recover(world, folder).identity
        [key] = world.keys.values()
        assert identity.certificate.public_key.dump() == key.public_key_info


def test_a_token_without_keys_has_nothing_to_recover(tmp_path: Path) -> None:
    """The API is not asked then, which no step says either, and the hint names the way that is left."""
    world = World()
    with pytest.raises(KeyMissingError, match="no key that hsm-enroll generated") as raised:
        _recover(world, tmp_path)
    assert "begin certificate" not in world.calls
    assert raised.value.hint.endswith("then run: hsm-enroll init INVITE")


def test_a_token_without_keys_beside_an_identity_needs_a_new_key(world: World, tmp_path: Path) -> None:
    """Without ``--new-key`` init would look for the key that the identity names."""
    world.keys.clear()
    with pytest.raises(KeyMissingError, match="no key that hsm-enroll generated") as raised:
        _recover(world, tmp_path)
    assert raised.value.hint.endswith("then run: hsm-enroll init --new-key INVITE")


def test_a_damaged_identity_is_replaced(world: World, tmp_path: Path) -> None:
    """D12: what a broken SD card has left of it does not stand in the way; one of a newer version does."""
    first = Identity.load(tmp_path)
    (tmp_path / "identity.json").write_text('{"version": 1, "thing_na')
    assert _recover(world, tmp_path).identity == first == Identity.load(tmp_path)
    (tmp_path / "identity.json").write_text('{"version": 2}')
    with pytest.raises(StateTooNewError):
        _recover(world, tmp_path)


def test_an_identity_from_an_old_backup_is_replaced(world: World, tmp_path: Path) -> None:
    """An identity whose key a renewal has destroyed gives way to the present one."""
    old = Identity.load(tmp_path)
    new = renew(tmp_path, world.own_ports(), world).identity
    old.save(tmp_path)
    assert _recover(world, tmp_path).identity == new


def test_an_old_identity_whose_key_is_still_there_is_replaced_too(world: World, tmp_path: Path) -> None:
    """Cut off before the old key was destroyed, and then restored: the token has both, and the API says which."""
    old = Identity.load(tmp_path)
    world.dies_at = ("begin cleanup", False)
    with pytest.raises(PowerCut):
        renew(tmp_path, world.own_ports(), world, None, world.progress)
    world.dies_at = None
    new = Identity.load(tmp_path)
    (tmp_path / "renewal.json").unlink()
    old.save(tmp_path)
    outcome = _recover(world, tmp_path)
    assert (outcome.identity, outcome.was_there, outcome.other_keys) == (new, False, 1)
    assert Identity.load(tmp_path) == new


def test_an_identity_that_the_api_does_not_know_any_more_stays(world: World, tmp_path: Path) -> None:
    """Another board has the Thing: nothing better is there to store, and the hint says what the operator can do."""
    before = Identity.load(tmp_path)
    thing = world.ledger.things["gateway-17"]
    thing.old.add(thing.current)
    thing.current = b"of the new board"
    with pytest.raises(BackendRefusedError) as raised:
        _recover(world, tmp_path)
    assert raised.value.problem_code == "key-not-current"
    assert "hsm-enroll fleet replace THING" in raised.value.hint
    assert Identity.load(tmp_path) == before


@pytest.mark.parametrize("has_identity", [False, True])
def test_damaged_journals_are_in_nobodys_way(world: World, tmp_path: Path, has_identity: bool) -> None:
    """D12: they go once the API has said which key is the device's, and that is told; before that they stay."""
    identity = Identity.load(tmp_path)
    if not has_identity:
        (tmp_path / "identity.json").unlink()
    names = ("journal.json", "renewal.json")
    for name in names:
        (tmp_path / name).write_text('{"version": 1, "tok')
    world.outage = BackendUnreachableError("no answer")
    with pytest.raises(BackendUnreachableError):
        _recover(world, tmp_path)
    assert all((tmp_path / name).exists() for name in names)
    world.outage = None
    assert _recover(world, tmp_path).was_there is has_identity
    assert not any((tmp_path / name).exists() for name in names)
    assert [name for name in names for said in world.said if said.startswith("warning:") and name in said] == [*names]
    assert pending(tmp_path, identity) is None


def test_an_identity_whose_token_is_gone_gives_way_to_another_tokens(world: World, tmp_path: Path) -> None:
    """The device was enrolled again with another token after the backup was made."""
    backup = Identity.load(tmp_path)
    world.token = world.token._replace(name=world.token.name._replace(serial="another"))
    new = enroll(Request("gateway-17", new_key=True), tmp_path, world.ports()).identity
    backup.save(tmp_path)
    assert _recover(world, tmp_path).identity == new


@pytest.mark.parametrize("call", ["publish", "begin store"], ids=["before the commit", "after it"])
def test_a_renewal_survives_the_loss_of_the_identity(world: World, tmp_path: Path, call: str) -> None:
    """With the journal in place ``renew`` finishes what it began, whichever key the API has by now."""
    world.dies_at = (call, False)
    with pytest.raises(PowerCut):
        renew(tmp_path, world.own_ports(), world, None, world.progress)
    world.dies_at = None
    (tmp_path / "identity.json").unlink()
    outcome = _recover(world, tmp_path)
    assert (outcome.other_keys, outcome.may_be_renewing) == (0, False)
    renew(tmp_path, world.own_ports(), world, None, world.progress)
    [key] = world.keys.values()
    assert world.ledger.active == {key.public_key_info} == {Identity.load(tmp_path).certificate.public_key.dump()}
    assert Renewal.load(tmp_path) is None


def test_a_renewal_that_is_lost_leaves_a_key(world: World, tmp_path: Path) -> None:
    """Without its journal nothing names the new key: it is counted and told of, and the API undoes its renewal."""
    world.dies_at = ("publish", False)
    with pytest.raises(PowerCut):
        renew(tmp_path, world.own_ports(), world)
    world.dies_at = None
    outcome = _recover(world, tmp_path / "new")
    assert (outcome.identity, outcome.other_keys, outcome.may_be_renewing) == (Identity.load(tmp_path), 1, True)
    assert _recover(world, tmp_path / "new").may_be_renewing  # also if the identity is in place
    with pytest.raises(BackendRefusedError, match="renewal-in-progress"):
        renew(tmp_path / "new", world.own_ports(), world)
    world.ledger.undo("gateway-17")
    renew(tmp_path / "new", world.own_ports(), world)


def test_journals_of_another_identity_go(world: World, tmp_path: Path) -> None:
    """An enrollment that somebody began in the meantime is given up, and so is a renewal of another identity."""
    folder = tmp_path / "new"
    folder.mkdir(mode=0o700)
    Attempt.begin(TOKEN, KeyType.EC_P256, new_key=False).save(folder)
    other = Identity.load(tmp_path)
    Renewal(TOKEN, KeyType.EC_P256, "x", b"x", old_key_label="y", old_key_id=b"y", identity=other).save(folder)
    identity = _recover(world, folder).identity
    assert pending(folder, identity) is None


@pytest.mark.parametrize(
    "error",
    [
        BackendUnreachableError("no answer"),
        BackendRefusedError("refused", problem_code="internal-error"),
        ClockError("off"),
    ],
)
def test_an_api_that_cannot_say_is_not_asked_for_the_next_key(
    world: World, tmp_path: Path, error: HsmEnrollError
) -> None:
    """Only a refusal of this very key leads to the next one."""
    world.generate(KeyType.EC_P256, label="hsm-enroll-0", key_id=b"\0")
    world.outage = error
    with pytest.raises(type(error)):
        _recover(world, tmp_path / "new")
    assert world.calls.count("find") == 1


def test_a_device_that_is_being_retired_is_not_recovered(world: World, tmp_path: Path) -> None:
    """Its identity is about to go: only ``retire`` goes on."""
    Retirement("gateway-17", world.base_url, TOKEN, KeyType.EC_P256, (KeyName("a", b"a"),)).save(tmp_path)
    with pytest.raises(UsageError, match="the retirement of this device is not finished"):
        _recover(world, tmp_path)


@pytest.mark.parametrize("has_effect", [False, True], ids=["before", "after"])
def test_d10_power_may_go_at_any_call(world: World, tmp_path: Path, has_effect: bool) -> None:
    """D10: cut off at each call and each step in turn, the next run ends with the same identity."""
    for _, folder in cut_off(tmp_path, lambda _: world, _recover, has_effect=has_effect, least=8):
        assert _recover(world, folder).identity == Identity.load(tmp_path) == Identity.load(folder)
        assert len(world.keys) == 1
