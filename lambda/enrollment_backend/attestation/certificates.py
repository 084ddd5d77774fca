"""Reads X.509 certificates (RFC 5280) as TPM vendors issue them.

`cryptography` refuses some of them as a whole, for names whose parts are not in DER's order (Nuvoton's), or for a
default value that is written out (Intel's). Neither changes what a certificate says, or what its signature is over.
"""

from __future__ import annotations

import binascii
import datetime as dt
import hashlib
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from enrollment_backend import der

BASIC_CONSTRAINTS: Final = "2.5.29.19"
KEY_USAGE: Final = "2.5.29.15"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"
SUBJECT_ALTERNATIVE_NAME: Final = "2.5.29.17"
KEY_ENCIPHERMENT: Final = 2  # bits of keyUsage (§4.2.1.3)
KEY_AGREEMENT: Final = 4
KEY_CERT_SIGN: Final = 5

_LINE = 64  # characters
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_EXTENSIONS, _DIRECTORY_NAME = 0xA3, 0xA4  # context tags 3 and 4
_TIME = re.compile(r"([0-9]{4})" + r"([0-9]{2})" * 5 + "Z")
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")
_SPECIAL, _ESCAPED = re.compile(r'[,+"\\<>;=]'), r"\\\g<0>"  # RFC 4514 §2.4
_SHORT_NAMES = {
    "2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
}  # fmt: skip


class Extension(NamedTuple):
    """An extension: whether who does not know it must refuse the certificate, and its value in DER."""

    critical: bool
    value: bytes


class Constraints(NamedTuple):
    """basicConstraints: whether the key is a CA's, and how many CAs there may be below it; None for any number."""

    is_ca: bool
    path_length: int | None


@dataclass(frozen=True)
class Certificate:
    """A certificate.

    Attributes:
        encoding: all of it.
        signed: what the signature is over.
        issuer, subject: names, as encoded.
        begins, ends: the first and the last moment of its validity.
        spki: SubjectPublicKeyInfo, as encoded.
        algorithm: AlgorithmIdentifier of the signature, as encoded.
        signature: its octets.
        extensions: by object identifier.
    """

    encoding: bytes
    signed: bytes
    issuer: bytes
    subject: bytes
    begins: dt.datetime
    ends: dt.datetime
    spki: bytes
    algorithm: bytes
    signature: bytes
    extensions: dict[str, Extension]

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of it all."""
        return hashlib.sha256(self.encoding).hexdigest()

    @property
    def pem(self) -> str:
        """It all as a PEM block (RFC 7468 §3)."""
        body = binascii.b2a_base64(self.encoding, newline=False).decode("ascii")
        lines = [body[start : start + _LINE] for start in range(0, len(body), _LINE)]
        return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))

    @property
    def is_self_issued(self) -> bool:
        """Whether it names itself as its issuer, as roots do."""
        return self.subject == self.issuer

    @property
    def subject_text(self) -> str:
        """The subject as in RFC 4514: the last part first, such as ``CN=Example Root CA,O=Example``."""
        parts = [
            "+".join(f"{_SHORT_NAMES.get(kind, kind)}={_SPECIAL.sub(_ESCAPED, value)}" for kind, value in part)
            for part in reversed(_name(self.subject))
            if part
        ]
        return ",".join(parts)

    @property
    def signature_type(self) -> str:
        """Object identifier of the signature's algorithm."""
        return _identifier(self.algorithm)

    @property
    def key_type(self) -> str:
        """Object identifier of the key's algorithm."""
        algorithm, _ = der.children(self.spki)
        return _identifier(algorithm.encoding)

    def is_valid_at(self, now: dt.datetime) -> bool:
        """Whether a time is within its dates."""
        return self.begins <= now <= self.ends

    def constraints(self) -> Constraints | None:
        """Return basicConstraints; None without them."""
        extension = self.extensions.get(BASIC_CONSTRAINTS)
        if extension is None:
            return None
        fields = der.children(extension.value)
        is_ca = bool(fields) and fields[0].tag == der.BOOLEAN and fields[0].content != b"\0"
        lengths = [int.from_bytes(field.content) for field in fields if field.tag == der.INTEGER]
        return Constraints(is_ca, lengths[0] if lengths else None)

    def may(self, *usages: int) -> bool:
        """Whether keyUsage has one of these bits; without the extension, the key may be used for anything."""
        extension = self.extensions.get(KEY_USAGE)
        if extension is None:
            return True
        bits = _only(extension.value, der.BIT_STRING)[1:2] or b"\0"
        return any(bits[0] & 0x80 >> usage for usage in usages)

    def purposes(self) -> list[str] | None:
        """Return extKeyUsage as object identifiers; None without it."""
        extension = self.extensions.get(EXTENDED_KEY_USAGE)
        return extension and [der.object_identifier(each.content) for each in der.children(extension.value)]

    def alternative_names(self) -> dict[str, str]:
        """Return the attributes of the directoryName in subjectAltName, by object identifier."""
        extension = self.extensions.get(SUBJECT_ALTERNATIVE_NAME)
        names = der.children(extension.value) if extension else []
        parts = [part for name in names if name.tag == _DIRECTORY_NAME for part in _name(name.content)]
        return {kind: value for part in parts for kind, value in part}


