"""The table of what tokens can do: on the page for those of the tests, at the end of the run for a given one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from hsm_enroll.key import KeyType
from hsm_enroll.token import capabilities, keypair, session
from tests.support.pages import page
from tests.support.under_test import KeyName, OwnToken, TokenUnderTest
from tests.tokens import table
from tests.tokens.handshake import TLS_1_2, shake
from tests.tokens.options import ROWS


@cache
def _rows(token: TokenUnderTest) -> list[table.Row]:
    return table.rows(token)


def test_what_the_token_says_it_can_do_it_can(token: TokenUnderTest, pytestconfig: pytest.Config) -> None:
    """Each key type has a row, and every one that the token lists is made, signs, and opens a TLS 1.2 connection.

    An EC key opens a TLS 1.3 connection too, once awscrt is made to offer it (RFC 8446 §4.4.3).
    """
    able = capabilities.read(session.find(token.name)).mqtt_key_types
    pytestconfig.stash[ROWS] = table.text(_rows(token))
    assert [row.key_type for row in _rows(token)] == list(KeyType)
    assert [row.key_type for row in _rows(token) if row.tls_1_2 == "yes"] == list(able)
    assert [row.key_type for row in _rows(token) if row.tls_1_3 == "yes"] == [type_ for type_ in able if type_.curve]


@pytest.mark.own_token
def test_the_page_has_the_rows_of_today(token: OwnToken) -> None:
    """docs/tokens.md says of the tests' tokens what ``scripts/tokens-table`` would write now; times may differ."""
    documented = [table.without_times(cells) for cells in page("docs/tokens.md").table("token")]
    found = [table.without_times(row.cells) for row in _rows(token)]
    assert [row for row in found if row not in documented] == []
    same_token = [row for row in documented if row[:2] == found[0][:2]]
    assert same_token == found


@pytest.mark.own_token
def test_a_handshake_with_another_keys_certificate_fails(token: TokenUnderTest, key: KeyName, tmp_path: Path) -> None:
    """The server of these handshakes does verify: a certificate of another key opens no connection."""
    other = KeyName("other-" + key.label, key.id[::-1])
    with token.opened() as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        pair = keypair.generate(opened, KeyType.EC_P256, label=other.label, key_id=other.id)
    assert shake(token.name, token.pin, pair, TLS_1_2, tmp_path, signing=key.label) != TLS_1_2
