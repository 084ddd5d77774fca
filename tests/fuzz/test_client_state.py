"""Properties of state documents: what was written is read, and anything else is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import StateCorruptError, StateTooNewError
from hsm_enroll.key import KeyType
from hsm_enroll.store.documents import Format
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.pin_owner import PinOwner
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from tests.support.identities import TOKEN, identity

_RUN = settings(database=None, deadline=None, max_examples=100)
# Halves of surrogate pairs included, which JSON may hold.
_TEXTS = st.text(st.characters())
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)
# As a file can hold it: two halves that meet are one character.
_OBJECTS = st.dictionaries(_TEXTS, _VALUES, max_size=5).map(lambda value: json.loads(json.dumps(value)))
_DOCUMENTS = _OBJECTS.filter(lambda value: "version" not in value)

_Stored = Identity | Attempt | PinOwner | Renewal | Retirement
_RETIREMENT = Retirement(
    "gateway-7", "https://api.example", TOKEN, KeyType.EC_P256, (KeyName("a", b"a"),), (KeyName("b", b"b"),)
)

_STORED: dict[str, tuple[_Stored, Callable[[Path], _Stored | None]]] = {
    "identity.json": (identity(), Identity.load),
    "journal.json": (Attempt.begin(TOKEN, KeyType.EC_P256, new_key=True), Attempt.load),
    "token.json": (PinOwner(TOKEN), PinOwner.load),
    "renewal.json": (replace(Renewal.begin(identity()), csr="csr", identity=identity()), Renewal.load),
    "retirement.json": (_RETIREMENT, Retirement.load),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all the examples; each of them replaces it."""
    return tmp_path_factory.mktemp("state") / "document.json"


@_RUN
@given(document=_DOCUMENTS)
def test_a_document_is_read_back(file: Path, document: dict[str, Any]) -> None:
    """Any JSON object survives being written and read."""
    Format().save(file, document, unknown={})
    assert Format().load(file, dict) == document


@_RUN
@given(document=_DOCUMENTS, data=st.data())
def test_a_document_cut_anywhere_is_corrupt(file: Path, document: dict[str, Any], data: st.DataObject) -> None:
    """D12: no beginning of a document is taken for a document, except the one without its last newline."""
    Format().save(file, document, unknown={})
    content = file.read_bytes()
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])
    with pytest.raises(StateCorruptError):
        Format().load(file, dict)


@_RUN
@given(content=st.binary() | _VALUES.map(repr).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_document_or_an_error_of_ours(file: Path, content: bytes) -> None:
    """D12: whatever a file holds, it is a JSON object, corrupt, or too new."""
    file.write_bytes(content)
    try:
        document = Format().load(file, dict)
    except (StateCorruptError, StateTooNewError):
        return
    assert document is not None


@settings(_RUN, max_examples=40)
@pytest.mark.parametrize("name", _STORED)
@given(data=st.data())
def test_members_that_nobody_knows_are_kept(file: Path, name: str, data: st.DataObject) -> None:
    """D12: with any members added at any level, a file has the same value, and keeps them when it is saved."""
    folder = file.parent
    value, load = _STORED[name]
    value.save(folder)
    document = json.loads((folder / name).read_text(encoding="utf-8"))
    for level in (document, *[inner for inner in document.values() if isinstance(inner, dict)]):
        level.update({member: added for member, added in data.draw(_OBJECTS).items() if member not in level})
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    loaded = load(folder)
    assert loaded == value
    loaded.save(folder)

    assert json.loads((folder / name).read_text(encoding="utf-8")) == document
