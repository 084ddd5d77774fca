"""The journal: what is written is read again, and nothing else is."""

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
    """Where nothing is under way there is nothing to load, and closing is no error."""
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
    """Label and id are random, so no key of the token has them."""
    attempts = [Attempt.begin(_TOKEN, KeyType.EC_P256, new_key=False) for _ in range(1000)]
    assert len({attempt.key_label for attempt in attempts}) == len({attempt.key_id for attempt in attempts}) == 1000


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("token", "gateway"), ("token", {"label": "gateway"}), ("key_type", "rsa-1024"), ("key_type", 5),
        ("key_label", None), ("key_id", "xyz"), ("key_id", 7), ("new_key", "no"), ("csr", None), ("csr", []),
    ],
)  # fmt: skip
def test_a_damaged_member_is_said(tmp_path: Path, member: str, value: object) -> None:
    """D12: a member that is missing or of another type makes the journal corrupt, never another exception."""
    Attempt.begin(_TOKEN, KeyType.EC_P256, new_key=False).save(tmp_path)
    file = tmp_path / "journal.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, member: value}))
    with pytest.raises(StateCorruptError, match=r"journal\.json"):
        Attempt.load(tmp_path)
    del document[member]
    file.write_text(json.dumps(document))
    with pytest.raises(StateCorruptError):
        Attempt.load(tmp_path)


def test_a_journal_that_does_not_know_spent_keys_is_read(tmp_path: Path) -> None:
    """D12: an attempt begun before the journal had that member resumes; a member of another type is damage."""
    attempt = Attempt.begin(_TOKEN, KeyType.EC_P256, new_key=False)
    attempt.save(tmp_path)
    file = tmp_path / "journal.json"
    document = json.loads(file.read_text())
    del document["is_spent"]
    file.write_text(json.dumps(document))
    assert Attempt.load(tmp_path) == attempt
    file.write_text(json.dumps({**document, "is_spent": "no"}))
    with pytest.raises(StateCorruptError):
        Attempt.load(tmp_path)


def test_a_newer_journal_is_left_alone(tmp_path: Path) -> None:
    """D12: a journal of a newer version is not guessed at."""
    (tmp_path / "journal.json").write_text('{"version": 2}')
    with pytest.raises(StateTooNewError):
        Attempt.load(tmp_path)
