"""The answers of the operator's routes as values, read strictly.

A member that is missing or does not match the contract (``lambda/openapi.yaml``) raises a ValueError that names the
member and never repeats its value. Unknown members are ignored: a later backend may have more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from hsm_enroll.secret import Secret

_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_CODE = re.compile(r"[0-9A-HJKMNP-TV-Z]{5}(?:-[0-9A-HJKMNP-TV-Z]{5}){4}")
_LARGEST_COUNT = 2**53 - 1  # what every JSON reader can hold (RFC 8259 §6)
_LONGEST_TOKEN = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CreatedInvite:
    """A new invite. Its code is returned only this once; the backend keeps a hash.

    Attributes:
        id: identifies the invite; says nothing about the code.
        code: the enrollment code.
        thing: a Thing's name, or a prefix of names followed by ``*``.
        uses: how many Things may be enrolled with it.
        expires: when it stops being valid, in UTC.
        thing_status: what its Thing is in the ledger, as in `ThingRecord`; None if it is not there, and for a prefix.
    """

    id: str
    code: Secret
    thing: str
    uses: int
    expires: datetime
    thing_status: str | None = None

    def url(self, api_url: str) -> Secret:
        """Return the complete invite, ``https://API/#CODE``."""
        return Secret(f"{api_url}/#{self.code.reveal()}")


@dataclass(frozen=True, slots=True)
class InviteRecord:
    """An invite in the ledger, without its code.

    Attributes:
        status: ``open``, ``used``, ``expired`` or ``revoked``; a later backend may have more.
        created_by: ARN of the AWS identity that made it.
        ek_sha256: SHA-256 of the endorsement key certificate of the TPM that it is bound to, in hexadecimal, or None.
    """

    id: str
    thing: str
    uses: int
    uses_left: int
    expires: datetime
    created: datetime
    created_by: str
    status: str
    existing_thing: bool
    ek_sha256: str | None


@dataclass(frozen=True, slots=True)
class ThingRecord:
    """A Thing in the ledger.

    Attributes:
        status: ``claimed``, ``issued`` or ``revoked``; a later backend may have more.
        spki_sha256: of the device's public key, in hexadecimal.
        certificate_id: AWS IoT's; None until a certificate was issued.
        claimed: when its enrollment began, in UTC.
        enrolled: when its certificate was recorded, or None.
        revoked: when it was revoked, or None.
        invite_id: of the invite that was used; None in an open deployment.
    """

    thing: str
    status: str
    spki_sha256: str
    certificate_id: str | None
    claimed: datetime
    enrolled: datetime | None
    revoked: datetime | None
    invite_id: str | None


@dataclass(frozen=True, slots=True)
class DisabledCertificate:
    """A certificate that is not in the ledger, and that a sweep made inactive."""

    certificate_id: str
    created: datetime


@dataclass(frozen=True, slots=True)
class SweepReport:
    """One part of a sweep.

    Attributes:
        checked: how many certificates were examined.
        disabled: those that were not in the ledger and are now inactive.
        foreign: how many belong to another system and were left alone.
    """

    checked: int
    disabled: tuple[DisabledCertificate, ...]
    foreign: int


def hide_code(members: dict[str, Any]) -> dict[str, Any]:
    """Replace a JSON object's ``code`` by a Secret: an ``object_hook`` for ``json.loads``."""
    if isinstance(members.get("code"), str):
        members["code"] = Secret(members["code"])
    return members


def instant(moment: datetime) -> str:
    """Return a time in the contract's form: ``2026-11-24T10:00:00Z``."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def to_json(record: InviteRecord | ThingRecord | DisabledCertificate) -> dict[str, Any]:
    """Return a record in the contract's form."""
    return {name: instant(value) if isinstance(value, datetime) else value for name, value in _members(record)}


def to_row(record: InviteRecord | ThingRecord) -> list[str]:
    """Return a record as a row of a table, its columns those of `columns`; an empty text stands for what is missing."""
    return [_cell(getattr(record, name)) for name in columns(type(record))]


def columns(kind: type[InviteRecord | ThingRecord]) -> list[str]:
    """Return the columns of a table of records, named as in the table of ``invite create --from``."""
    return [field.name for field in fields(kind)]


