"""What the device holds after enrollment: written whole, read strictly."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsm_enroll.errors import NotEnrolledError, StateCorruptError, StateError, StateTooNewError
from hsm_enroll.key import KeyType
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.store.identity import Identity, certificate_file
from hsm_enroll.uri import Pkcs11Uri
from tests.support.identities import identity
from tests.support.self_signed import armoured, der, pem, self_signed
from tests.support.software_signer import public_key_info, software_key

_IDENTITY = identity(api="https://api.example/")


def _document(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def _overwrite(folder: Path, document: object) -> None:
    (folder / "identity.json").write_text(json.dumps(document), encoding="utf-8")


def _paths(document: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in document.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _paths(value, (*above, name))


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    """A state folder that holds the identity."""
    _IDENTITY.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "identity",
    [
        _IDENTITY,
        replace(_IDENTITY, thing_name="Tür 中 😀", key_label='"\\;=%\n', key_id=b"", attested=True),
        replace(_IDENTITY, token=_IDENTITY.token._replace(serial="", module=Path("/opt/Ü b/lib.so"))),
        *(replace(_IDENTITY, key_type=key_type, certificate_pem=pem(self_signed(key_type))) for key_type in KeyType),
    ],
)
def test_an_identity_is_loaded_as_it_was_saved(tmp_path: Path, identity: Identity) -> None:
    """Every member survives the way to the disk and back."""
    identity.save(tmp_path)
    assert Identity.load(tmp_path) == identity


def test_it_is_found_where_the_environment_says(enrolled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, the identity is that of the folder which HSM_ENROLL_HOME names."""
    monkeypatch.setenv("HSM_ENROLL_HOME", str(enrolled))
    assert Identity.load() == _IDENTITY


def test_the_certificate_lies_beside_it_for_other_programs(enrolled: Path) -> None:
    """``certificate.pem`` is the certificate and everyone may read it; only the owner may read the identity."""
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (certificate_file(enrolled), enrolled / "identity.json")]

    assert certificate_file(enrolled) == enrolled / "certificate.pem"
    assert certificate_file(enrolled).read_text() == _IDENTITY.certificate_pem
    assert modes == [0o644, 0o600]


def test_its_certificate_is_parsed(enrolled: Path) -> None:
    """``certificate`` is the parsed certificate, for the key that signed it."""
    certificate = Identity.load(enrolled).certificate
    assert certificate.public_key.dump() == public_key_info(software_key(KeyType.EC_P256))


def test_the_format_is_stable(enrolled: Path) -> None:
    """The file is a JSON object of version 1 with these members."""
    assert _document(enrolled) == {
        "version": 1,
        "thing_name": "gateway-7",
        "certificate_id": "ab" * 32,
        "certificate_pem": _IDENTITY.certificate_pem,
        "token": {
            "module": "/usr/lib/softhsm/libsofthsm2.so",
            "label": "gateway",
            "serial": "0123456789abcdef",
            "manufacturer": "SoftHSM project",
            "model": "SoftHSM v2",
        },
        "key_label": "hsm-enroll-00ff",
        "key_id": "00ff",
        "key_type": "ec-p256",
        "key_origin": {
            "local": True,
            "sensitive": True,
            "extractable": False,
            "never_extractable": True,
            "always_sensitive": True,
        },
        "api": "https://api.example/",
        "mqtt_endpoint": "endpoint.example",
        "mqtt_port": 8883,
        "attested": False,
    }


def test_a_role_alias_is_kept(tmp_path: Path) -> None:
    """Where the device gets AWS credentials is read back; an identity of an earlier release has none."""
    named = replace(_IDENTITY, role_alias=RoleAlias("gateways", "credentials.example", 8443))
    named.save(tmp_path)
    assert Identity.load(tmp_path) == named
    document = _document(tmp_path)
    assert document.pop("role_alias") == {"name": "gateways", "endpoint": "credentials.example", "port": 8443}
    _overwrite(tmp_path, document)
    assert Identity.load(tmp_path) == _IDENTITY


@pytest.mark.parametrize(
    "alias",
    [
        "gateways",
        {},
        {"name": "a/../b", "endpoint": "credentials.example", "port": 443},
        {"name": "gateways", "endpoint": "a\x1b[2J", "port": 443},
        {"name": "gateways", "endpoint": "credentials.example", "port": True},
    ],
)
def test_an_invalid_role_alias_is_damage(enrolled: Path, alias: object) -> None:
    """D12: a name, a host or a port that cannot be one is corrupt."""
    _overwrite(enrolled, {**_document(enrolled), "role_alias": alias})
    with pytest.raises(StateCorruptError, match="role_alias"):
        Identity.load(enrolled)


