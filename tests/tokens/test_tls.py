"""Handshakes of awscrt with keys of every token: the last use of a key that has to work before it is of any use."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm_enroll.key import KeyType
from hsm_enroll.token import keypair
from tests.support.under_test import KeyName, TokenUnderTest
from tests.tokens.handshake import TLS_1_2, TLS_1_3, shake


def test_a_key_signs_its_handshake(token: TokenUnderTest, key: KeyName, key_type: KeyType, tmp_path: Path) -> None:
    """A key of every type opens a TLS 1.2 connection whose server has verified the token's signature (RFC 5246)."""
    with token.opened() as opened:
        pair = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
    assert shake(token.name, token.pin, pair, TLS_1_2, tmp_path) == TLS_1_2


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384])
def test_an_ec_key_signs_a_handshake_of_tls_1_3(
    token: TokenUnderTest, key: KeyName, key_type: KeyType, tmp_path: Path
) -> None:
    """An EC key opens a TLS 1.3 connection too, once awscrt is made to offer it (RFC 8446 §4.4.3)."""
    with token.opened() as opened:
        pair = keypair.generate(opened, key_type, label=key.label, key_id=key.id)
    assert shake(token.name, token.pin, pair, TLS_1_3, tmp_path) == TLS_1_3


@pytest.mark.own_token
def test_a_handshake_with_another_keys_certificate_fails(token: TokenUnderTest, key: KeyName, tmp_path: Path) -> None:
    """The server that the tests above trust does verify: a certificate of another key opens no connection."""
    other = KeyName("other-" + key.label, key.id[::-1])
    with token.opened() as opened:
        keypair.generate(opened, KeyType.EC_P256, label=key.label, key_id=key.id)
        pair = keypair.generate(opened, KeyType.EC_P256, label=other.label, key_id=other.id)
    assert shake(token.name, token.pin, pair, TLS_1_2, tmp_path, signing=key.label) != TLS_1_2
