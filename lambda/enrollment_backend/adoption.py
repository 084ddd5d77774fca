"""Things that AWS IoT had before they were enrolled: what else is attached to them.

A certificate of before stays active and attached, and so another device may be using it. This module reports such
certificates, and deactivates them if the operator said so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from enrollment_backend import log
from enrollment_backend.claims import Certificate, Claim
from enrollment_backend.inspection import Found, Inspection
from enrollment_backend.ledger import Ledger


@dataclass(frozen=True)
class Adoption:
    """Looks at the other certificates of Things.

    Args:
        ledger: the ledger.
        inspection: AWS IoT.
        deactivate: makes a certificate INACTIVE, see `Issuer.deactivate`.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    inspection: Inspection
    deactivate: Callable[[str], None]

    def settle(self, claim: Claim, certificate: Certificate) -> None:
        """Report in the log what else is attached to an adopted Thing, and deactivate it if the invite says so.

        It can be repeated, also to finish a call that failed half-way.

        Args:
            claim: the Thing's claim.
            certificate: the certificate that was issued for it.
        """
        invite = None if claim.code_sha256 is None else self.ledger.find_invite(claim.code_sha256)
        attached = self.others(claim.thing, certificate.certificate_id)
        known = self.ledger.certificate_validity(found.certificate_id for found in attached)
        others = [
            found for found in attached if not known.get(found.certificate_id)
        ]  # a renewal's is no other device's
        active = [found for found in others if found.active]
        if invite is not None and invite.deactivate_existing:
            others = self.switch_off(others)
        still_active = sum(found.active for found in others)
        if active:
            log.info("thing-adopted", certificates=[one.certificate_id for one in active], stillActive=still_active)

    def others(self, thing: str, own: str | None) -> list[Found]:
        """Return the certificates that are attached to a Thing, except for the one with the id `own`."""
        return [found for found in self.inspection.attached_to(thing) if found.certificate_id != own]

    def switch_off(self, certificates: list[Found]) -> list[Found]:
        """Make certificates INACTIVE that are not, and return them as they are then."""
        for found in certificates:
            if found.active:
                self.deactivate(found.certificate_id)
                log.info("other-certificate-deactivated", certificateId=found.certificate_id)
        return [replace(found, active=False) for found in certificates]