def created_invite(value: object) -> CreatedInvite:
    """Read an item of ``invites`` in an answer to POST that was parsed with :func:`hide_code`."""
    members = _object(value)
    return CreatedInvite(
        id=_required(members, "id", _ID),
        code=_required(members, "code", _code),
        thing=_required(members, "thing", _PATTERN),
        uses=_required(members, "uses", _count),
        expires=_required(members, "expires", _moment),
        thing_status=_optional(members, "thingStatus", _WORD),
    )


def invite_record(value: object) -> InviteRecord:
    """Read an item of ``invites`` in an answer to GET."""
    members = _object(value)
    return InviteRecord(
        id=_required(members, "id", _ID),
        thing=_required(members, "thing", _PATTERN),
        uses=_required(members, "uses", _count),
        uses_left=_required(members, "usesLeft", _count),
        expires=_required(members, "expires", _moment),
        created=_required(members, "created", _moment),
        created_by=_required(members, "createdBy", _ARN),
        status=_required(members, "status", _WORD),
        existing_thing=_required(members, "existingThing", _flag),
        ek_sha256=_optional(members, "ekSha256", _SHA256),
    )


def thing_record(value: object) -> ThingRecord:
    """Read ``thing``, or an item of ``things``."""
    members = _object(value)
    return ThingRecord(
        thing=_required(members, "thing", _THING),
        status=_required(members, "status", _WORD),
        spki_sha256=_required(members, "spkiSha256", _SHA256),
        certificate_id=_optional(members, "certificateId", _SHA256),
        claimed=_required(members, "claimed", _moment),
        enrolled=_optional(members, "enrolled", _moment),
        revoked=_optional(members, "revoked", _moment),
        invite_id=_optional(members, "inviteId", _ID),
    )


def sweep_report(value: object) -> SweepReport:
    """Read an answer to a sweep, except for its ``next``."""
    members = _object(value)
    return SweepReport(
        checked=_required(members, "checked", _count),
        disabled=tuple(listed(members, "disabled", _disabled)),
        foreign=_required(members, "foreign", _count),
    )


def listed(value: object, name: str, read: Callable[[object], T]) -> list[T]:
    """Read each item of the list in an object's member."""
    found = _object(value).get(name)
    if not isinstance(found, list):
        raise ValueError(f"{name} is not a list")  # noqa: TRY004 - foreign data, not a caller's mistake
    return [read(one) for one in found]


def next_token(value: object) -> str | None:
    """Read ``next``: the token of the following page, or None."""
    return _optional(_object(value), "next", _TOKEN)


@cache
def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _members(record: InviteRecord | ThingRecord | DisabledCertificate) -> Iterator[tuple[str, Any]]:
    for field in fields(record):
        yield _camel_case(field.name), getattr(record, field.name)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _disabled(value: object) -> DisabledCertificate:
    members = _object(value)
    return DisabledCertificate(
        certificate_id=_required(members, "certificateId", _SHA256), created=_required(members, "created", _moment)
    )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an item is not a JSON object")  # noqa: TRY004 - foreign data, not a caller's mistake
    return value


def _required(members: dict[str, Any], name: str, read: Callable[[object], T]) -> T:
    try:
        return read(members.get(name))
    except ValueError as error:
        raise ValueError(f"{name} is missing or invalid") from error


def _optional(members: dict[str, Any], name: str, read: Callable[[object], T]) -> T | None:
    return None if members.get(name) is None else _required(members, name, read)


def _text(pattern: str) -> Callable[[object], str]:
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(pattern)
        return value

    return read


_ID = _text("[0-9a-f]{16}")
_SHA256 = _text("[0-9a-f]{64}")
_THING = _text("[a-zA-Z0-9:_-]{1,128}")
_PATTERN = _text(r"[a-zA-Z0-9:_-]{1,128}|[a-zA-Z0-9:_-]{0,127}\*")
_WORD = _text("[a-z-]{1,20}")
_ARN = _text("[!-~]{1,2048}")
_TOKEN = _text(f"[!-~]{{1,{_LONGEST_TOKEN}}}")


def _code(value: object) -> Secret:
    if not isinstance(value, Secret) or not _CODE.fullmatch(value.reveal()):
        raise ValueError("not a code")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_COUNT:
        raise ValueError("not a count")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not a flag")  # noqa: TRY004 - foreign data, not a caller's mistake
    return value


def _moment(value: object) -> datetime:
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise ValueError("not a time")
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z")
