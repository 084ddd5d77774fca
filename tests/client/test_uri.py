"""PKCS#11 URIs: the standard's own examples, and everything that is not one."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest

from hsm_enroll.errors import UsageError
from hsm_enroll.uri import Pkcs11Uri

# RFC 7512 §3, the examples that name what this program selects by.
_TAKEN = {
    "pkcs11:": Pkcs11Uri(),
    "pkcs11:object=my-pubkey;type=public": Pkcs11Uri(object="my-pubkey", type="public"),
    "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1": Pkcs11Uri(
        object="my-sign-key", type="private", module_path=Path("/mnt/libmypkcs11.so.1")
    ),
    "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert": Pkcs11Uri(
        token="A name with a substring %;", object="my-certificate", type="cert"
    ),
    "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert": Pkcs11Uri(
        token="Name with a small A with acute: á", object="my-certificate", type="cert"
    ),
}

# RFC 7512 §3, the examples with an attribute that would choose by what changes, or that may hold a PIN.
_REFUSED = {
    "pkcs11:object=my-key;type=private?pin-source=file:/etc/token": "pin-source",
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
    "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin": "pin-source",
    "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11": "module-name",
    "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin": "pin-value",
    "pkcs11:slot-description=Sun%20Metaslot": "slot-description",
    "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;"
    "library-version=1.23": "library-manufacturer",
    "pkcs11:type=public;token=My%20token%25%20created%20by%20Joe;library-version=3;"
    "id=%01%02%03%Ba%dd%Ca%fe%04%05%06": "library-version",
    "pkcs11:token=my-token;object=my-certificate;type=cert;vendor-aaa=value-a"
    "?pin-source=file:/etc/token_pin&vendor-bbb=value-b": "attribute 4 of the path",
}


@pytest.mark.parametrize("text", _TAKEN)
def test_the_standards_examples_are_read(text: str) -> None:
    """The examples of RFC 7512 §3 that select a token or an object mean what the standard says."""
    assert Pkcs11Uri.parse(text) == _TAKEN[text]


@pytest.mark.parametrize("text", _TAKEN)
def test_the_standards_examples_are_written_as_they_stand(text: str) -> None:
    """What was read from an example of RFC 7512 §3 is written as the example is."""
    assert str(Pkcs11Uri.parse(text)) == text


@pytest.mark.parametrize("text", _REFUSED)
def test_the_standards_other_examples_are_refused_by_name(text: str) -> None:
    """An example of RFC 7512 §3 that selects by slot or library, or names a PIN, is refused and says by what."""
    with pytest.raises(UsageError, match=re.escape(_REFUSED[text])):
        Pkcs11Uri.parse(text)


@pytest.mark.parametrize("text", [text for text in _REFUSED if "?pin-" in text and "vendor" not in text])
def test_only_the_pin_was_wrong_with_them(text: str) -> None:
    """Without its PIN attribute, each of those examples is read, and writing it loses nothing."""
    uri = Pkcs11Uri.parse(text.partition("?")[0])

    assert Pkcs11Uri.parse(str(uri)) == uri
    assert uri != Pkcs11Uri()


def test_every_attribute_has_its_place() -> None:
    """The attributes are read by name, in any order, the id as bytes and an empty value as an empty value."""
    text = (
        "pkcs11:type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=;object=my-certificate;model=1.0;"
        "manufacturer=Snake%20Oil,%20Inc.;token=The%20Software%20PKCS%2311%20Softtoken?module-path=/usr/lib/p11.so"
    )
    assert Pkcs11Uri.parse(text) == Pkcs11Uri(
        token="The Software PKCS#11 Softtoken",
        manufacturer="Snake Oil, Inc.",
        model="1.0",
        serial="",
        object="my-certificate",
        type="cert",
        id=bytes.fromhex("69953e5cf4bdec91"),
        module_path=Path("/usr/lib/p11.so"),
    )


@pytest.mark.parametrize("object_type", ["private", "public", "cert", "secret-key", "data"])
def test_every_object_type_of_the_standard_is_taken(object_type: str) -> None:
    """``type`` takes the five values of RFC 7512 §2.3."""
    assert Pkcs11Uri.parse(f"pkcs11:type={object_type}").type == object_type


def test_the_scheme_is_read_in_either_case_and_written_in_lower_case() -> None:
    """A scheme's case does not matter (RFC 3986 §3.1)."""
    assert str(Pkcs11Uri.parse("PKCS11:token=gateway")) == "pkcs11:token=gateway"


