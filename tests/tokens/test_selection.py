"""Choosing the one token that is meant (D6)."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest

from hsm_enroll.errors import (
    ModuleMissingError,
    ModuleUnusableError,
    TokenAmbiguousError,
    TokenNotFoundError,
)
from hsm_enroll.key import KeyType
from hsm_enroll.secret import Secret
from hsm_enroll.token import inventory, keypair, provision, session
from hsm_enroll.token.selection import choose
from hsm_enroll.uri import Pkcs11Uri
from tests.support.fault_module import FaultModule
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed
from tests.support.under_test import LABEL, KeyName, OwnToken, TokenUnderTest

# RFC 7512 reserves or encodes each of these somewhere; a label has 32 bytes.
_ODD_LABELS = [
    "Halle 3 links",
    "Größe-Süd_Straße",
    "a;token=b;serial=0",
    "100%25 %zz%",
    "pkcs11:object=x?pin-value=1",
    "/usr/lib/x#y&z=[1]@!$'()*+,",
    '"quoted" \\back\\ `tick`',
    "水道ポンプ",
]


def test_a_token_is_chosen_by_its_label(token: TokenUnderTest) -> None:
    """The label finds the token, in this process and through a child, and both describe it alike."""
    wanted = token.wanted
    chosen = choose([token.module], wanted, listed)
    assert chosen.name.label == token.label
    assert chosen.initialized
    assert chosen.name == choose([token.module], wanted, inventory.list_tokens).name


def test_d6_no_such_label_lists_labels_and_serials(token: TokenUnderTest) -> None:
    """D6: if only a label is asked for, the error lists what a person reads: labels and serials, in brackets."""
    with pytest.raises(TokenNotFoundError) as caught:
        choose([token.module], Pkcs11Uri(token="another"), inventory.list_tokens)
    assert caught.value.message.startswith("no token matches pkcs11:token=another (found: '")
    assert f"{token.label!r} with serial {token.name.serial}" in caught.value.message


def test_a_token_is_chosen_by_all_that_names_it(token: TokenUnderTest) -> None:
    """The URI that a report gives, with label, serial, manufacturer and model, finds the token again."""
    name = token.name
    uri = str(name.uri)
    assert Pkcs11Uri.parse(uri) == Pkcs11Uri(
        token=token.label, serial=name.serial or None, manufacturer=name.manufacturer, model=name.model
    )
    assert choose([token.module], Pkcs11Uri.parse(uri), listed).name == token.name


@pytest.mark.parametrize("attribute", ["token", "serial", "manufacturer", "model"])
def test_d6_no_such_token_lists_what_is_there(token: TokenUnderTest, attribute: str) -> None:
    """D6: one attribute that differs is enough for no match, and the error lists the tokens that there are."""
    wanted = Pkcs11Uri.parse(re.sub(rf"\b{attribute}=[^;]*", f"{attribute}=another", str(token.name.uri)))
    with pytest.raises(TokenNotFoundError) as caught:
        choose([token.module], wanted, inventory.list_tokens)
    assert f"{attribute}=another" in caught.value.message
    assert str(token.name.uri) in caught.value.message


@pytest.mark.own_token
def test_d6_an_uninitialised_token_is_not_chosen(token: OwnToken) -> None:
    """D6: with nothing asked for, the one initialised token is it, though the module has a free slot beside it."""
    reports = listed(token.module)
    assert [report.initialized for report in reports].count(False) >= 1
    assert choose([token.module], Pkcs11Uri(), lambda _: reports).name == token.name


def test_d6_a_module_with_no_token_says_so(empty_softhsm: SoftHsmUnderTest) -> None:
    """D6: a module whose only token is uninitialised has none to choose, and the error says so."""
    assert [report.initialized for report in listed(empty_softhsm.module)] == [False]
    with pytest.raises(TokenNotFoundError, match="this machine has no initialised token"):
        choose([empty_softhsm.module], Pkcs11Uri(token=""), listed)


def test_d6_two_tokens_of_one_label_are_told_apart_by_serial(softhsm: SoftHsmUnderTest) -> None:
    """D6: a label that two tokens have chooses neither; the error lists both, and each one's URI chooses it."""
    softhsm.add_token(LABEL)
    twins = [report.name for report in listed(softhsm.module) if report.initialized]
    assert [twin.label for twin in twins] == [LABEL, LABEL]
    with pytest.raises(TokenAmbiguousError, match="2 tokens match") as caught:
        choose([softhsm.module], Pkcs11Uri(token=LABEL), listed)
    for twin in twins:
        assert str(twin.uri) in caught.value.message
        assert choose([softhsm.module], Pkcs11Uri(token=LABEL, serial=twin.serial), listed).name == twin
        with session.opened(
            twin._replace(module=softhsm.module_copy(softhsm.module.parent)), softhsm.ask_pin
        ) as opened:
            assert opened.token.serial.decode() == twin.serial


