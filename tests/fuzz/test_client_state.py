"""Properties of state documents: what was written is read, and nothing else is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import StateCorruptError, StateTooNewError
from hsm_enroll.store import files

_RUN = settings(database=None, deadline=None, max_examples=100)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_DOCUMENTS = st.dictionaries(st.text().filter(lambda name: name != "version"), _VALUES, max_size=5)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all the examples; each of them replaces it."""
    return tmp_path_factory.mktemp("state") / "document.json"


@_RUN
@given(document=_DOCUMENTS, version=st.integers(min_value=1, max_value=9))
def test_a_document_is_read_back(file: Path, document: dict[str, Any], version: int) -> None:
    """Any JSON object survives being written and read."""
    files.write_document(file, version, document)
    assert files.read_document(file, version) == {"version": version, **document}


@_RUN
@given(document=_DOCUMENTS, data=st.data())
def test_a_document_cut_anywhere_is_corrupt(file: Path, document: dict[str, Any], data: st.DataObject) -> None:
    """D12: no beginning of a document, but the one without its last newline, passes for one."""
    files.write_document(file, 1, document)
    content = file.read_bytes()
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])
    with pytest.raises(StateCorruptError):
        files.read_document(file, 1)


@_RUN
@given(content=st.binary() | _VALUES.map(repr).map(str.encode))
def test_any_bytes_are_a_document_or_an_error_of_ours(file: Path, content: bytes) -> None:
    """D12: whatever a file holds, it is a JSON object with a version, corrupt, or too new."""
    file.write_bytes(content)
    try:
        document = files.read_document(file, 1)
    except (StateCorruptError, StateTooNewError):
        return
    assert document is not None
    assert document["version"] <= 1
