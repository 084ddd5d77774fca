"""PKCS#11 URIs (RFC 7512), which name tokens and keys: parsed and printed.

Pure: ``token.selection`` finds the token that a URI names.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from hsm_enroll.errors import UsageError

_SCHEME = "pkcs11:"
# RFC 3986 §3.1: a scheme's case does not matter; it is written in lower case.
_ANY_SCHEME_CASE = re.compile(_SCHEME, re.IGNORECASE | re.ASCII)
# RFC 7512 §2.3, pk11-path-res-avail and pk11-query-res-avail: the characters that need no encoding in a value.
_PATH_SAFE = ":[]@!$'()*+,=&"
_QUERY_SAFE = ":[]@!$'()*+,=/?|"
_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*")

_TEXT_ATTRIBUTES = ("token", "manufacturer", "model", "serial", "object", "type")
_PATH_ATTRIBUTES = {*_TEXT_ATTRIBUTES, "id"}
_QUERY_ATTRIBUTES = {"module-path"}
_PIN_ATTRIBUTES = {"pin-value", "pin-source"}
# The other names of RFC 7512 §2.3, none of which is supported.
_OTHER_ATTRIBUTES = {
    "library-description", "library-manufacturer", "library-version", "module-name", "slot-description", "slot-id",
    "slot-manufacturer",
}  # fmt: skip
_STANDARD_ATTRIBUTES = _PATH_ATTRIBUTES | _QUERY_ATTRIBUTES | _PIN_ATTRIBUTES | _OTHER_ATTRIBUTES
_OBJECT_TYPES = ("private", "public", "cert", "secret-key", "data")


class Pkcs11Uri(NamedTuple):
    """A PKCS#11 URI; an attribute that is None matches anything.

    Attributes:
        token: CKA label of the token (``token`` of RFC 7512 §2.3).
        manufacturer: manufacturer of the token.
        model: model of the token.
        serial: serial number of the token.
        object: CKA_LABEL of the object.
        type: class of the object: ``private``, ``public``, ``cert``, ``secret-key`` or ``data``.
        id: CKA_ID of the object.
        module_path: file of the PKCS#11 module, from the query component.
    """

    token: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    object: str | None = None
    type: str | None = None
    id: bytes | None = None
    module_path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Pkcs11Uri:
        """Parse a URI (RFC 7512 §2.3).

        Unsupported attributes are refused, since ignoring one could select the wrong token: slot numbers (which change
        when a token is initialised), library and slot descriptions, vendor attributes. A PIN in a URI is refused
        because command-line arguments are visible to other users. Does *not* check that the token or key exists.

        Args:
            text: the URI, for instance ``pkcs11:token=gateway;object=device;type=private``.

        Raises:
            UsageError: it is not a PKCS#11 URI, or has an unsupported attribute, or the same one twice.
        """
        scheme = _ANY_SCHEME_CASE.match(text)
        if scheme is None:
            raise UsageError(f"not a PKCS#11 URI: it does not start with {_SCHEME!r}", hint=_EXAMPLE)
        path, _, query = text[scheme.end() :].partition("?")
        values = _attributes(path, ";", _PATH_ATTRIBUTES)
        identifier = values.pop("id", None)
        texts = {name: _text(name, value) for name, value in values.items()}
        if texts.get("type", _OBJECT_TYPES[0]) not in _OBJECT_TYPES:
            raise UsageError(f"PKCS#11 URI: 'type' must be one of {', '.join(_OBJECT_TYPES)}", hint=_EXAMPLE)
        return cls(
            **texts,
            id=None if identifier is None else unquote_to_bytes(identifier),
            module_path=_module_path(query),
        )

    @classmethod
    def parse_token(cls, text: str) -> Pkcs11Uri:
        """Parse a URI that names a token, and no object in it.

        Raises:
            UsageError: as for :meth:`parse`; or the URI has an attribute of an object, which would select nothing.
        """
        uri = cls.parse(text)
        for name in ("object", "id", "type"):
            if getattr(uri, name) is not None:
                raise UsageError(f"PKCS#11 URI: {name!r} names an object, and this URI names a token", hint=_EXAMPLE)
        return uri

    @property
    def of_token(self) -> Pkcs11Uri:
        """What the URI says of the token, without the object in it and the module."""
        return self._replace(object=None, id=None, type=None, module_path=None)

    def __str__(self) -> str:
        """Return the URI with the attributes that are set; every byte of the id is percent-encoded (RFC 7512 §2.3)."""
        parts = [
            f"{name}={quote(value, safe=_PATH_SAFE)}"
            for name in _TEXT_ATTRIBUTES
            if name != "type" and (value := getattr(self, name)) is not None
        ]
        if self.id is not None:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        if self.type is not None:
            parts.append(f"type={self.type}")
        query = f"?module-path={quote(str(self.module_path), safe=_QUERY_SAFE)}" if self.module_path else ""
        return _SCHEME + ";".join(parts) + query


_EXAMPLE = "Write it like pkcs11:token=gateway;serial=0123456789abcdef"


def _attributes(component: str, separator: str, supported: Collection[str]) -> dict[str, str]:
    """Split a component into undecoded values by name; each name may occur once (RFC 7512 §2.3)."""
    attributes: dict[str, str] = {}
    component_name = "path" if separator == ";" else "query"
    for position, part in enumerate(component.split(separator) if component else [], start=1):
        name, equals, value = part.partition("=")
        # Messages quote only names from the standard, and no values: a mistyped URI may contain a PIN anywhere.
        shown = repr(name) if name in _STANDARD_ATTRIBUTES else f"attribute {position} of the {component_name}"
        if not equals:
            raise UsageError(f"PKCS#11 URI: {shown} has no value", hint=_EXAMPLE)
        if name not in supported:
            raise _unsupported(name, shown)
        if name in attributes:
            raise UsageError(f"PKCS#11 URI: {shown} occurs twice", hint=_EXAMPLE)
        if not _VALUE.fullmatch(value):
            raise UsageError(
                f"PKCS#11 URI: the value of {shown} contains a character that must be percent-encoded",
                hint="Write a space as %20, for instance.",
            )
        attributes[name] = value
    return attributes


def _unsupported(name: str, shown: str) -> UsageError:
    if name in _PIN_ATTRIBUTES:
        return UsageError(
            f"PKCS#11 URI: {shown} is not supported: other users could see the PIN",
            hint="Put the PIN into a file of mode 0600 and set HSM_ENROLL_PIN_FILE to its path.",
        )
    return UsageError(
        f"PKCS#11 URI: {shown} is not supported; select by token, serial, manufacturer, model, object, id or type, "
        "and ?module-path",
        hint=_EXAMPLE,
    )


def _module_path(query: str) -> Path | None:
    value = _attributes(query, "&", _QUERY_ATTRIBUTES).get("module-path")
    if value is None:
        return None
    path = _text("module-path", value)
    if not path or "\0" in path:
        raise UsageError("PKCS#11 URI: the value of 'module-path' is not a path", hint=_EXAMPLE)
    return Path(path)


def _text(name: str, value: str) -> str:
    try:
        return unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"PKCS#11 URI: the value of {name!r} is not UTF-8") from error
