"""PKCS#11 URIs (RFC 7512): the one way this program names a token or a key, read and written.

Pure: a value that is parsed, compared and printed. Which token it finds is ``token.session``'s business.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from hsm_enroll.errors import UsageError

_SCHEME = "pkcs11:"
# RFC 3986 §3.1: schemes are read in either case and written in lower case.
_SCHEME_READ = re.compile(_SCHEME, re.IGNORECASE | re.ASCII)
# RFC 7512 §2.3, pk11-path-res-avail and pk11-query-res-avail: what may stand unencoded in a value.
_PATH_SAFE = ":[]@!$'()*+,=&"
_QUERY_SAFE = ":[]@!$'()*+,=/?|"
_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*")

_TEXT_ATTRIBUTES = ("token", "manufacturer", "model", "serial", "object", "type")
_PATH_ATTRIBUTES = {*_TEXT_ATTRIBUTES, "id"}
_QUERY_ATTRIBUTES = {"module-path"}
_PIN_ATTRIBUTES = {"pin-value", "pin-source"}
# The other names of RFC 7512 §2.3; none of them is taken here.
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
        """Read a URI (RFC 7512 §2.3).

        Attributes that this program does not select by are refused rather than ignored, since ignoring one could
        choose another token than the writer meant: slot numbers (they change when a token is initialised),
        library and slot descriptions, vendor attributes. A PIN in a URI is refused, for it would stand in argv.
        Does not check that anything of that name exists.

        Args:
            text: the URI, for instance ``pkcs11:token=gateway;object=device;type=private``.

        Raises:
            UsageError: it is no PKCS#11 URI, or has an attribute twice, or one that is not taken here.
        """
        scheme = _SCHEME_READ.match(text)
        if scheme is None:
            raise UsageError(f"not a PKCS#11 URI: it does not start with {_SCHEME!r}", hint=_EXAMPLE)
        path, _, query = text[scheme.end() :].partition("?")
        values = _attributes(path, ";", _PATH_ATTRIBUTES)
        identifier = values.pop("id", None)
        texts = {name: _text(name, value) for name, value in values.items()}
        if texts.get("type", _OBJECT_TYPES[0]) not in _OBJECT_TYPES:
            raise UsageError(f"PKCS#11 URI: the type is none of {', '.join(_OBJECT_TYPES)}", hint=_EXAMPLE)
        return cls(
            **texts,
            id=None if identifier is None else unquote_to_bytes(identifier),
            module_path=_module_path(query),
        )

    def __str__(self) -> str:
        """Write the URI with the attributes that are set; CKA_ID percent-encoded whole, as RFC 7512 §2.3 asks."""
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


def _attributes(component: str, separator: str, taken: Collection[str]) -> dict[str, str]:
    """Split a component into raw values by name; a name may stand once (RFC 7512 §2.3)."""
    attributes: dict[str, str] = {}
    component_name = "path" if separator == ";" else "query"
    for position, part in enumerate(component.split(separator) if component else [], start=1):
        name, equals, value = part.partition("=")
        # Only a name of the standard is repeated, and no value: a mistyped URI may hold a PIN anywhere.
        shown = repr(name) if name in _STANDARD_ATTRIBUTES else f"attribute {position} of the {component_name}"
        if not equals:
            raise UsageError(f"PKCS#11 URI: {shown} has no value", hint=_EXAMPLE)
        if name not in taken:
            raise _not_taken(name, shown)
        if name in attributes:
            raise UsageError(f"PKCS#11 URI: {shown} stands twice", hint=_EXAMPLE)
        if not _VALUE.fullmatch(value):
            raise UsageError(f"PKCS#11 URI: the value of {shown} is not percent-encoded as it should be")
        attributes[name] = value
    return attributes


def _not_taken(name: str, shown: str) -> UsageError:
    if name in _PIN_ATTRIBUTES:
        return UsageError(
            f"PKCS#11 URI: {shown} is not taken here",
            hint="Put the PIN into a file of mode 0600 and name it in HSM_ENROLL_PIN_FILE.",
        )
    return UsageError(
        f"PKCS#11 URI: {shown} is not taken here; select by token, serial, manufacturer, model, object, id or type, "
        "and ?module-path",
        hint=_EXAMPLE,
    )


def _module_path(query: str) -> Path | None:
    value = _attributes(query, "&", _QUERY_ATTRIBUTES).get("module-path")
    if value is None:
        return None
    path = _text("module-path", value)
    if not path or "\0" in path:
        raise UsageError("PKCS#11 URI: the value of 'module-path' is no file's path", hint=_EXAMPLE)
    return Path(path)


def _text(name: str, value: str) -> str:
    try:
        return unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"PKCS#11 URI: the value of {name!r} is not UTF-8") from error
