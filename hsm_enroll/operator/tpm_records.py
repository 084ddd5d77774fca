"""The answers of the operator's routes about TPMs as values, read strictly; see `records`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hsm_enroll.operator.manifest import ListedChip
from hsm_enroll.operator.members import ARN, SHA256, THING, as_object, count, flag, listed, moment, required, text

_SUBJECT = text("(?s).{0,4000}")  # whatever a vendor wrote; the terminal escapes it


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the entries of one request.

    Attributes:
        added: number of those that are new.
        unchanged: number of those that were listed already.
        conflicts: those that are listed for other Things; these are named, and still have them.
    """

    added: int
    unchanged: int
    conflicts: tuple[ListedChip, ...]


@dataclass(frozen=True, slots=True)
class EkRecord:
    """An endorsement key (EK) that is listed: the TPM that has it enrolls as this Thing without an invite.

    Attributes:
        ek_sha256: SHA-256 of the EK's DER SubjectPublicKeyInfo, or of its DER certificate, in hexadecimal.
        created: when it was listed, in UTC.
        created_by: ARN of the AWS identity that did it.
    """

    ek_sha256: str
    thing: str
    created: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """A CA whose EK certificates are trusted.

    Attributes:
        sha256: of its certificate in DER, in hexadecimal.
        subject: as in RFC 4514.
        root: whether it is self-signed; every chain has to end in one that is.
        not_after: when it expires, in UTC.
        created, created_by: as in `EkRecord`.
    """

    sha256: str
    subject: str
    root: bool
    not_after: datetime
    created: datetime
    created_by: str


def import_report(value: object) -> ImportReport:
    """Read an answer to an import."""
    members = as_object(value)
    return ImportReport(
        added=required(members, "added", count),
        unchanged=required(members, "unchanged", count),
        conflicts=tuple(listed(members, "conflicts", _listed_chip)),
    )


def _listed_chip(value: object) -> ListedChip:
    members = as_object(value)
    return ListedChip(*_ek_of(members))


def ek_record(value: object) -> EkRecord:
    """Read an item of ``keys``."""
    members = as_object(value)
    return EkRecord(
        *_ek_of(members), created=required(members, "created", moment), created_by=required(members, "createdBy", ARN)
    )


def _ek_of(members: dict[str, Any]) -> tuple[str, str]:
    return required(members, "ekSha256", SHA256), required(members, "thing", THING)


def authority_record(value: object) -> AuthorityRecord:
    """Read an item of ``authorities``, or the answer to adding one."""
    members = as_object(value)
    return AuthorityRecord(
        sha256=required(members, "sha256", SHA256),
        subject=required(members, "subject", _SUBJECT),
        root=required(members, "root", flag),
        not_after=required(members, "notAfter", moment),
        created=required(members, "created", moment),
        created_by=required(members, "createdBy", ARN),
    )
