"""PKCS#11 URIs (RFC 7512): the one way this program names a token or a key, read and written.

Pure: a value that is parsed, compared and printed. Which token it finds is ``token.session``'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from hsm_enroll.errors import UsageError

_SCHEME = "pkcs11:"
# RFC 7512 §2.3, pk11-path-res-avail and pk11-query-res-avail: what may stand unencoded in a value.
_PATH_SAFE = ":[]@!$'()*+,=&"
_QUERY_SAFE = ":[]@!$'()*+,=/?|"
_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*")

_PATH_FIELDS = {
    "token": "token",
    "manufacturer": "manufacturer",
    "model": "model",
    "serial": "serial",
    "object": "object",
    "type": "type",
}
_OBJECT_TYPES = {"private", "public", "cert", "secret-key", "data"}


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
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
        if not text.startswith(_SCHEME):
            raise UsageError(f"not a PKCS#11 URI: it does not start with {_SCHEME!r}", hint=_EXAMPLE)
        path, _, query = text.removeprefix(_SCHEME).partition("?")
        values = _path_values(path)
        object_type = values.get("type")
        if object_type is not None and object_type not in _OBJECT_TYPES:
            raise UsageError(f"PKCS#11 URI: type {object_type!r} is none of RFC 7512", hint=_EXAMPLE)
        return cls(
            **{field: values.get(name) for name, field in _PATH_FIELDS.items()},
            id=_identifier(path),
            module_path=_module_path(query),
        )

    def __str__(self) -> str:
        """Write the URI with the attributes that are set; CKA_ID percent-encoded whole, as RFC 7512 §2.3 asks."""
        parts = [
            f"{name}={quote(value, safe=_PATH_SAFE)}"
            for name, field in _PATH_FIELDS.items()
            if name != "type" and (value := getattr(self, field)) is not None
        ]
        if self.id is not None:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        if self.type is not None:
            parts.append(f"type={self.type}")
        query = f"?module-path={quote(str(self.module_path), safe=_QUERY_SAFE)}" if self.module_path else ""
        return _SCHEME + ";".join(parts) + query


_EXAMPLE = "Write it like pkcs11:token=gateway;serial=0123456789abcdef"


def _attributes(component: str, separator: str) -> dict[str, str]:
    """Split a component into raw values by name; a name may stand once (RFC 7512 §2.3)."""
    attributes: dict[str, str] = {}
    for part in component.split(separator) if component else []:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise UsageError(f"PKCS#11 URI: {name!r} has no value", hint=_EXAMPLE)
        if name in attributes:
            raise UsageError(f"PKCS#11 URI: {name!r} stands twice", hint=_EXAMPLE)
        # The value itself is not repeated: a mistyped URI may hold a PIN.
        if not _VALUE.fullmatch(value):
            raise UsageError(f"PKCS#11 URI: the value of {name!r} is not percent-encoded as it should be")
        attributes[name] = value
    return attributes


def _path_values(path: str) -> dict[str, str]:
    attributes = _attributes(path, ";")
    attributes.pop("id", None)
    unknown = sorted(set(attributes) - set(_PATH_FIELDS))
    if unknown:
        raise UsageError(
            f"PKCS#11 URI: {unknown[0]!r} is not taken here; select by token, serial, manufacturer, model, "
            "object, id or type",
            hint=_EXAMPLE,
        )
    return {name: _text(name, value) for name, value in attributes.items()}


def _identifier(path: str) -> bytes | None:
    value = _attributes(path, ";").get("id")
    return None if value is None else unquote_to_bytes(value)


def _module_path(query: str) -> Path | None:
    attributes = _attributes(query, "&")
    for name in ("pin-value", "pin-source"):
        if name in attributes:
            raise UsageError(
                f"PKCS#11 URI: {name} is not taken here",
                hint="Put the PIN into a file of mode 0600 and name it in HSM_ENROLL_PIN_FILE.",
            )
    unknown = sorted(set(attributes) - {"module-path"})
    if unknown:
        raise UsageError(f"PKCS#11 URI: {unknown[0]!r} is not taken here; the query may hold module-path")
    value = attributes.get("module-path")
    return None if value is None else Path(_text("module-path", value))


def _text(name: str, value: str) -> str:
    try:
        return unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"PKCS#11 URI: the value of {name!r} is not UTF-8") from error