def test_the_key_is_named_by_a_uri_that_finds_it_alone() -> None:
    """The key's URI names token, object and id, as RFC 7512 writes them, and not the module's path."""
    assert str(_IDENTITY.key_uri) == (
        "pkcs11:token=gateway;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial=0123456789abcdef;"
        "object=hsm-enroll-00ff;id=%00%FF;type=private"
    )
    assert Pkcs11Uri.parse(str(_IDENTITY.key_uri)) == _IDENTITY.key_uri


def test_a_token_without_a_serial_is_named_without_one() -> None:
    """An empty serial number is left out of the URI, where it would match nothing but an empty one."""
    identity = replace(_IDENTITY, token=_IDENTITY.token._replace(serial=""))
    assert "serial" not in str(identity.key_uri)


@pytest.mark.parametrize("folder", ["", "missing", "missing/below"])
def test_a_device_without_one_is_not_enrolled(tmp_path: Path, folder: str) -> None:
    """No file or no folder is NotEnrolledError, exit status 3, and says what to run."""
    with pytest.raises(NotEnrolledError, match=str(tmp_path / folder)) as caught:
        Identity.load(tmp_path / folder)
    assert caught.value.exit_status == 3
    assert caught.value.hint == "Run: hsm-enroll init INVITE. If the state folder was lost, run: hsm-enroll recover"


def test_a_dangling_link_is_not_the_same_as_no_identity(enrolled: Path) -> None:
    """D29: a link whose target is missing is an error: the device may be enrolled, and must not enroll again."""
    (enrolled / "identity.json").replace(enrolled / "elsewhere.json")
    (enrolled / "identity.json").symlink_to(enrolled / "elsewhere.json")
    assert Identity.load(enrolled) == _IDENTITY
    (enrolled / "elsewhere.json").unlink()
    with pytest.raises(StateError, match=str(enrolled / "identity.json")):
        Identity.load(enrolled)


_MEMBERS: list[tuple[str, ...]] = [
    (name,)
    for name in (
        "thing_name",
        "certificate_id",
        "certificate_pem",
        "token",
        "key_label",
        "key_id",
        "key_type",
        "key_origin",
        "api",
        "mqtt_endpoint",
        "mqtt_port",
        "attested",
    )
]
_MEMBERS += [("token", name) for name in ("module", "label", "serial", "manufacturer", "model")]
_MEMBERS += [
    ("key_origin", name) for name in ("local", "sensitive", "extractable", "never_extractable", "always_sensitive")
]


def test_every_member_is_under_test(enrolled: Path) -> None:
    """The list in this module holds every member that is written, except the version."""
    assert set(_paths(_document(enrolled))) - {("version",)} == set(_MEMBERS)


def _object_with(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path[:-1]:
        document = document[name]
    return document


@pytest.mark.parametrize("path", _MEMBERS, ids=".".join)
def test_a_missing_member_is_damage(enrolled: Path, path: tuple[str, ...]) -> None:
    """D12: an identity that lacks a member is corrupt, and the error names the file."""
    document = _document(enrolled)
    del _object_with(document, path)[path[-1]]
    _overwrite(enrolled, document)
    with pytest.raises(StateCorruptError, match=str(enrolled / "identity.json")):
        Identity.load(enrolled)


@pytest.mark.parametrize("path", _MEMBERS, ids=".".join)
def test_a_member_of_another_type_is_damage(enrolled: Path, path: tuple[str, ...]) -> None:
    """D12: a member of another JSON type is corrupt, including a number for a truth value and the reverse."""
    whole = _document(enrolled)
    right = type(_object_with(whole, path)[path[-1]])
    others: tuple[object, ...] = (None, True, 1, 0, 1.5, "text", [], ["text"], {})
    for wrong in others:
        if type(wrong) is right:
            continue
        document = json.loads(json.dumps(whole))
        _object_with(document, path)[path[-1]] = wrong
        _overwrite(enrolled, document)
        with pytest.raises(StateCorruptError, match=str(enrolled / "identity.json")):
            Identity.load(enrolled)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key_id", "0"),
        ("key_id", "xy"),
        ("key_type", "DSA!"),
        ("mqtt_endpoint", "a\x1b[2J"),
        ("mqtt_endpoint", "a\0b"),
        ("mqtt_endpoint", "a" * 5000),
        ("mqtt_endpoint", "broker.example/x"),
        ("mqtt_port", 0),
        ("mqtt_port", 65536),
        ("key_type", ""),
        ("certificate_pem", ""),
        ("certificate_pem", _IDENTITY.certificate_pem * 2),
        ("certificate_pem", _IDENTITY.certificate_pem[:-40]),
        ("certificate_pem", armoured(der(self_signed())[:-1])),
    ],
)
def test_an_invalid_member_is_damage(enrolled: Path, name: str, value: str) -> None:
    """D12: an id that is not hexadecimal, an unknown key type, a damaged certificate: corrupt."""
    _overwrite(enrolled, {**_document(enrolled), name: value})
    with pytest.raises(StateCorruptError, match=str(enrolled / "identity.json")):
        Identity.load(enrolled)


