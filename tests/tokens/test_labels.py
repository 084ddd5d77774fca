"""Token labels whose bytes are not what people read: another encoding, NUL padding, blanks at the end (D22)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsm_enroll import doctor
from hsm_enroll.errors import TokenNotFoundError, TokenRefusedError
from hsm_enroll.key import KeyType
from hsm_enroll.settings import Settings
from hsm_enroll.token import inventory, keypair, selection, session
from hsm_enroll.token.tokens import Tokens
from hsm_enroll.uri import Pkcs11Uri
from tests.support.softhsm_under_test import SoftHsmUnderTest
from tests.support.tokens import listed, token_of
from tests.support.under_test import LABEL, KeyName
from tests.tokens.handshake import TLS_1_2, shake

_LATIN_1 = "Größe".encode("latin-1").ljust(32)
_NUL_PADDED = LABEL.encode().ljust(32, b"\0")
_WITH_TAB = f"{LABEL}\t".encode().ljust(32)


def _relabel(softhsm: SoftHsmUnderTest, label: bytes) -> None:
    """Give the token a label that SoftHSM's own tool does not write."""
    file = softhsm.token_folder(LABEL) / "token.object"
    file.write_bytes(file.read_bytes().replace(LABEL.encode().ljust(32), label))


def _mqtt_finding(softhsm: SoftHsmUnderTest, folder: Path) -> doctor.Finding:
    with Tokens() as tokens:
        patient = doctor.Patient(Settings(state=folder, module=softhsm.module), os.environ, tokens)
        return next(finding for finding in doctor.examine(patient, online=False) if finding.id == "token.mqtt")


@pytest.mark.parametrize(
    ("label", "wrong"), [(_LATIN_1, "is not valid UTF-8"), (_NUL_PADDED, "is padded with NUL instead of blanks")]
)
def test_d22_a_label_that_mqtt_cannot_find_is_refused_before_a_key_is_made(
    softhsm: SoftHsmUnderTest, label: bytes, wrong: str
) -> None:
    """D22: where awscrt would not find the token by its label, init refuses it, and says what is wrong with it."""
    _relabel(softhsm, label)
    with pytest.raises(TokenRefusedError, match=wrong) as caught:
        selection.require(token_of(softhsm.module), KeyType.EC_P256, mqtt=True)
    assert "Relabel" in caught.value.hint


def test_d22_without_mqtt_a_nul_padded_label_is_good_enough(softhsm: SoftHsmUnderTest, key: KeyName) -> None:
    """D22: padding is no part of a label: a token whose label is padded with NUL is found by it, and makes keys."""
    _relabel(softhsm, _NUL_PADDED)
    report = selection.choose([softhsm.module], Pkcs11Uri(token=LABEL), listed)
    selection.require(report, KeyType.EC_P256, mqtt=False)
    with session.opened(report.name, softhsm.ask_pin, writable=True) as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)


def test_d22_a_label_in_another_encoding_is_shown_and_names_no_key(softhsm: SoftHsmUnderTest) -> None:
    """D22: two labels that are not UTF-8 differ where their bytes do, and neither token gets a key, MQTT or not."""
    _relabel(softhsm, _LATIN_1)
    softhsm.add_token(LABEL)
    _relabel(softhsm, "Grüße".encode("latin-1").ljust(32))
    reports = [report for report in listed(softhsm.module) if report.initialized]
    assert {report.name.label for report in reports} == {r"Gr\xf6\xdfe", r"Gr\xfc\xdfe"}
    for report in reports:
        assert selection.choose([softhsm.module], report.name.uri, listed) == report
        with pytest.raises(TokenRefusedError, match="is not valid UTF-8"):
            selection.require(report, KeyType.EC_P256, mqtt=False)


def test_d22_a_tab_at_the_end_belongs_to_the_label(softhsm: SoftHsmUnderTest, key: KeyName, tmp_path: Path) -> None:
    """D22: a label that ends in a tab is another one than without it, in selection, in sessions and in MQTT."""
    _relabel(softhsm, _WITH_TAB)
    softhsm.add_token(LABEL)
    names = {report.name.label: report.name for report in listed(softhsm.module) if report.initialized}
    assert set(names) == {LABEL, f"{LABEL}\t"}
    for name in names.values():
        chosen = selection.choose([softhsm.module], Pkcs11Uri.parse(str(Pkcs11Uri(token=name.label))), listed)
        assert (chosen.name, chosen.mqtt_obstacle) == (name, None)
        with session.opened(name, softhsm.ask_pin, writable=True) as opened:
            assert opened.token.serial.decode() == name.serial
            pair = keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        assert shake(name, softhsm.pin, pair, TLS_1_2, tmp_path) == TLS_1_2


def test_d22_a_name_without_the_tab_opens_no_other_token(softhsm: SoftHsmUnderTest) -> None:
    """D22: a session is opened by the bytes of the label, so that no token stands in for one that looks the same."""
    _relabel(softhsm, _WITH_TAB)
    [report] = [report for report in inventory.list_tokens(softhsm.module) if report.initialized]
    with (
        pytest.raises(TokenNotFoundError),
        session.opened(report.name._replace(label=LABEL), softhsm.ask_pin),
    ):
        pass


@pytest.mark.parametrize(
    ("label", "status"),
    [(_LATIN_1, doctor.Status.FAILED), (_NUL_PADDED, doctor.Status.FAILED), (_WITH_TAB, doctor.Status.OK)],
)
def test_d22_doctor_says_whether_mqtt_finds_the_token(
    softhsm: SoftHsmUnderTest, tmp_path: Path, label: bytes, status: doctor.Status
) -> None:
    """D22: doctor's token.mqtt fails for a label that awscrt does not find, and says what to do about it."""
    _relabel(softhsm, label)
    finding = _mqtt_finding(softhsm, tmp_path)
    assert finding.status is status
    assert ("Relabel" in (finding.hint or "")) == (status is doctor.Status.FAILED)
