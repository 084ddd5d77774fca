"""The journals of a renewal and of a retirement: what is written is read again, and anything else is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_enroll.errors import StateCorruptError, StateTooNewError
from hsm_enroll.key import KeyType
from hsm_enroll.store import renewal, retirement
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from tests.support.identities import TOKEN, identity

_RENEWAL = Renewal.begin(identity())
_RETIREMENT = Retirement("gateway-7", "https://api.example", TOKEN, KeyType.EC_P256, (KeyName("a", b"\0\1"),))
_ALL: list[tuple[str, Renewal | Retirement, Callable[[Path], object]]] = [
    ("renewal.json", _RENEWAL, Renewal.load),
    ("retirement.json", _RETIREMENT, Retirement.load),
]


def test_nothing_is_in_progress_at_first(tmp_path: Path) -> None:
    """Without a file there is nothing to load, and closing is not an error."""
    assert (Renewal.load(tmp_path), Retirement.load(tmp_path)) == (None, None)
    renewal.close(tmp_path)
    retirement.close(tmp_path)


def test_a_renewal_begins_with_the_identitys_key() -> None:
    """The old key is the identity's; the new one has another name, and the same type and token."""
    assert (_RENEWAL.old_key_label, _RENEWAL.old_key_id) == (identity().key_label, identity().key_id)
    assert (_RENEWAL.token, _RENEWAL.key_type) == (identity().token, identity().key_type)
    assert _RENEWAL.key_id != Renewal.begin(identity()).key_id


@pytest.mark.parametrize("new", [None, identity(), identity(unknown={"later": 1})])
@pytest.mark.parametrize("csr", [None, "-----BEGIN CERTIFICATE REQUEST-----\n"])
def test_a_renewal_is_read_as_it_was_written(tmp_path: Path, csr: str | None, new: Identity | None) -> None:
    """Every member survives, also what a newer version stored in the identity; a closed journal is gone."""
    written = replace(_RENEWAL, csr=csr, identity=new)
    written.save(tmp_path)
    read = Renewal.load(tmp_path)
    assert read == written
    assert read is not None
    assert new is None or (read.identity is not None and read.identity.unknown == new.unknown)
    renewal.close(tmp_path)
    assert Renewal.load(tmp_path) is None


@pytest.mark.parametrize("is_told", [True, False])
def test_a_retirement_is_read_as_it_was_written(tmp_path: Path, is_told: bool) -> None:
    """Every member survives, and a closed journal is gone."""
    written = replace(_RETIREMENT, is_told=is_told, other_keys=(KeyName("b", b"\2"), KeyName("c", b"\3")))
    written.save(tmp_path)
    assert Retirement.load(tmp_path) == written
    retirement.close(tmp_path)
    assert Retirement.load(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "member", "value"),
    [
        *(("renewal.json", member, None) for member in ("token", "key_type", "key_label", "key_id", "csr")),
        *(("renewal.json", member, 7) for member in ("old_key_label", "old_key_id", "token_was_clean", "identity")),
        ("renewal.json", "old_key_id", "xyz"),
        ("renewal.json", "identity", {"thing_name": "gateway-7"}),
        *(("retirement.json", member, None) for member in ("thing_name", "api", "token", "key_type", "is_told")),
        ("retirement.json", "enrolled_keys", {}),
        ("retirement.json", "enrolled_keys", ["a"]),
        ("retirement.json", "enrolled_keys", [{"label": "a"}]),
        ("retirement.json", "enrolled_keys", [{"label": "a", "id": "x"}]),
        ("retirement.json", "other_keys", None),
        # What contradicts itself: the one key would be destroyed as the old one; nobody could be told without a key.
        pytest.param("renewal.json", "old_key_id", _RENEWAL.key_id.hex(), id="renewal.json-same_key_id"),
        pytest.param("renewal.json", "old_key_label", _RENEWAL.key_label, id="renewal.json-same_key_label"),
        ("retirement.json", "enrolled_keys", []),
    ],
)  # fmt: skip
def test_an_invalid_member_is_damage(tmp_path: Path, name: str, member: str, value: object) -> None:
    """D12: a member of another type or without a valid value makes the file corrupt, and the error names it."""
    for file, written, load in _ALL:
        if file == name:
            written.save(tmp_path)
            document = json.loads((tmp_path / name).read_text())
            (tmp_path / name).write_text(json.dumps({**document, member: value}))
            with pytest.raises(StateCorruptError, match=name) as raised:
                load(tmp_path)
            assert ("recover" if file == "renewal.json" else "run hsm-enroll retire again") in raised.value.hint


@pytest.mark.parametrize(("name", "written", "load"), _ALL)
def test_a_missing_member_is_damage(
    tmp_path: Path, name: str, written: Renewal | Retirement, load: Callable[[Path], object]
) -> None:
    """D12: a file that lacks a member that it has always had is corrupt."""
    written.save(tmp_path)
    document = json.loads((tmp_path / name).read_text())
    for member in document.keys() - {"version"}:
        (tmp_path / name).write_text(json.dumps({key: value for key, value in document.items() if key != member}))
        with pytest.raises(StateCorruptError, match=member):
            load(tmp_path)


@pytest.mark.parametrize(("name", "written", "load"), _ALL)
def test_a_newer_file_is_left_alone(
    tmp_path: Path, name: str, written: Renewal | Retirement, load: Callable[[Path], object]
) -> None:
    """D12: neither a newer format nor a key type of a newer version is damage."""
    (tmp_path / name).write_text('{"version": 2}')
    with pytest.raises(StateTooNewError):
        load(tmp_path)
    written.save(tmp_path)
    (tmp_path / name).write_text(json.dumps({**json.loads((tmp_path / name).read_text()), "key_type": "ml-dsa-44"}))
    with pytest.raises(StateTooNewError, match="ml-dsa-44"):
        load(tmp_path)