def read_pem(text: str) -> tuple[Certificate, ...]:
    """Read certificates in PEM, one or several, with any text around them.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    blocks = [binascii.a2b_base64("".join(block.split()), strict_mode=True) for block in _BLOCK.findall(text)]
    if not blocks:
        raise ValueError("no certificate")
    return tuple(map(read, blocks))


def read(encoding: bytes) -> Certificate:
    """Read a certificate in DER, version 3 or older.

    Raises:
        ValueError: it is not one and nothing else, also in the extensions that this module knows.

    Does not check the signature, nor the order of sets.
    """
    signed, algorithm, signature = der.children(encoding)
    fields = der.children(signed.encoding)
    has_version = bool(fields) and fields[0].tag == der.CONTEXT_0  # which version 1 has not
    _, inner_algorithm, issuer, validity, subject, spki, *optional = fields[has_version:]
    if algorithm.encoding != inner_algorithm.encoding:
        raise ValueError("the signature's algorithm is another than the certificate says")
    if signature.tag != der.BIT_STRING or signature.content[:1] != b"\0":
        raise ValueError("the signature is not a number of octets")
    begins, ends = (_time(moment) for moment in der.children(validity.encoding))
    certificate = Certificate(
        encoding,
        signed.encoding,
        issuer.encoding,
        subject.encoding,
        begins,
        ends,
        spki.encoding,
        algorithm.encoding,
        signature.content[1:],
        _extensions(optional),
    )
    # What can be read of it at all is read now, so that nothing fails later.
    _ = certificate.constraints(), certificate.may(), certificate.purposes(), certificate.alternative_names()
    _ = certificate.subject_text, certificate.signature_type, certificate.key_type
    return certificate


def _extensions(fields: list[der.Element]) -> dict[str, Extension]:
    found: dict[str, Extension] = {}
    for field in fields:
        if field.tag != _EXTENSIONS:
            continue
        (listed,) = der.children(field.encoding, _EXTENSIONS)
        for element in der.children(listed.encoding):
            kind, *critical, value = der.children(element.encoding)
            name = der.object_identifier(kind.content)
            if name in found or value.tag != der.OCTET_STRING:
                raise ValueError("an extension is there twice, or malformed")
            found[name] = Extension(any(each.content != b"\0" for each in critical), value.content)
    return found


def _time(moment: der.Element) -> dt.datetime:
    """Read a Time (§4.1.2.5): UTCTime with two digits of the year, 1950 to 2049, or GeneralizedTime with four."""
    text = moment.content.decode("ascii")
    if moment.tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    found = _TIME.fullmatch(text)
    if moment.tag not in {_UTC_TIME, _GENERALIZED_TIME} or found is None:
        raise ValueError("not a time")
    year, month, day, hour, minute, second = map(int, found.groups())
    return dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)


def _name(encoding: bytes) -> list[list[tuple[str, str]]]:
    """Return the parts of a Name (§4.1.2.4), and of each the attributes that are text, by object identifier."""
    return [
        [
            (der.object_identifier(kind.content), text)
            for kind, value in (der.children(attribute.encoding) for attribute in der.children(part.encoding, der.SET))
            if (text := _text(value)) is not None
        ]
        for part in der.children(encoding)
    ]


def _text(value: der.Element) -> str | None:
    try:
        return der.text(value)
    except ValueError:
        return None


def _identifier(algorithm: bytes) -> str:
    kind, *_ = der.children(algorithm)
    return der.object_identifier(kind.content)


def _only(encoding: bytes, tag: int) -> bytes:
    """Return the contents of exactly one value with a tag."""
    elements = der.elements(encoding)
    if [element.tag for element in elements] != [tag]:
        raise ValueError("not one value with the expected tag")
    return elements[0].content
