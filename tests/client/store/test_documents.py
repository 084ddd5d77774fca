"""Stored documents: read in every version there has been, written in the current one."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.errors import StateCorruptError, StateError, StateTooNewError
from hsm_enroll.store import documents
from hsm_enroll.store.documents import Format

_CURRENT = Format()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the document is."""
    return tmp_path / "document.json"


def _parse(document: dict[str, Any]) -> dict[str, Any]:
    return {**documents.members(document, {"name": str}), "unknown": documents.unknown_members(document, {"name": ""})}


def test_a_document_is_read_as_it_was_written(file: Path) -> None:
    """Whatever JSON can express is read again, and is closed to other users."""
    document = {"name": "Zürich 中 😀", "list": [1, 2.5, None, True], "object": {}}
    _CURRENT.save(file, document, unknown={})

    assert _CURRENT.load(file, dict) == document
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_document_can_be_read_by_people_too(file: Path) -> None:
    """A document is indented JSON in UTF-8 that begins with its version and ends with a newline."""
    _CURRENT.save(file, {"name": "Zürich"}, unknown={})
    assert file.read_text(encoding="utf-8") == '{\n  "version": 1,\n  "name": "Zürich"\n}\n'


def test_half_a_surrogate_pair_is_written(file: Path) -> None:
    """A path that is not UTF-8 has such characters in Python: they are escaped, as in JSON, and read again."""
    _CURRENT.save(file, {"name": "/opt/\udcff\ud83d/module.so"}, unknown={})
    assert _CURRENT.load(file, dict) == {"name": "/opt/\udcff\ud83d/module.so"}


def test_no_file_is_no_document(file: Path) -> None:
    """A missing file is None, and not an error."""
    assert _CURRENT.load(file, dict) is None


# Versions


def _label_is_added(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "label": document["name"].upper()}


def _name_is_renamed(document: dict[str, Any]) -> dict[str, Any]:
    if not document["name"]:
        raise ValueError("name is empty")
    return {**{name: value for name, value in document.items() if name != "name"}, "title": document["name"]}


_THIRD = Format(upgrades=(_label_is_added, _name_is_renamed))


def _write(file: Path, **document: object) -> None:
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "document",
    [
        {"version": 1, "name": "a", "later": 5},
        {"version": 2, "name": "a", "label": "A", "later": 5},
        {"version": 3, "title": "a", "label": "A", "later": 5},
        {"name": "a", "later": 5},
    ],
    ids=["first", "second", "third", "unversioned"],
)
def test_a_document_of_any_version_is_brought_up_to_date(file: Path, document: dict[str, Any]) -> None:
    """D12: an older document is upgraded version by version; one without a version is of the first."""
    _write(file, **document)
    assert _THIRD.load(file, dict) == {"title": "a", "label": "A", "later": 5}


def test_the_current_version_is_written(file: Path) -> None:
    """A document is saved in the newest version, also when it was read in an older one."""
    _THIRD.save(file, {"title": "a"}, unknown={})
    assert json.loads(file.read_text()) == {"version": 3, "title": "a"}


def test_an_older_document_can_be_damaged_too(file: Path) -> None:
    """D12: what an upgrade cannot use is damage, and the error says what and where."""
    _write(file, version=2, name="", label="A")
    with pytest.raises(StateCorruptError, match=f"{file} is damaged: name is empty"):
        _THIRD.load(file, dict)


def test_a_document_of_a_newer_version_is_told_apart(file: Path) -> None:
    """D12: a newer version is exit status 52, and the error names both versions; the members are not looked at."""
    _write(file, version=4)
    with pytest.raises(StateTooNewError, match=r"has format 4; this program reads formats up to 3") as caught:
        _THIRD.load(file, dict)
    assert caught.value.exit_status == 52


# Damage


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "\0" * 512,
        "{",
        '{"version": 1',
        '{"version": 1}{"version": 1}',
        "null",
        "1",
        '"version"',
        "[]",
        '[{"version": 1}]',
        "{}",
        '{"version": null}',
        '{"version": "1"}',
        '{"version": 1.0}',
        '{"version": true}',
        '{"version": [1]}',
        '{"version": 0, "name": "a"}',
        '{"version": -1, "name": "a"}',
        "{" + '"a": {' * 100_000,
        "[" * 200_000,
        '{"version": ' + "9" * 5_000 + "}",
    ],
    ids=lambda text: text[:20],
)
def test_a_damaged_document_is_corrupt(file: Path, text: str) -> None:
    """D12: an empty, cut, foreign, nested or nonsensical file is StateCorruptError, exit status 50, and is named."""
    file.write_text(text)
    with pytest.raises(StateCorruptError, match=str(file)) as caught:
        _CURRENT.load(file, _parse)
    assert caught.value.exit_status == 50


def test_damage_is_described(file: Path) -> None:
    """D12: the error says which member is damaged."""
    _write(file, version=1, name=5)
    with pytest.raises(StateCorruptError, match=f"{file} is damaged: name is missing or not of type str"):
        _CURRENT.load(file, _parse)


@pytest.mark.usefixtures("broken_disk")
def test_a_document_that_cannot_be_written_is_an_error(file: Path) -> None:
    """D11: the error of writing a file is that of saving a document."""
    with pytest.raises(StateError, match=str(file)):
        _CURRENT.save(file, {}, unknown={})


# Members


def test_members_are_picked_by_name_and_type() -> None:
    """The named members are returned if each is of exactly its type; others are left out."""
    document = {"port": 8883, "label": "a", "extra": None}
    assert documents.members(document, {"label": str, "port": int}) == {"label": "a", "port": 8883}


@pytest.mark.parametrize(
    "document", [None, [], "label", 1, {}, {"label": None}, {"label": 1}, {"label": ["a"]}, {"Label": "a"}]
)
def test_members_that_are_missing_or_of_another_type_are_an_error(document: object) -> None:
    """What is not an object, lacks a member, or has one of another type, is a ValueError."""
    with pytest.raises(ValueError, match=r"JSON object|label"):
        documents.members(document, {"label": str})


def test_a_truth_value_is_not_a_number() -> None:
    """``true`` is refused where a number belongs, and 1 where a truth value does."""
    for document, kind in (({"a": True}, int), ({"a": 1}, bool)):
        with pytest.raises(ValueError, match="a is missing or not of type"):
            documents.members(document, {"a": kind})


def test_unknown_members_are_found_at_every_level() -> None:
    """A member is unknown if this version would not write it; a known object is looked into, a known list is not."""
    known = {"name": "a", "list": [], "token": {"label": "a"}, "origin": {"local": True}}
    document = {"name": "b", "list": [{"x": 1}], "token": {"label": "b", "slot": {"id": 5}}, "origin": {"local": False}}

    assert documents.unknown_members({**document, "new": None}, known) == {"new": None, "token": {"slot": {"id": 5}}}
    assert documents.unknown_members(known, known) == {}


def test_unknown_members_are_written_where_they_were(file: Path) -> None:
    """D12: they follow the known ones, at their own level, and the known ones have their new values."""
    _CURRENT.save(file, {"token": {"label": "new"}, "name": "a"}, unknown={"later": 5, "token": {"slot": 7}})
    assert json.loads(file.read_text()) == {
        "version": 1, "token": {"label": "new", "slot": 7}, "name": "a", "later": 5
    }  # fmt: skip
