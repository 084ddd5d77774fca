"""What fell through: certificates that are active in AWS IoT, and that the ledger does not know or has revoked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from enrollment_backend import log
from enrollment_backend.errors import AwsRefusedError
from enrollment_backend.issuer import Issuer, Listed
from enrollment_backend.ledger import Ledger

_UNDER_WAY = timedelta(hours=1)  # a younger certificate may belong to an enrollment that is not finished
_CURSOR = ("sweep", "cursor")


@dataclass(frozen=True)
class Swept:
    """What came of one page.

    Attributes:
        checked: how many active certificates, old enough, were looked at.
        disabled: those that are INACTIVE now.
        foreign: how many the ledger does not know and that serve something else in this account; they were left alone.
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

        That is a revoked one, and one that the ledger does not know: unless it is attached to some other policy, or to
        a Thing that the ledger does not know. Other systems of the same account have certificates too.
        """
        listed, following = self.issuer.page(marker, newest_first=False)
        before = datetime.fromtimestamp(self.now(), UTC) - _UNDER_WAY
        active = [found for found in listed if found.active and found.created <= before]
        standing = self.ledger.standing(found.certificate_id for found in active)
        suspects = [found for found in active if not standing.get(found.certificate_id, False)]
        ours = [found for found in suspects if found.certificate_id in standing or self._is_ours(found)]
        disabled = [found for found in ours if self._disabled(found)]
        return Swept(len(active), disabled, len(suspects) - len(ours), following)

    def go_on(self, time_is_left: Callable[[], bool]) -> None:
        """Look at page after page while there is time; the next run goes on where this one stopped.

        A run that fails is followed by one that begins at the start.
        """
        table = self.ledger.table
        marker = table.get([_CURSOR]).get(_CURSOR, {}).get("marker")
        self._keep(None)
        checked = disabled = foreign = 0
        while True:
            swept = self.page(marker)
            checked, disabled = checked + swept.checked, disabled + len(swept.disabled)
            foreign, marker = foreign + swept.foreign, swept.next
            if marker is None or not time_is_left():
                break
        self._keep(marker)
        log.info("sweep", checked=checked, disabled=disabled, foreign=foreign, finished=marker is None)

    def _keep(self, marker: str | None) -> None:
        kind, name = _CURSOR
        self.ledger.table.put_all([{"kind": kind, "id": name, "marker": marker}])

    def _disabled(self, found: Listed) -> bool:
        """Make it INACTIVE, unless a device has come back meanwhile and finished the enrollment that it is from.

        One that AWS IoT does not let go is named in the log, and does not keep the sweep from the others.
        """
        certificate_id = found.certificate_id
        try:
            self.issuer.deactivate(certificate_id)
        except AwsRefusedError as error:
            log.error("orphan-left-active", certificateId=certificate_id, **error.facts)
            return False
        if self.ledger.standing([certificate_id]).get(certificate_id, False):
            self.issuer.activate(certificate_id)
            return False
        log.error("orphan-disabled", certificateId=certificate_id, created=found.created.isoformat())
        return True

    def _is_ours(self, found: Listed) -> bool:
        policies, things = self.issuer.policies_and_things(found.arn)
        if self.issuer.policy_name in policies or not (policies or things):
            return True
        return any(self.ledger.look_up(thing) is not None for thing in things)
