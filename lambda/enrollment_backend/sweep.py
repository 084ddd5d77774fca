"""What fell through: certificates that are active in AWS IoT, and that the ledger does not know or has revoked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from enrollment_backend import log
from enrollment_backend.errors import AwsRefusedError, FieldInvalidError
from enrollment_backend.issuer import Issuer, Listed
from enrollment_backend.ledger import Ledger
from enrollment_backend.table import Write

_UNDER_WAY = timedelta(hours=1)  # a younger certificate may belong to an enrollment that is not finished
_CURSOR = ("sweep", "cursor")


@dataclass(frozen=True)
class Swept:
    """What came of one page.

    Attributes:
        checked: how many active certificates, old enough, were looked at.
        disabled: those that are INACTIVE now.
        foreign: how many are another system's, as far as can be told; they were left alone.
        next: marker of the next page; None at the end.
    """

    checked: int
    disabled: list[Listed]
    foreign: int
    next: str | None


@dataclass(frozen=True)
class Sweeper:
    """Compares AWS IoT with the ledger, page by page.

    Args:
        ledger: knows what was issued.
        issuer: knows what there is.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    issuer: Issuer
    now: Callable[[], float]

    def page(self, marker: str | None) -> Swept:
        """Look at one page of the account's certificates, oldest first, and disable what nobody should use.

        That is a revoked one, and one that the ledger does not know although it has the device policy or is for a key
        that the ledger knows. Other systems of the same account have certificates too; those are left alone.

        Raises:
            FieldInvalidError: AWS IoT does not take the marker.
        """
        try:
            listed, following = self.issuer.page(marker, newest_first=False)
        except AwsRefusedError as error:
            if marker is None:
                raise
            raise FieldInvalidError("next") from error
        before = datetime.fromtimestamp(self.now(), UTC) - _UNDER_WAY
        active = [found for found in listed if found.active and found.created <= before]
        standing = self.ledger.standing(found.certificate_id for found in active)
        revoked = [found for found in active if not standing.get(found.certificate_id, True)]
        unknown = [found for found in active if found.certificate_id not in standing]
        ours = [found for found in unknown if self._is_ours(found)]
        orphans = [found for found in ours if self.ledger.outlaw(found.certificate_id)]
        disabled = [found for found in (*revoked, *orphans) if self._disabled(found)]
        return Swept(len(active), disabled, len(unknown) - len(ours), following)

    def go_on(self, time_is_left: Callable[[], bool]) -> None:
        """Look at page after page while there is time; the next run goes on with the page where this one stopped."""
        marker = self.ledger.table.get([_CURSOR]).get(_CURSOR, {}).get("marker")
        checked = disabled = foreign = 0
        while True:
            try:
                swept = self.page(marker)
            except FieldInvalidError:
                marker = None  # AWS IoT does not take it any more
                continue
            checked, disabled = checked + swept.checked, disabled + len(swept.disabled)
            foreign, marker = foreign + swept.foreign, swept.next
            self._keep(marker)
            if marker is None or not time_is_left():
                break
        log.info("sweep", checked=checked, disabled=disabled, foreign=foreign, finished=marker is None)

    def _keep(self, marker: str | None) -> None:
        self.ledger.table.transact([Write(_CURSOR, {"marker": marker}, "", {}, replace=True)])

    def _is_ours(self, found: Listed) -> bool:
        try:
            spki_sha256, policies = self.issuer.spki_and_policies(found)
        except AwsRefusedError as error:
            log.error("certificate-not-looked-at", certificateId=found.certificate_id, **error.facts)
            return False
        return self.issuer.policy_name in policies or (spki_sha256 is not None and self.ledger.knows_key(spki_sha256))

    def _disabled(self, found: Listed) -> bool:
        """Make it INACTIVE; one that AWS IoT does not let go is named in the log, and does not hold up the others."""
        try:
            self.issuer.deactivate(found.certificate_id)
        except AwsRefusedError as error:
            log.error("orphan-left-active", certificateId=found.certificate_id, **error.facts)
            return False
        log.error("orphan-disabled", certificateId=found.certificate_id, created=found.created.isoformat())
        return True