def test_d6_two_tokens_of_one_name_are_not_opened(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D6: where label and serial name two tokens, neither is opened, and no PIN is tried on either."""
    softhsm.add_token("other")
    log = tmp_path / "logins"
    module = softhsm.faulty_module(SAME_NAME=1, LOGIN_LOG=f'"{log}"')
    name = inventory.list_tokens(module)[0].name
    with pytest.raises(TokenAmbiguousError), session.opened(name, softhsm.ask_pin):
        pass
    assert not log.exists()


def test_d6_a_token_is_found_after_its_slot_has_changed(empty_softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """D6: SoftHSM gives a token another slot id after it is made and others are added; its name still finds it."""
    so_pin = Secret("officer-1234")
    made = provision.create_softhsm_token(empty_softhsm.module, LABEL, so_pin=so_pin, user_pin=empty_softhsm.pin)
    empty_softhsm.add_token("newcomer")
    chosen = choose([empty_softhsm.module], made.name.uri, listed)
    assert chosen.slot != made.slot
    assert chosen.name == made.name
    another = empty_softhsm.module_copy(empty_softhsm.module.parent)
    moved = choose([another], made.name.uri, inventory.list_tokens)
    assert moved.slot == chosen.slot
    with session.opened(moved.name, empty_softhsm.ask_pin, writable=True) as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
    with session.opened(made.name, empty_softhsm.ask_pin) as opened:
        assert keypair.find(opened, label=key.label, key_id=key.id).origin.is_hardware_born


def test_d6_a_token_that_is_gone_is_not_opened(softhsm: SoftHsmUnderTest) -> None:
    """D6: a token that was there and is not any more is an error of its own; nobody is asked for a PIN."""
    name = softhsm.name
    softhsm.remove_token(LABEL)
    asked: list[str] = []

    def pin() -> Secret:
        asked.append("PIN")
        return softhsm.pin

    gone = name._replace(module=softhsm.module_copy(softhsm.module.parent))
    with (
        pytest.raises(TokenNotFoundError, match=r"'gateway' with serial .* was not found") as raised,
        session.opened(gone, pin),
    ):
        pass
    assert asked == []
    assert "hsm-enroll init --new-key INVITE" in raised.value.hint


@pytest.mark.parametrize("answer", [0x32, 0xE0, 0xE1], ids=["removed", "not present", "not recognized"])
def test_a_slot_that_cannot_be_read_hides_no_token(softhsm: SoftHsmUnderTest, answer: int) -> None:
    """A slot whose token is gone, or none that the module knows, hides no other one."""
    module = softhsm.faulty_module(FREE_SLOT_SAYS=hex(answer))
    chosen = choose([module], Pkcs11Uri(token=LABEL), listed)
    assert [report.name.label for report in inventory.list_tokens(module)] == [LABEL]
    with session.opened(chosen.name, softhsm.ask_pin) as opened:
        assert opened.token.label == LABEL


@pytest.mark.parametrize("answer", ["fail 32", "fail 30"], ids=["removed", "device error"])
def test_a_module_that_lists_no_slots_hides_no_other(softhsm: SoftHsmUnderTest, tmp_path: Path, answer: str) -> None:
    """A module that fails to list its slots, whatever it says, is unusable; the token in another one is found."""
    silent = FaultModule(softhsm.module, tmp_path, f"C_GetSlotList 1+ {answer}")
    assert choose([silent.file, softhsm.module], softhsm.wanted, listed).name == softhsm.name
    with pytest.raises(ModuleUnusableError):
        choose([silent.file], softhsm.wanted, listed)


def test_a_broken_module_is_passed_over_where_another_has_the_token(token: TokenUnderTest, tmp_path: Path) -> None:
    """D5: a module that cannot be used does not stand in the way of the token in another one."""
    broken = tmp_path / "broken.so"
    broken.write_text("no module\n")
    missing = tmp_path / "missing.so"
    chosen = choose([broken, missing, token.module], token.wanted, listed)
    assert chosen.name == token.name


def test_a_broken_module_is_mentioned_where_no_token_matches(softhsm: SoftHsmUnderTest, tmp_path: Path) -> None:
    """D5: where no module has the token, the error says which of them could not be used, since it may be there."""
    broken = tmp_path / "broken.so"
    broken.write_text("no module\n")
    with pytest.raises(TokenNotFoundError, match=rf"[(]found: '.*' with serial .*[)]; {broken} cannot be used"):
        choose([broken, softhsm.module], Pkcs11Uri(token="another"), listed)
    softhsm.remove_token(LABEL)
    with pytest.raises(TokenNotFoundError, match=f"no initialised token; {broken} cannot be used") as caught:
        choose([broken, softhsm.module_copy(softhsm.folder)], Pkcs11Uri(), listed)
    assert "PKCS#11 module" in caught.value.hint


def test_the_only_module_answers_with_its_own_error(tmp_path: Path) -> None:
    """D5: with one module to ask, its own fault is the answer; with none at all, that is."""
    broken = tmp_path / "broken.so"
    broken.write_text("no module\n")
    with pytest.raises(ModuleUnusableError):
        choose([broken], Pkcs11Uri(), listed)
    with pytest.raises(ModuleMissingError, match=r"missing\.so"):
        choose([tmp_path / "missing.so"], Pkcs11Uri(), listed)
    with pytest.raises(ModuleMissingError, match="no PKCS#11 module"):
        choose([], Pkcs11Uri(), listed)


def test_odd_labels_survive_the_way_through_a_uri(empty_softhsm: SoftHsmUnderTest) -> None:
    """Each token's URI, written and read again, chooses that token out of all, whatever signs its label has."""
    for label in _ODD_LABELS:
        empty_softhsm.add_token(label)
    reports = [report for report in listed(empty_softhsm.module) if report.initialized]
    assert sorted(report.name.label for report in reports) == sorted(_ODD_LABELS)
    for report in reports:
        by_all = Pkcs11Uri.parse(str(report.name.uri))
        by_label = Pkcs11Uri.parse(str(Pkcs11Uri(token=report.name.label)))
        for wanted in (by_all, by_label):
            assert choose([empty_softhsm.module], wanted, lambda _: reports) == report


def test_odd_key_labels_survive_the_way_through_a_uri(
    token: TokenUnderTest, key: KeyName, any_key_type: KeyType
) -> None:
    """The URI under which a child lists a public key finds that key by label and id, whatever signs its label has."""
    names = [KeyName(f"{odd} {key.label} {odd}", secrets.token_bytes(6) + b"\x00%") for odd in _ODD_LABELS]
    with token.opened() as opened:
        made = [keypair.generate(opened, any_key_type, label=name.label, key_id=name.id) for name in names]
    report = choose([token.module], token.wanted, listed)
    uris = {uri.id: uri for uri in map(Pkcs11Uri.parse, report.public_keys)}
    with token.opened() as opened:
        for pair in made:
            uri = uris[pair.id]
            assert (uri.token, uri.serial) == (token.label, report.name.serial or None)
            assert (uri.object, uri.type) == (pair.label, "public")
            assert keypair.find(opened, label=uri.object, key_id=uri.id).public_key_info == pair.public_key_info
            keypair.destroy(opened, label=pair.label, key_id=pair.id)
