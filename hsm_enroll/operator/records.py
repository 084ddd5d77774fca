"""The answers of the operator's routes as values, read strictly.

A member that is missing or does not match the contract (``lambda/openapi.yaml``) raises a ValueError that names the
member and never repeats its value. Unknown members are ignored: a later backend may have more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from hsm_enroll.operator.members import (
    ARN,
    SHA256,
    THING,
    WORD,
    as_object,
    count,
    flag,
    listed,
    moment,
    optional,
    required,
    text,
)
from hsm_enroll.secret import Secret

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_CODE = re.compile(r"[0-9A-HJKMNP-TV-Z]{5}(?:-[0-9A-HJKMNP-TV-Z]{5}){4}")


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
        ek_sha256: SHA-256 of the endorsement key of the one TPM that it is for, or of that key's certificate, in
            hexadecimal; None is any device.
        replaces_key: whether it replaces the key that its Thing has.
        require_tpm: whether the key has to be proven to be in a TPM, also because of ``ek_sha256``.
        reuse_tpm: whether the TPM may be another Thing's already.

    The last three are None if the backend is of an earlier version, which does not say.
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
    replaces_key: bool | None
    require_tpm: bool | None
    reuse_tpm: bool | None


@dataclass(frozen=True, slots=True)
class ThingRecord:
    """A Thing in the ledger.

    Attributes:
        status: ``claimed``, ``issued`` or ``revoked``; a later backend may have more.
        spki_sha256: of the device's public key, in hexadecimal.
        certificate_id: AWS IoT's; None until a certificate was issued.
        claimed: when its enrollment began, in UTC.
        enrolled: when its first certificate was recorded, or None.
        revoked: when it was revoked, or None.
        invite_id: of the invite that was used; None in an open deployment.
        key_type: such as ``ec-p256``; None until a certificate was issued.
        renewed: when its key was last renewed or replaced, or None.
        renewal_due: whether its certificate is older than the deployment's limit.
        renewal_pending: whether a new key is being enrolled that does not count yet.
        renewal_undone: when a renewal was undone last, or None if none was since the key was renewed or replaced.
        renewal_undone_because: why: ``not-committed`` or ``old-key-used``; a later backend may have more.
        attested: whether its key was proven to be in a TPM.
        ek_sha256: who that TPM is: SHA-256 of its endorsement key's DER SubjectPublicKeyInfo, in hexadecimal.
        ek_certificate_sha256: SHA-256 of that key's DER certificate, in hexadecimal; None if there was none.
        tpm_manufacturer: as the certificate says, such as ``IFX``, or None.
        tpm_firmware: the version of the TPM's firmware, or None.

    All but the first eight are None if the backend is of an earlier version, which does not say.
    """

    thing: str
    status: str
    spki_sha256: str
    certificate_id: str | None
    claimed: datetime
    enrolled: datetime | None
    revoked: datetime | None
    invite_id: str | None
    key_type: str | None
    renewed: datetime | None
    renewal_due: bool | None
    renewal_pending: bool | None
    renewal_undone: datetime | None
    renewal_undone_because: str | None
    attested: bool | None
    ek_sha256: str | None
    ek_certificate_sha256: str | None
    tpm_manufacturer: str | None
    tpm_firmware: str | None


@dataclass(frozen=True, slots=True)
class AttachedCertificate:
    """A certificate that is attached to a Thing in AWS IoT; whoever has its key can connect while it is active."""

    certificate_id: str
    active: bool
    created: datetime


@dataclass(frozen=True, slots=True)
class ShownThing:
    """A Thing in the ledger, and what AWS IoT has attached to it.

    Attributes:
        certificates: None if the backend is of an earlier version, which does not say.
    """

    thing: ThingRecord
    certificates: tuple[AttachedCertificate, ...] | None


def hide_code(members: dict[str, Any]) -> dict[str, Any]:
    """Replace a JSON object's ``code`` by a Secret: an ``object_hook`` for ``json.loads``."""
    if isinstance(members.get("code"), str):
        members["code"] = Secret(members["code"])
    return members


def instant(moment: datetime) -> str:
    """Return a time in the contract's form: ``2026-11-24T10:00:00Z``."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def to_json(record: DataclassInstance) -> dict[str, Any]:
    """Return a record in the contract's form."""
    return {name: instant(value) if isinstance(value, datetime) else value for name, value in _members(record)}


