"""The operator's use cases: invites and the fleet. Only requests that IAM has let through get here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from enrollment_backend import invites, log
from enrollment_backend.claims import Claim
from enrollment_backend.errors import InviteUnknownError, ThingUnknownError
from enrollment_backend.invites import Invite
from enrollment_backend.issuer import Issuer
from enrollment_backend.ledger import Ledger, of_invite, to_claim, to_invite
from enrollment_backend.recovery import unrecorded_certificates
from enrollment_backend.table import Write

_PAGE = 100
_KEPT_AFTER_EXPIRY_SECONDS = 90 * 24 * 3600


@dataclass(frozen=True)
class InviteRequest:
    """An invite to be made; every value has been checked.

    Attributes:
        thing: a Thing's name, or a prefix followed by ``*``.
        uses: how many enrollments.
        ttl_seconds: for how long.
        existing_thing, ek_sha256: see `invites.Invite`.
    """

    thing: str
    uses: int
    ttl_seconds: int
    existing_thing: bool
    ek_sha256: str | None


@dataclass(frozen=True)
class Operator:
    """What an operator can do.

    Args:
        ledger: the ledger.
        issuer: AWS IoT.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    issuer: Issuer
    now: Callable[[], float]

    def create_invites(self, wanted: Iterable[InviteRequest], caller: str) -> list[tuple[str, Invite]]:
        """Make invites, all or none; return each with its code, which nobody can look up later.

        Args:
            wanted: what to make, up to a hundred (TransactWriteItems).
            caller: ARN of the IAM identity that asks.
        """
        made = [self._new(request, caller) for request in wanted]
        items = [of_invite(invite, ttl=invite.expires + _KEPT_AFTER_EXPIRY_SECONDS) for _, invite in made]
        self.ledger.table.transact(
            Write((item["kind"], item["id"]), item, "attribute_not_exists(#id)", {}, replace=True) for item in items
        )
        log.note(caller=caller, invites=str(len(made)))
        return made

    def list_invites(self, after: str | None) -> tuple[list[Invite], str | None]:
        """Return a page of invites by order of id, and the id to go on after; None at the end."""
        items, following = self.ledger.table.page("invite", after, _PAGE)
        return [to_invite(item) for item in items], following

    def revoke_invite(self, invite_id: str, caller: str) -> None:
        """Take an invite back: from now on it gets nobody a certificate, nor the one that it has got before.

        It stays in the table for good, so that a device that is bound to it stays out.

        Raises:
            InviteUnknownError: there is none.
        """
        key = ("invite", invite_id)
        if key not in self.ledger.table.get([key]):
            raise InviteUnknownError
        self.ledger.table.transact([Write(key, {"revoked": True, "ttl": None}, "attribute_exists(#id)", {})])
        log.note(caller=caller, inviteId=invite_id)

    def list_things(self, after: str | None) -> tuple[list[Claim], str | None]:
        """Return a page of Things by order of name, and the name to go on after; None at the end."""
        items, following = self.ledger.table.page("thing", after, _PAGE)
        return [to_claim(item) for item in items], following

    def show_thing(self, name: str) -> Claim:
        """Return what the ledger says about a Thing.

        Raises:
            ThingUnknownError: nothing.
        """
        claim = self.ledger.look_up(name)
        if claim is None:
            raise ThingUnknownError
        return claim

    def revoke_thing(self, name: str, caller: str) -> None:
        """Revoke a Thing: first in the ledger, then its certificate.

        Done again it does no harm, and finishes what failed half-way.

        Raises:
            ThingUnknownError: the ledger has none of that name.
        """
        claim = self.show_thing(name)
        if claim.revoked is None:
            self.ledger.revoke(claim)
        log.note(caller=caller, thing=name)
        issued = [claim.certificate] if claim.certificate else []
        # An enrollment that died may have had one issued that the ledger does not know.
        for certificate in issued or unrecorded_certificates(claim, self.ledger, self.issuer):
            self.issuer.deactivate(certificate.certificate_id)

    def _new(self, request: InviteRequest, caller: str) -> tuple[str, Invite]:
        code = invites.make_code()
        code_sha256 = invites.code_sha256(code)
        assert code_sha256 is not None  # noqa: S101 - it was made a moment ago
        now = int(self.now())
        return code, Invite(
            code_sha256=code_sha256,
            thing=request.thing,
            uses=request.uses,
            uses_left=request.uses,
            created=now,
            expires=now + request.ttl_seconds,
            created_by=caller,
            existing_thing=request.existing_thing,
            ek_sha256=request.ek_sha256,
        )
