"""The schemas of the JSON documents: one for each command, complete, open for readers and closed for our own tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from tests.support import documents
from tests.support.pages import REFERENCE, code, page

_NAMES = sorted(documents.names())
_FILES = sorted(documents.SCHEMAS.glob("*.json"))
_OPTIONAL = {"store", "condition"}  # a TPM's token has a store, and a policy's rule may have a condition
_ERROR = {"code": "usage", "exitStatus": 2, "message": "what happened", "hint": "what to do", "retryable": False}


def _commands() -> set[str]:
    """Return the names of the reference's commands, without their arguments, in the form of a schema's name."""
    rows = (code(row[0])[0] for row in REFERENCE.table("command"))
    return {row.removeprefix("hsm-enroll ").partition(" [")[0].replace(" ", "-") for row in rows}


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and every schema within it."""
    if isinstance(schema, list):
        for part in schema:
            yield from _parts(part)
    if isinstance(schema, dict):
        yield schema
        for name, part in schema.items():
            if name != "examples":
                yield from _parts(part)


def _read(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((documents.SCHEMAS / name).read_text(encoding="utf-8"))
    return schema


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every member of every object in a document, but for the conditions of a policy."""
    for name, member in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict):
            yield (*path, name)
        if isinstance(member, dict | list) and name != "condition":
            yield from _paths(member, (*path, name))


def _copied(document: Any, path: tuple[str | int, ...]) -> tuple[Any, Any]:
    """Return a copy of a document, and that object within the copy which has the member at the path."""
    copied = owner = copy.deepcopy(document)
    for step in path[:-1]:
        owner = owner[step]
    return copied, owner


def _examples() -> list[tuple[str, Any]]:
    return [(name, example) for name in _NAMES for example in _read(f"{name}.json")["examples"]]


def test_each_command_has_a_schema_and_each_schema_a_command() -> None:
    """The reference's commands are the schemas, but for the one of errors."""
    assert set(_NAMES) == _commands() | {documents.ERROR}


def test_the_page_lists_every_schema_with_its_command() -> None:
    """docs/json.md has a row for each schema, which links to it and names its command."""
    rows = dict(page("docs/json.md").table("schema"))
    commands = {name: f"`hsm-enroll {name.replace('-', ' ', 1).replace('ek-ca-', 'ek-ca ')}`" for name in _NAMES}
    commands["aws-credentials"] = "`hsm-enroll aws-credentials`"
    commands[documents.ERROR] = "every command that fails"
    assert rows == {f"[{name}](schema/{name}.json)": command for name, command in commands.items()}


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_a_schema_is_one_of_draft_2020_12_and_names_itself(file: Path) -> None:
    """Each file is a schema whose ``$id`` is its own name, relative: it is wherever the files are."""
    schema = _read(file.name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == file.name


@pytest.mark.parametrize("file", _FILES, ids=lambda file: file.stem)
def test_every_member_says_what_it_is(file: Path) -> None:
    """A member has a description, its own or that of the definition that it refers to."""
    definitions = _read(f"{documents.SHARED}.json")["$defs"]
    assert all(definition["description"] for definition in definitions.values())
    for part in _parts(_read(file.name)):
        for name, member in part.get("properties", {}).items():
            shared = definitions[member["$ref"].rpartition("/")[2]] if "$ref" in member else {}
            assert {**shared, **member}.get("description"), name


def test_every_shared_definition_is_used() -> None:
    """definitions.json holds nothing that no schema refers to."""
    referred = {
        part["$ref"].rpartition("/")[2] for file in _FILES for part in _parts(_read(file.name)) if "$ref" in part
    }
    assert referred == _read(f"{documents.SHARED}.json")["$defs"].keys()


@pytest.mark.parametrize(("name", "example"), _examples())
def test_a_member_more_is_for_readers_and_not_for_our_tests(name: str, example: Any) -> None:
    """An example is valid; with another member, in whichever of its objects, it is so for readers alone."""
    documents.validator(name).validate(example)
    for path in _paths(example):
        changed, owner = _copied(example, path)
        owner["aLaterMember"] = 1
        documents.validator(name, closed=False).validate(changed)
        assert not documents.validator(name).is_valid(changed), path


@pytest.mark.parametrize(("name", "example"), _examples())
def test_a_member_less_is_for_nobody(name: str, example: Any) -> None:
    """An example that lacks a member is not valid, unless it is one that may be left out."""
    for path in _paths(example):
        changed, owner = _copied(example, path)
        del owner[path[-1]]
        assert documents.validator(name, closed=False).is_valid(changed) is (path[-1] in _OPTIONAL), path


@pytest.mark.parametrize("arguments", [["status", "--json"], ["token", "create"], ["invite", "list"], ["unknown"]])
def test_an_error_is_the_document_of_whatever_command(arguments: list[str]) -> None:
    """A command that failed is read by the error's schema, even one that there is not."""
    assert documents.read(arguments, json.dumps({"error": _ERROR})) == {"error": _ERROR}


@pytest.mark.parametrize(
    "stdout",
    [
        json.dumps({"error": {**_ERROR, "exitStatus": 0}}),
        json.dumps({"error": {**_ERROR, "code": "No Such"}}),
        json.dumps({"error": _ERROR, "thing": "gateway-17"}),
        json.dumps({"id": "12e03f7eb69ade48", "revoked": True}),
        json.dumps([]),
    ],
)
def test_a_document_of_another_form_is_not_read(stdout: str) -> None:
    """A document that is not the command's, nor an error, fails the test that reads it."""
    with pytest.raises(ValidationError):
        documents.read(["status"], stdout)


@pytest.mark.parametrize("stdout", ["", "{}{}", "warning\n{}"])
def test_one_document_is_all_that_stdout_may_hold(stdout: str) -> None:
    """With ``--json`` stdout has one document and nothing beside it."""
    with pytest.raises(json.JSONDecodeError):
        documents.read(["status"], stdout)


@pytest.mark.parametrize(
    ("member", "valid", "wrong"),
    [
        ("expires", "2028-02-29T00:00:00Z", ["2026-02-29T00:00:00Z", "2026-11-23 16:08:24Z", "2026-11-23T16:08:24"]),
        ("invite", "https://[::1]:8443/#A-0", ["https://localhost:70000/#A", "https://a b/#A", "https:///#A", "A-0"]),
    ],
)
def test_formats_are_checked(member: str, valid: str, wrong: list[str]) -> None:
    """A time that no calendar has, or a URL that is none, is refused although it has the right type."""
    [invite, _] = _read("invite-create.json")["examples"]
    documents.read(["invite", "create"], json.dumps({**invite, member: valid}))
    for value in wrong:
        with pytest.raises(ValidationError):
            documents.read(["invite", "create"], json.dumps({**invite, member: value}))
