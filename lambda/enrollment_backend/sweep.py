"""The sweep: disables certificates that are active in AWS IoT, but revoked in the ledger or unknown to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from enrollment_backend import log
from enrollment_backend.errors import AwsRefusedError, FieldInvalidError
from enrollment_backend.issuer import Issuer, ListedCertificate
from enrollment_backend.ledger import Ledger
from enrollment_backend.table import Write

_MIN_AGE = timedelta(hours=1)  # a younger certificate may belong to an enrollment in progress
_CURSOR = ("sweep", "cursor")


@dataclass(frozen=True)
class SweptPage:
    """The outcome of one page.

    Attributes:
        checked: number of active certificates that are old enough and were checked.
        disabled: the certificates that were made INACTIVE.
        foreign: number of certificates that seem to belong to other systems, and were left alone.
        next: marker of the next page; None if this is the last page.
    """

    checked: int
    disabled: list[ListedCertificate]
    foreign: int
    next: str | None


@dataclass(frozen=True)
class Sweeper:
    """Compares the certificates in AWS IoT with the ledger, page by page.

    Args:
        ledger: the ledger.
        issuer: AWS IoT.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    issuer: Issuer
    now: Callable[[], float]

    def sweep_page(self, marker: str | None) -> SweptPage:
        """Check one page of the account's certificates, oldest first, and disable those that nobody may use.

        These are the revoked ones, and those that the ledger does not know although they have the device policy, or are
        for a key that the ledger knows. Certificates of other systems in the same account are left alone.

        Then up to a hundred Things that an earlier version recorded are added to the lists.

        Args:
            marker: of the page, from the page before; None for the first page.

        Raises:
            FieldInvalidError: AWS IoT does not accept the marker.
        """
        try:
            listed, next_marker = self.issuer.page(marker, newest_first=False)
        except AwsRefusedError as error:
            if marker is None:
                raise
            raise FieldInvalidError("next") from error
        latest = datetime.fromtimestamp(self.now(), UTC) - _MIN_AGE
        active = [found for found in listed if found.active and found.created <= latest]
        validity = self.ledger.certificate_validity(found.certificate_id for found in active)
        revoked = [found for found in active if not validity.get(found.certificate_id, True)]
        unknown = [found for found in active if found.certificate_id not in validity]
        ours = [found for found in unknown if self._is_ours(found)]
        orphans = [found for found in ours if self.ledger.record_as_revoked(found.certificate_id)]
        disabled = [found for found in (*revoked, *orphans) if self._disable(found)]
        self.ledger.complete_lists()
        return SweptPage(len(active), disabled, len(unknown) - len(ours), next_marker)

    def sweep(self, time_is_left: Callable[[], bool]) -> None:
        """Sweep pages while there is time, starting where the last run stopped.

        Args:
            time_is_left: whether there is enough time for another page.
        """
        marker = self.ledger.table.get([_CURSOR]).get(_CURSOR, {}).get("marker")
        checked = disabled = foreign = 0
        while True:
            try:
                swept = self.sweep_page(marker)
            except FieldInvalidError:
                marker = None  # AWS IoT no longer accepts the saved one: start over
                continue
            checked, disabled = checked + swept.checked, disabled + len(swept.disabled)
            foreign, marker = foreign + swept.foreign, swept.next
            self._save_cursor(marker)
            if marker is None or not time_is_left():
                break
        log.info("sweep", checked=checked, disabled=disabled, foreign=foreign, finished=marker is None)

    def _save_cursor(self, marker: str | None) -> None:
        self.ledger.table.transact([Write(_CURSOR, {"marker": marker}, "", {}, replace=True)])

    def _is_ours(self, found: ListedCertificate) -> bool:
        try:
            spki_sha256, policies = self.issuer.spki_and_policies(found)
        except AwsRefusedError as error:
            log.error("certificate-not-looked-at", certificateId=found.certificate_id, **error.facts)
            return False
        return self.issuer.policy_name in policies or (spki_sha256 is not None and self.ledger.knows_key(spki_sha256))

    def _disable(self, found: ListedCertificate) -> bool:
        """Make a certificate INACTIVE, and return whether that worked; if AWS IoT refuses, log it and go on."""
        try:
            self.issuer.deactivate(found.certificate_id)
        except AwsRefusedError as error:
            log.error("orphan-left-active", certificateId=found.certificate_id, **error.facts)
            return False
        log.error("orphan-disabled", certificateId=found.certificate_id, created=found.created.isoformat())
        return True