def test_members_of_a_newer_version_are_not_a_part_of_its_value() -> None:
    """Two identities are equal whatever a newer version has added to one of them, and it is not shown."""
    with_additions = replace(_IDENTITY, unknown={"later": 5})
    assert (with_additions, hash(with_additions), repr(with_additions)) == (_IDENTITY, hash(_IDENTITY), repr(_IDENTITY))


def test_an_identity_of_a_newer_format_is_told_apart(enrolled: Path) -> None:
    """D12: an identity of version 2 is StateTooNewError, exit status 52."""
    _overwrite(enrolled, {**_document(enrolled), "version": 2})
    with pytest.raises(StateTooNewError) as caught:
        Identity.load(enrolled)
    assert caught.value.exit_status == 52


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_file_that_is_not_a_document_is_damage(enrolled: Path, content: str) -> None:
    """D12: an empty, cut or foreign file is corrupt, exit status 50."""
    (enrolled / "identity.json").write_text(content)
    with pytest.raises(StateCorruptError) as caught:
        Identity.load(enrolled)
    assert caught.value.exit_status == 50


def test_the_copy_is_not_authoritative(enrolled: Path) -> None:
    """D12: whatever happens to ``certificate.pem``, the identity is what ``identity.json`` says."""
    certificate_file(enrolled).write_text("replaced")
    assert Identity.load(enrolled) == _IDENTITY
    certificate_file(enrolled).unlink()
    assert Identity.load(enrolled) == _IDENTITY


@pytest.mark.usefixtures("broken_disk")
def test_a_disk_that_cannot_keep_it_leaves_what_was_there(tmp_path: Path) -> None:
    """D11: if the identity cannot be written, nothing is."""
    with pytest.raises(StateError, match=str(tmp_path / "identity.json")):
        _IDENTITY.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_identity_is_written_before_its_copy(enrolled: Path) -> None:
    """D10: a run that dies between the two files leaves the new identity, and a copy that is out of date."""
    renewed = replace(_IDENTITY, certificate_pem=pem(self_signed()))
    certificate_file(enrolled).unlink()
    certificate_file(enrolled).mkdir()
    with pytest.raises(StateError, match=str(certificate_file(enrolled))):
        renewed.save(enrolled)
    assert Identity.load(enrolled) == renewed


@pytest.mark.parametrize(
    "change",
    [
        lambda identity: setattr(identity, "thing_name", "another"),
        lambda identity: setattr(identity.token, "label", "another"),
        lambda identity: setattr(identity.key_origin, "local", False),
    ],
)
def test_an_identity_cannot_be_changed(change: Callable[[Identity], None]) -> None:
    """An Identity and its parts are values."""
    with pytest.raises(AttributeError):
        change(_IDENTITY)


@pytest.mark.parametrize("attribute", ["local", "sensitive", "extractable", "never_extractable", "always_sensitive"])
def test_a_key_was_born_in_hardware_only_if_every_attribute_says_so(attribute: str) -> None:
    """One attribute that says otherwise is enough: there may be another copy of the key."""
    origin = _IDENTITY.key_origin

    assert origin.is_hardware_born
    assert not origin._replace(**{attribute: not getattr(origin, attribute)}).is_hardware_born


def test_a_key_type_of_a_newer_version_is_not_damage(enrolled: Path) -> None:
    """D12: a value that looks like a key type but is unknown was written by a newer version, and the error says so."""
    _overwrite(enrolled, {**_document(enrolled), "key_type": "ml-dsa-44"})
    with pytest.raises(StateTooNewError, match="a value that this version does not know: ml-dsa-44"):
        Identity.load(enrolled)
