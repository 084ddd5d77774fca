"""The journal: what is written is read again, and anything else is an error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_enroll.errors import StateCorruptError, StateTooNewError
from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store import journal
from hsm_enroll.store.journal import Attempt

_TOKEN = TokenName(Path("/module.so"), "gateway", "0a1b", "Maker", "Model")


def test_no_journal_is_no_attempt(tmp_path: Path) -> None:
    """Without an enrollment in progress there is nothing to load, and closing is not an error."""
    assert Attempt.load(tmp_path) is None
    journal.close(tmp_path)


@pytest.mark.parametrize("csr", [None, "-----BEGIN CERTIFICATE REQUEST-----\n"])
@pytest.mark.parametrize("new_key", [True, False])
@pytest.mark.parametrize("is_spent", [True, False])
def test_an_attempt_is_read_as_it_was_written(tmp_path: Path, csr: str | None, new_key: bool, is_spent: bool) -> None:
    """Every member of an attempt survives, and a closed journal is gone."""
    attempt = replace(Attempt.begin(_TOKEN, KeyType.RSA_2048, new_key=new_key), csr=csr, is_spent=is_spent)
    attempt.save(tmp_path)
    assert Attempt.load(tmp_path) == attempt
    journal.close(tmp_path)
    assert Attempt.load(tmp_path) is None


def test_keys_of_two_attempts_have_different_names() -> None:
    """Label and id are random, so no key in the token has them."""
    attempts = [Attempt.begin(_TOKEN, KeyType.EC_P256, new_key=False) for _ in range(1000)]
    assert len({attempt.key_label for attempt in attempts}) == len({attempt.key_id for attempt in attempts}) == 1000


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("token", "gateway"), ("token", {"label": "gateway"}), ("key_type", "RSA!"), ("key_type", 5),
        ("key_label", None), ("key_id", "xyz"), ("key_id", 7), ("new_key", "no"), ("csr", None), ("csr", []),
        ("is_spent", "no"), ("is_spent", 0), ("token_was_clean", "no"),
    ],
)  # fmt: skip
def test_an_invalid_member_is_damage(tmp_path: Path, member: str, value: object) -> None:
    """D12: a member of another type or without a valid value makes the journal corrupt, and the error names it."""
    Attempt.begin(_TOKEN, KeyType.EC_P256, new_key=False).save(tmp_path)
    file = tmp_path / "journal.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, member: value}))
    with pytest.raises(StateCorruptError, match=r"journal\.json"):
        Attempt.load(tmp_path)


@pytest.mark.parametrize("member", ["token", "key_type", "key_label", "key_id", "new_key", "csr"])
def test_a_missing_member_is_damage(tmp_path: Path, member: str) -> None:
    """D12: a journal that lacks a member it has always had is corrupt."""
    Attempt.begin(_TOKEN, KeyType.EC_P256, new_key=False).save(tmp_path)
    file = tmp_path / "journal.json"
    document = json.loads(file.read_text())
    del document[member]
    file.write_text(json.dumps(document))
    with pytest.raises(StateCorruptError, match=f"{file} is damaged"):
        Attempt.load(tmp_path)


def test_a_newer_journal_is_left_alone(tmp_path: Path) -> None:
    """D12: a journal of a newer version is StateTooNewError; nothing is made of its members."""
    (tmp_path / "journal.json").write_text('{"version": 2}')
    with pytest.raises(StateTooNewError):
        Attempt.load(tmp_path)


def test_a_key_type_of_a_newer_version_is_not_damage(tmp_path: Path) -> None:
    """D12: a value that looks like a key type but is unknown was written by a newer version, and the error says so."""
    Attempt.begin(_TOKEN, KeyType.EC_P256, new_key=False).save(tmp_path)
    file = tmp_path / "journal.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "key_type": "ml-dsa-44"}))
    with pytest.raises(StateTooNewError, match=r"journal\.json has a value that this version does not know: ml-dsa-44"):
        Attempt.load(tmp_path)
