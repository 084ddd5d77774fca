"""Files that earlier releases wrote are read, and what newer ones have added to a file is not lost.

Each folder of ``earlier`` holds a state folder as that release left it; ``request.pem`` repeats the journal's CSR.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.key import KeyType, TokenName
from hsm_enroll.store.identity import Identity
from hsm_enroll.store.journal import Attempt
from hsm_enroll.store.pin_owner import PinOwner
from hsm_enroll.store.renewal import Renewal
from hsm_enroll.store.retirement import KeyName, Retirement
from tests.support.identities import identity

_EARLIER = Path(__file__).with_name("earlier")
_RELEASE = _EARLIER / "0.1.0"
_TOKEN = TokenName(
    Path("/usr/lib/softhsm/libsofthsm2.so"), "Zürich 7", "0123456789abcdef", "SoftHSM project", "SoftHSM v2"
)
_IDENTITY = identity(
    certificate_pem=(_RELEASE / "certificate.pem").read_text(),
    token=_TOKEN,
    key_label="hsm-enroll-00ff00ff00ff00ff",
    key_id=bytes.fromhex("00ff00ff00ff00ff"),
)
_ATTEMPT = Attempt(
    token=_TOKEN,
    key_type=KeyType.EC_P384,
    key_label="hsm-enroll-0123456789abcdef",
    key_id=bytes.fromhex("0123456789abcdef"),
    new_key=True,
    csr=(_RELEASE / "request.pem").read_text(),
    is_spent=True,
)
_UNSPENT = replace(_ATTEMPT, key_type=KeyType.EC_P256, new_key=False, csr=None, is_spent=False)
_RENEWAL = Renewal(
    token=_TOKEN,
    key_type=KeyType.EC_P256,
    key_label="hsm-enroll-0123456789abcdef",
    key_id=bytes.fromhex("0123456789abcdef"),
    csr=(_RELEASE / "request.pem").read_text(),
    token_was_clean=True,
    old_key_label="hsm-enroll-fedcba9876543210",
    old_key_id=bytes.fromhex("fedcba9876543210"),
    identity=_IDENTITY,
)
_BEGUN = replace(_RENEWAL, csr=None, token_was_clean=False, identity=None)
_RETIREMENT = Retirement(
    thing_name="gateway-7",
    api="https://api.example",
    token=_TOKEN,
    key_type=KeyType.EC_P256,
    enrolled_keys=(KeyName("hsm-enroll-00ff00ff00ff00ff", bytes.fromhex("00ff00ff00ff00ff")),),
    other_keys=(KeyName("hsm-enroll-0123456789abcdef", bytes.fromhex("0123456789abcdef")),),
    is_told=True,
)
_Stored = Identity | Attempt | PinOwner | Renewal | Retirement
_FILES: list[tuple[str, Callable[[Path], _Stored | None]]] = [
    ("identity.json", Identity.load),
    ("journal.json", Attempt.load),
    ("token.json", PinOwner.load),
    ("renewal.json", Renewal.load),
    ("retirement.json", Retirement.load),
]


@pytest.mark.parametrize(
    ("load", "release", "expected"),
    [
        (Identity.load, "0.1.0", _IDENTITY),
        (Attempt.load, "0.1.0", _ATTEMPT),
        (Attempt.load, "0.1.0-before-is_spent", _UNSPENT),
        (Attempt.load, "0.1.0-before-token_was_clean", _ATTEMPT),
        (PinOwner.load, "0.1.0", PinOwner(_TOKEN)),
        (Renewal.load, "0.1.0", _RENEWAL),
        (Renewal.load, "0.1.0-begun", _BEGUN),
        (Retirement.load, "0.1.0", _RETIREMENT),
    ],
)
def test_a_file_of_an_earlier_release_is_loaded(load: Callable[[Path], object], release: str, expected: object) -> None:
    """D12: what an earlier release wrote has the value that it had there."""
    assert load(_EARLIER / release) == expected


@pytest.mark.parametrize(("name", "load"), _FILES)
def test_a_file_of_an_earlier_release_is_written_as_it_was(
    tmp_path: Path, name: str, load: Callable[[Path], _Stored | None]
) -> None:
    """As long as the version is the same, the earlier release can read what this one writes."""
    value = load(_RELEASE)
    assert value is not None
    value.save(tmp_path)
    assert (tmp_path / name).read_bytes() == (_RELEASE / name).read_bytes()


def _with_additions(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with a member that nobody knows in each of its objects."""
    inside = {name: _with_additions(value) for name, value in document.items() if isinstance(value, dict)}
    return {**document, **inside, "later": {"any": ["thing", None]}}


def _changed(folder: Path, name: str) -> tuple[_Stored, dict[str, Any]]:
    """Load a file and return it with a change, and the members that this changes in the document."""
    token = _TOKEN._replace(label="new")
    if name == "identity.json":
        return replace(Identity.load(folder), token=token, mqtt_port=443), {"mqtt_port": 443}
    attempt, owner = Attempt.load(folder), PinOwner.load(folder)
    renewal, retirement = Renewal.load(folder), Retirement.load(folder)
    assert attempt is not None
    assert owner is not None
    assert renewal is not None
    assert retirement is not None
    if name == "journal.json":
        return replace(attempt, token=token, csr=None), {"csr": ""}
    if name == "renewal.json":
        return replace(renewal, token=token, csr=None), {"csr": ""}
    if name == "retirement.json":
        return replace(retirement, token=token, is_told=False), {"is_told": False}
    return replace(owner, token=token), {"label": "new"}


@pytest.mark.parametrize("name", [name for name, _ in _FILES])
def test_members_of_a_newer_version_survive_a_change(tmp_path: Path, name: str) -> None:
    """D12: members that this version does not know, at any level, are kept when a file is loaded, changed and saved."""
    shutil.copytree(_RELEASE, tmp_path, dirs_exist_ok=True)
    document = _with_additions(json.loads((tmp_path / name).read_text(encoding="utf-8")))
    (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    value, changes = _changed(tmp_path, name)
    value.save(tmp_path)

    expected = {**document, **changes}
    if "token" in document:
        expected["token"] = {**document["token"], "label": "new"}
    assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == expected
