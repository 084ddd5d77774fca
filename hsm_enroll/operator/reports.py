"""The answers to sweeps and rebuilds as values, read strictly; see `records`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hsm_enroll.operator.members import (
    SHA256,
    THING,
    WORD,
    as_object,
    count,
    flag,
    listed,
    moment,
    next_token,
    optional,
    required,
)


@dataclass(frozen=True, slots=True)
class DisabledCertificate:
    """A certificate that a sweep made inactive, or would."""

    certificate_id: str
    created: datetime


@dataclass(frozen=True, slots=True)
class FoundCertificate:
    """A certificate that a sweep disables.

    Attributes:
        reason: ``unknown``, ``lost`` or ``revoked``; a later backend may have more.
        counts: whether it counts towards the limit, since a device may be using it.
    """

    certificate_id: str
    created: datetime
    reason: str
    counts: bool


@dataclass(frozen=True, slots=True)
class SweepReport:
    """One part of a sweep.

    Attributes:
        checked: how many certificates were examined.
        disabled: those that were not in the ledger and are now inactive.
        foreign: how many belong to another system and were left alone.
        found: those that it disables unless it was told to look only.
        limit: how many that count are disabled at a time; None from an earlier backend, which has no limit.
        next: the token of the following part.
    """

    checked: int
    disabled: tuple[DisabledCertificate, ...]
    foreign: int
    found: tuple[FoundCertificate, ...]
    limit: int | None
    next: str | None


@dataclass(frozen=True, slots=True)
class RestoredEntry:
    """An entry of the ledger that a rebuild made, or would.

    Attributes:
        status: what the Thing is, as in `ThingRecord`.
    """

    thing: str
    certificate_id: str
    status: str


@dataclass(frozen=True, slots=True)
class LeftCertificate:
    """A certificate with the device policy for which a rebuild makes no entry.

    Attributes:
        reason: why, in one word, see ``lambda/openapi.yaml``; a later backend may have more.
    """

    certificate_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """One part of a rebuild.

    Attributes:
        examined: how many certificates were compared with the ledger.
        restored: the entries that were made, or would be.
        left: the certificates for which none can be made.
    """

    examined: int
    restored: tuple[RestoredEntry, ...]
    left: tuple[LeftCertificate, ...]


def sweep_report(value: object) -> SweepReport:
    """Read an answer to a sweep."""
    members = as_object(value)
    return SweepReport(
        checked=required(members, "checked", count),
        disabled=tuple(listed(members, "disabled", _disabled)),
        foreign=required(members, "foreign", count),
        found=tuple(listed(members, "found", _found)) if "found" in members else (),
        limit=optional(members, "limit", count),
        next=next_token(members),
    )


def rebuild_report(value: object) -> RebuildReport:
    """Read an answer to a rebuild, except for its ``next``."""
    members = as_object(value)
    return RebuildReport(
        examined=required(members, "examined", count),
        restored=tuple(listed(members, "restored", _restored)),
        left=tuple(listed(members, "left", _left)),
    )


def _disabled(value: object) -> DisabledCertificate:
    members = as_object(value)
    return DisabledCertificate(
        certificate_id=required(members, "certificateId", SHA256), created=required(members, "created", moment)
    )


def _found(value: object) -> FoundCertificate:
    members = as_object(value)
    return FoundCertificate(
        certificate_id=required(members, "certificateId", SHA256),
        created=required(members, "created", moment),
        reason=required(members, "reason", WORD),
        counts=required(members, "counts", flag),
    )


def _restored(value: object) -> RestoredEntry:
    members = as_object(value)
    return RestoredEntry(
        thing=required(members, "thing", THING),
        certificate_id=required(members, "certificateId", SHA256),
        status=required(members, "status", WORD),
    )


def _left(value: object) -> LeftCertificate:
    members = as_object(value)
    return LeftCertificate(
        certificate_id=required(members, "certificateId", SHA256), reason=required(members, "reason", WORD)
    )