@pytest.mark.parametrize(
    "attribute", ["token", "manufacturer", "model", "serial", "object", "type", "id", "?module-path"]
)
def test_an_attribute_stands_once(attribute: str) -> None:
    """An attribute that occurs twice is refused, even with the same value (RFC 7512 §2.3)."""
    query, name = attribute.startswith("?"), attribute.removeprefix("?")
    twice = f"{name}=cert{'&' if query else ';'}{name}=cert"
    with pytest.raises(UsageError, match=f"'{name}' occurs twice"):
        Pkcs11Uri.parse(f"pkcs11:{'?' if query else ''}{twice}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pkcs11",
        "pkcs12:token=a",
        " pkcs11:token=a",
        "p\N{KELVIN SIGN}cs11:token=a",
        "token=a",
        "file:/etc/token",
        "pkcs11:token",
        "pkcs11:=a",
        "pkcs11:;",
        "pkcs11:token=a;",
        "pkcs11:;token=a",
        "pkcs11:token=a;;object=b",
        "pkcs11:token=a&object=b?module-path",
        "pkcs11:Token=a",
        "pkcs11:%74oken=a",
        "pkcs11:slot-id=0",
        "pkcs11:slot-manufacturer=a",
        "pkcs11:token=a;module-path=/b",
        "pkcs11:?token=a",
        "pkcs11:token=%",
        "pkcs11:token=%4",
        "pkcs11:token=%G1",
        "pkcs11:token=%%41",
        "pkcs11:token=a%",
        "pkcs11:id=%0",
        "pkcs11:token=a b",
        "pkcs11:token=a#b",
        "pkcs11:token=a\n",
        "pkcs11:token=a\0",
        "pkcs11:token=á",
        "pkcs11:token=\N{FULLWIDTH DIGIT ONE}",
        "pkcs11:token=\ud800",
        "pkcs11:id=á",
        "pkcs11:token=%FF",
        "pkcs11:token=%C3",
        "pkcs11:token=%ED%A0%80",
        "pkcs11:token=%C0%80",
        "pkcs11:?module-path=%FF",
        "pkcs11:?module-path=",
        "pkcs11:?module-path=/usr/lib/a%00.so",
        "pkcs11:?module-path=/a;b",
        "pkcs11:type=",
        "pkcs11:type=key",
        "pkcs11:type=Private",
    ],
)
def test_what_is_no_such_uri_is_wrong_usage(text: str) -> None:
    """Anything but a PKCS#11 URI with attributes taken here is a UsageError, never another exception."""
    with pytest.raises(UsageError, match="PKCS#11 URI") as caught:
        Pkcs11Uri.parse(text)
    assert caught.value.exit_status == 2


_PIN = "493817"


@pytest.mark.parametrize(
    "text",
    [
        _PIN,
        f"pkcs11:{_PIN}",
        f"pkcs11:{_PIN}=a",
        f"pkcs11:token=a;{_PIN}",
        f"pkcs11:token=a;{_PIN}=",
        f"pkcs11:token=a;pin-value={_PIN}",
        f"pkcs11:token=a;pin={_PIN}",
        f"pkcs11:token=a;type={_PIN}",
        f"pkcs11:token=a;token={_PIN}",
        f"pkcs11:token={_PIN}%",
        f"pkcs11:token={_PIN} ",
        f"pkcs11:token=%FF{_PIN}",
        f"pkcs11:token=a?pin-value={_PIN}",
        f"pkcs11:token=a?pin-value=0;{_PIN}",
        f"pkcs11:token=a?pin-value=0&{_PIN}",
        f"pkcs11:token=a?pin-value=0&{_PIN}=0",
        f"pkcs11:token=a?pin-valu={_PIN}",
        f"pkcs11:token=a?pin-source={_PIN}",
        f"pkcs11:token=a?{_PIN}",
        f"pkcs11:token=a?module-path={_PIN}%00",
    ],
)
def test_a_refused_value_is_not_repeated(text: str) -> None:
    """D4: neither message, hint nor traceback of a refusal holds what was given, which may be a PIN."""
    with pytest.raises(UsageError) as caught:
        Pkcs11Uri.parse(text)
    shown = "".join(traceback.format_exception(caught.value))

    assert _PIN not in caught.value.message + caught.value.hint + shown


@pytest.mark.parametrize("attribute", [";pin-value", "?pin-value", "?pin-source"])
def test_whoever_writes_a_pin_into_a_uri_is_told_where_it_belongs(attribute: str) -> None:
    """D4: the hint for a PIN in a URI names the file that it belongs into."""
    with pytest.raises(UsageError) as caught:
        Pkcs11Uri.parse(f"pkcs11:token=a{attribute}=1234")
    assert "HSM_ENROLL_PIN_FILE" in caught.value.hint


@pytest.mark.parametrize("attribute", ["object=key", "object=", "id=%01", "type=private", "type=cert"])
def test_a_tokens_uri_names_nothing_in_it(attribute: str) -> None:
    """A URI that is to name a token and names an object too is wrong usage, and the message says what is too much."""
    name = attribute.partition("=")[0]
    with pytest.raises(UsageError, match=f"'{name}' names an object") as caught:
        Pkcs11Uri.parse_token(f"pkcs11:token=T;{attribute}?module-path=/m.so")
    assert caught.value.exit_status == 2
    assert Pkcs11Uri.parse_token("pkcs11:token=T?module-path=/m.so") == Pkcs11Uri(token="T", module_path=Path("/m.so"))


def test_the_id_is_written_percent_encoded_whole() -> None:
    """Every byte of CKA_ID is percent-encoded, letters too (RFC 7512 §2.3)."""
    assert str(Pkcs11Uri(id=b"aZ09\x00\xff")) == "pkcs11:id=%61%5A%30%39%00%FF"


def test_a_path_is_written_so_that_it_ends_where_it_ends() -> None:
    """What would end a value or begin another attribute is percent-encoded in the module's path."""
    assert str(Pkcs11Uri(module_path=Path("/a&b;c#d%e f"))) == "pkcs11:?module-path=/a%26b%3Bc%23d%25e%20f"


def test_an_empty_attribute_is_not_an_absent_one() -> None:
    """An attribute with an empty value survives being written and read."""
    uri = Pkcs11Uri(token="", id=b"")
    assert Pkcs11Uri.parse(str(uri)) == uri
    assert uri != Pkcs11Uri()
