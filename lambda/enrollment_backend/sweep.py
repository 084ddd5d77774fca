"""The sweep: disables certificates that are active in AWS IoT, but revoked in the ledger or unknown to it.

It goes through two lists. The certificates with the device policy are those that can connect; the ones that the ledger
does not know are *orphans*. Then it goes through all certificates of the account: there it finds those that are active
although they are revoked, and certificates that were issued for a known key but got lost before they were attached.
The latter can do nothing; a day later they are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, TypeVar

from enrollment_backend import log
from enrollment_backend.aws_errors import AwsRefusedError
from enrollment_backend.errors import FieldInvalidError, SweepStoppedError
from enrollment_backend.inspection import Described, Found, Inspection
from enrollment_backend.ledger import Ledger
from enrollment_backend.table import Item, Write

_MIN_AGE = timedelta(hours=1)  # a younger certificate may belong to an enrollment in progress
_AGE_TO_DELETE = timedelta(days=1)
_WITH_POLICY, _ALL = "p:", "c:"  # what a marker begins with: the list, followed by AWS IoT's own marker

T = TypeVar("T")


class Attempt(Protocol):
    """Makes a call to AWS, perhaps not at once, and perhaps several times."""

    def __call__(self, operation: str, make: Callable[[], T], /) -> T:
        """Return what the call returns."""


@dataclass(frozen=True)
class Suspect:
    """An active certificate that should not be.

    Attributes:
        certificate_id: AWS IoT's identifier.
        created: when it was registered.
        reason: ``revoked``: the ledger says so; ``unknown``: it has the device policy, and the ledger does not know it;
            ``lost``: it is for a key that the ledger knows, and was not recorded.
        counts: whether a device may be using it as far as AWS IoT can tell, and the operator did not revoke it. If the
            ledger has lost entries, there are many of these.
    """

    certificate_id: str
    created: datetime
    reason: Literal["revoked", "unknown", "lost"]
    counts: bool


@dataclass(frozen=True)
class Examined:
    """What was found in one page.

    Attributes:
        checked: number of active certificates that are old enough and were checked.
        suspects: the certificates to disable.
        foreign: number of certificates that seem to belong to other systems, and are left alone.
        next: marker of the next page; None if this is the last page.
    """

    checked: int
    suspects: list[Suspect]
    foreign: int
    next: str | None


@dataclass(frozen=True)
class SweptPage:
    """The outcome of one page.

    Attributes:
        examined: what was found.
        disabled: the certificates that were made INACTIVE.
    """

    examined: Examined
    disabled: list[Suspect]


def _at_once(_operation: str, make: Callable[[], T], /) -> T:
    return make()


@dataclass(frozen=True)
class Sweeper:
    """Compares the certificates in AWS IoT with the ledger, page by page.

    Args:
        ledger: the ledger.
        inspection: AWS IoT.
        deactivate: makes a certificate INACTIVE, see `Issuer.deactivate`.
        now: the time, in seconds since the epoch.
        limit: how many certificates that count it disables at a time, see `Suspect.counts`.
        attempt: makes the calls to AWS.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    inspection: Inspection
    deactivate: Callable[[str], None]
    now: Callable[[], float]
    limit: int
    attempt: Attempt = _at_once

    def sweep_page(self, marker: str | None, size: int, *, look_only: bool, yes_all: bool) -> SweptPage:
        """Examine a page, and disable the certificates that nobody may use.

        Unless it only looks, it then adds Things of an earlier version to the lists, see `Ledger.complete_lists`.

        Args:
            marker: of the page, from the page before; None for the first page.
            size: the largest number of certificates in the page.
            look_only: whether to change nothing.
            yes_all: whether to disable any number of certificates.

        Raises:
            FieldInvalidError: the marker is invalid.
            SweepStoppedError: more certificates than the limit would be disabled; none was.
        """
        examined = self.examine(marker, size, _examined_until(self.state()), look_only=look_only, find_all=yes_all)
        if look_only:
            return SweptPage(examined, [])
        if not yes_all:
            self.check_limit(examined.suspects)
        disabled = list(self.disable(examined.suspects))
        if _is_of_policy(marker):  # these are not active any more when all certificates are listed
            examined = replace(examined, checked=len(disabled))
        self.ledger.complete_lists()
        return SweptPage(examined, disabled)

    def state(self) -> Item:
        """Return what the scheduled runs have saved."""
        return self.attempt("BatchGetItem", lambda: self.ledger.table.get([STATE])).get(STATE, {})

    def check_limit(self, suspects: Iterable[Suspect]) -> None:
        """Raise SweepStoppedError, and say so in the log, if too many of the suspects count."""
        counted = [suspect.certificate_id for suspect in suspects if suspect.counts]
        if len(counted) > self.limit:
            log.error("sweep-stopped", limit=self.limit, first=counted[0])
            raise SweepStoppedError(self.limit)

    def examine(
        self,
        marker: str | None,
        size: int,
        examined_until: float,
        *,
        found: Container[str] = (),
        look_only: bool = False,
        find_all: bool = False,
    ) -> Examined:
        """Find the certificates of a page that nobody may use. Certificates of other systems are left alone.

        Args:
            marker, size, look_only: as for `sweep_page`.
            examined_until: certificates that are unknown to the ledger and not younger than this, in seconds since the
                epoch, are taken for foreign without another look.
            found: suspects of earlier pages; they are not looked at again.
            find_all: whether to go on where more than the limit have been found.

        Raises:
            FieldInvalidError: the marker is invalid.
        """
        listed, position = (_WITH_POLICY, "") if marker is None else (marker[:2], marker[2:])
        if listed not in {_WITH_POLICY, _ALL}:
            raise FieldInvalidError("next")
        try:
            if listed == _WITH_POLICY:
                return self._with_policy(position, size, find_all=find_all)
            return self._all(position, size, examined_until, found, look_only=look_only)
        except AwsRefusedError as error:
            if not position or error.facts["operation"] not in {"ListTargetsForPolicy", "ListCertificates"}:
                raise
            raise FieldInvalidError("next") from error

    def disable(self, suspects: Iterable[Suspect]) -> Iterator[Suspect]:
        """Record suspects as revoked and make them INACTIVE; yield those of which that worked.

        One that has been recorded for a device in the meantime is left alone.
        """
        return (suspect for suspect in suspects if self._record(suspect) and self._disable(suspect))

    def _with_policy(self, position: str, size: int, *, find_all: bool) -> Examined:
        listing = self.inspection.certificates_with_policy
        ids, following = self.attempt("ListTargetsForPolicy", lambda: listing(position, size))
        entries = self._entries(ids)
        suspects: list[Suspect] = []
        for certificate_id in ids:
            described = None if certificate_id in entries else self._describe(certificate_id)
            if described is not None and described.found.active and self._is_older(described.found, _MIN_AGE):
                suspects.append(Suspect(certificate_id, described.found.created, "unknown", counts=True))
            if len(suspects) > self.limit and not find_all:
                break
        return Examined(0, suspects, 0, f"{_WITH_POLICY}{following}" if following else _ALL)

    def _all(
        self, position: str, size: int, examined_until: float, suspected: Container[str], *, look_only: bool
    ) -> Examined:
        listed, following = self.attempt("ListCertificates", lambda: self.inspection.certificates(position, size))
        old = [found for found in listed if self._is_older(found, _MIN_AGE)]
        entries = self._entries([found.certificate_id for found in old])
        unknown = [
            found for found in old if found.certificate_id not in entries and found.certificate_id not in suspected
        ]
        lost = self._lost([found for found in unknown if found.created.timestamp() > examined_until])
        suspects = [
            Suspect(found.certificate_id, found.created, "revoked", counts="thing" not in entry)
            for found in old
            if found.active and (entry := entries.get(found.certificate_id)) and "revoked" in entry
        ]
        suspects += [
            Suspect(one.found.certificate_id, one.found.created, "lost", counts=self._is_attached(one))
            for one in lost
            if one.found.active
        ]
        if not look_only:
            for one in lost:
                if not one.found.active:
                    self._record(Suspect(one.found.certificate_id, one.found.created, "lost", counts=False))
            self._delete([found for found in old if _is_orphan(entries.get(found.certificate_id))])
        active_lost = sum(one.found.active for one in lost)
        foreign = sum(found.active for found in unknown) - active_lost
        return Examined(
            sum(found.active for found in old), suspects, foreign, f"{_ALL}{following}" if following else None
        )

    def _entries(self, certificate_ids: Sequence[str]) -> dict[str, Item]:
        keys = [("certificate", certificate_id) for certificate_id in certificate_ids]
        found = self.attempt("BatchGetItem", lambda: self.ledger.table.get(keys))
        return {certificate_id: item for (_, certificate_id), item in found.items()}

    def _lost(self, unknown: Iterable[Found]) -> list[Described]:
        """Return those of the unknown certificates that are for a key that the ledger knows."""
        described = [one for found in unknown if (one := self._describe(found.certificate_id)) is not None]
        keys = [("key", one.spki_sha256) for one in described if one.spki_sha256 is not None]
        known = self.attempt("BatchGetItem", lambda: self.ledger.table.get(keys))
        return [one for one in described if ("key", one.spki_sha256) in known]

    def _describe(self, certificate_id: str) -> Described | None:
        try:
            return self.attempt("DescribeCertificate", lambda: self.inspection.describe(certificate_id))
        except AwsRefusedError as error:
            log.error("certificate-not-looked-at", certificateId=certificate_id, **error.facts)
            return None

    def _is_attached(self, one: Described) -> bool:
        return bool(self.attempt("ListPrincipalThings", lambda: self.inspection.things_of(one.certificate)))

    def _is_older(self, found: Found, age: timedelta) -> bool:
        return found.created <= datetime.fromtimestamp(self.now(), UTC) - age

    def _delete(self, orphans: Iterable[Found]) -> None:
        """Delete those that AWS IoT lets be deleted; the others are marked, so that nobody asks again every hour."""
        for found in orphans:
            if found.active or not self._is_older(found, _AGE_TO_DELETE):
                continue
            certificate_id = found.certificate_id
            if self.attempt("DeleteCertificate", lambda name=certificate_id: self.inspection.delete(name)):  # type: ignore[misc]
                log.info("orphan-deleted", certificateId=certificate_id, created=found.created.isoformat())
                continue
            kept = Write(("certificate", certificate_id), {"kept": True}, "attribute_exists(#id)", {})
            self.attempt("TransactWriteItems", lambda write=kept: self.ledger.table.transact([write]))  # type: ignore[misc]

    def _record(self, suspect: Suspect) -> bool:
        """Record a suspect as revoked, unless it is; return False if it has been recorded for a device meanwhile."""
        if suspect.reason == "revoked":
            return True
        return self.attempt("TransactWriteItems", lambda: self.ledger.record_as_revoked(suspect.certificate_id))

    def _disable(self, suspect: Suspect) -> bool:
        """Make a certificate INACTIVE, and return whether that worked; if AWS IoT refuses, log it and go on."""
        certificate_id = suspect.certificate_id
        try:
            self.attempt("UpdateCertificate", lambda: self.deactivate(certificate_id))
        except AwsRefusedError as error:
            log.error("orphan-left-active", certificateId=certificate_id, **error.facts)
            return False
        created = suspect.created.isoformat()
        log.error("orphan-disabled", certificateId=certificate_id, created=created, reason=suspect.reason)
        return True


STATE = ("sweep", "cursor")
"""Where the scheduled runs keep what they have to remember."""


def _examined_until(state: Item) -> float:
    return float(state.get("examined_until", 0))


def _is_of_policy(marker: str | None) -> bool:
    return marker is None or marker.startswith(_WITH_POLICY)


def _is_orphan(entry: Item | None) -> bool:
    """Whether the ledger has a certificate as one that no Thing has, and nothing is known to keep it in place."""
    return entry is not None and "revoked" in entry and "thing" not in entry and "kept" not in entry