def to_row(record: DataclassInstance) -> list[str]:
    """Return a record as a row of a table, its columns those of `columns`; an empty text stands for what is missing."""
    return [_cell(getattr(record, name)) for name in columns(type(record))]


def columns(kind: type[DataclassInstance]) -> list[str]:
    """Return the columns of a table of records, named as in the table of ``invite create --from``."""
    return [field.name for field in fields(kind)]


def created_invite(value: object) -> CreatedInvite:
    """Read an item of ``invites`` in an answer to POST that was parsed with :func:`hide_code`."""
    members = as_object(value)
    return CreatedInvite(
        id=required(members, "id", _ID),
        code=required(members, "code", _code),
        thing=required(members, "thing", _PATTERN),
        uses=required(members, "uses", count),
        expires=required(members, "expires", moment),
        thing_status=optional(members, "thingStatus", WORD),
    )


def invite_record(value: object) -> InviteRecord:
    """Read an item of ``invites`` in an answer to GET."""
    members = as_object(value)
    return InviteRecord(
        id=required(members, "id", _ID),
        thing=required(members, "thing", _PATTERN),
        uses=required(members, "uses", count),
        uses_left=required(members, "usesLeft", count),
        expires=required(members, "expires", moment),
        created=required(members, "created", moment),
        created_by=required(members, "createdBy", ARN),
        status=required(members, "status", WORD),
        existing_thing=required(members, "existingThing", flag),
        ek_sha256=optional(members, "ekSha256", SHA256),
        replaces_key=optional(members, "replacesKey", flag),
        require_tpm=optional(members, "requireTpm", flag),
        reuse_tpm=optional(members, "reuseTpm", flag),
    )


def thing_record(value: object) -> ThingRecord:
    """Read ``thing``, or an item of ``things``."""
    members = as_object(value)
    return ThingRecord(
        thing=required(members, "thing", THING),
        status=required(members, "status", WORD),
        spki_sha256=required(members, "spkiSha256", SHA256),
        certificate_id=optional(members, "certificateId", SHA256),
        claimed=required(members, "claimed", moment),
        enrolled=optional(members, "enrolled", moment),
        revoked=optional(members, "revoked", moment),
        invite_id=optional(members, "inviteId", _ID),
        key_type=optional(members, "keyType", _KEY_TYPE),
        renewed=optional(members, "renewed", moment),
        renewal_due=optional(members, "renewalDue", flag),
        renewal_pending=optional(members, "renewalPending", flag),
        renewal_undone=optional(members, "renewalUndone", moment),
        renewal_undone_because=optional(members, "renewalUndoneBecause", WORD),
        attested=optional(members, "attested", flag),
        ek_sha256=optional(members, "ekSha256", SHA256),
        ek_certificate_sha256=optional(members, "ekCertificateSha256", SHA256),
        tpm_manufacturer=optional(members, "tpmManufacturer", _TPM_TEXT),
        tpm_firmware=optional(members, "tpmFirmware", _TPM_TEXT),
    )


def shown_thing(value: object) -> ShownThing:
    """Read an answer about one Thing."""
    members = as_object(value)
    return ShownThing(thing_record(members.get("thing")), _certificates(members, "certificates"))


def other_certificates(value: object) -> tuple[AttachedCertificate, ...]:
    """Read an answer to a revocation that was asked for a Thing's other certificates."""
    return tuple(listed(value, "otherCertificates", _attached))


@cache
def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _members(record: DataclassInstance) -> Iterator[tuple[str, Any]]:
    for field in fields(record):
        yield _camel_case(field.name), getattr(record, field.name)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _certificates(members: dict[str, Any], name: str) -> tuple[AttachedCertificate, ...] | None:
    return tuple(listed(members, name, _attached)) if name in members else None


def _attached(value: object) -> AttachedCertificate:
    members = as_object(value)
    return AttachedCertificate(
        certificate_id=required(members, "certificateId", SHA256),
        active=required(members, "active", flag),
        created=required(members, "created", moment),
    )


_ID = text("[0-9a-f]{16}")
_PATTERN = text(r"[a-zA-Z0-9:_-]{1,128}|[a-zA-Z0-9:_-]{0,127}\*")
_KEY_TYPE = text("[a-z0-9-]{1,20}")
_TPM_TEXT = text("[ -~]{1,100}")


def _code(value: object) -> Secret:
    if not isinstance(value, Secret) or not _CODE.fullmatch(value.reveal()):
        raise ValueError("not a code")
    return value
