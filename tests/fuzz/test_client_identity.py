"""Properties of reading an identity: damage is an error, and an identity that is returned is complete."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_enroll.errors import StateCorruptError, StateTooNewError
from hsm_enroll.key import KeyOrigin, KeyType, TokenName
from hsm_enroll.store.identity import Identity
from tests.support.self_signed import pem, self_signed

_RUN = settings(database=None, deadline=None, max_examples=100)
_TEXTS = st.text()
_PEM = pem(self_signed())
_IDENTITIES = st.builds(
    Identity,
    thing_name=_TEXTS,
    certificate_id=_TEXTS,
    certificate_pem=st.just(_PEM),
    token=st.builds(
        TokenName,
        module=_TEXTS.map(Path),
        label=_TEXTS,
        serial=_TEXTS,
        manufacturer=_TEXTS,
        model=_TEXTS,
    ),
    key_label=_TEXTS,
    key_id=st.binary(),
    key_type=st.sampled_from(KeyType),
    key_origin=st.builds(KeyOrigin, *[st.booleans()] * len(KeyOrigin._fields)),
    api=_TEXTS,
    mqtt_endpoint=st.sampled_from(["endpoint.example", "127.0.0.1", "::1"]),
    mqtt_port=st.integers(1, 65535),
    attested=st.booleans(),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["ec-p256", "00ff", _PEM]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state folder for all the examples."""
    return tmp_path_factory.mktemp("state")


@_RUN
@given(identity=_IDENTITIES)
def test_any_identity_is_loaded_as_it_was_saved(folder: Path, identity: Identity) -> None:
    """Whatever the names, labels and ids are, nothing is lost on the disk, and the key's URI can be parsed."""
    identity.save(folder)
    loaded = Identity.load(folder)

    assert loaded == identity
    assert type(loaded.key_uri).parse(str(loaded.key_uri)) == loaded.key_uri


@_RUN
@given(identity=_IDENTITIES, data=st.data())
def test_a_member_replaced_by_anything_is_damage_or_still_an_identity(
    folder: Path, identity: Identity, data: st.DataObject
) -> None:
    """D12: whatever replaces a member, the result is an identity of the right types or one of our errors."""
    identity.save(folder)
    file = folder / "identity.json"
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    level = document[data.draw(st.sampled_from(["token", "key_origin"]))] if data.draw(st.booleans()) else document
    level[data.draw(st.sampled_from(sorted(level)))] = data.draw(_JSON)
    file.write_text(json.dumps(document), encoding="utf-8")
    try:
        loaded = Identity.load(folder)
    except (StateCorruptError, StateTooNewError):
        return
    assert all(type(getattr(loaded, field.name)) is type(getattr(identity, field.name)) for field in fields(Identity))
    assert all(type(getattr(loaded.key_origin, name)) is bool for name in KeyOrigin._fields)
    assert all(isinstance(getattr(loaded.token, name), str | Path) for name in TokenName._fields)
