"""The operator's use cases: invites and the fleet. API Gateway has authorized every caller by IAM."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from enrollment_backend import invites, log
from enrollment_backend.claims import Claim
from enrollment_backend.errors import InviteUnknownError, ThingUnknownError
from enrollment_backend.invites import Invite
from enrollment_backend.issuer import Issuer
from enrollment_backend.items import claim_from_item, invite_from_item, invite_to_item
from enrollment_backend.ledger import Ledger
from enrollment_backend.recovery import unrecorded_certificates
from enrollment_backend.table import Write

_PAGE_SIZE = 100
_RETENTION_SECONDS = 90 * 24 * 3600  # of an invite, after it has expired


@dataclass(frozen=True)
class InviteRequest:
    """An invite to create; every value has been validated.

    Attributes:
        thing: a Thing's name, or a prefix of names followed by ``*``.
        uses: number of enrollments it allows.
        ttl_seconds: how long it is valid.
        existing_thing, ek_sha256: see `invites.Invite`.
    """

    thing: str
    uses: int
    ttl_seconds: int
    existing_thing: bool
    ek_sha256: str | None


@dataclass(frozen=True)
class Operator:
    """The operator's use cases.

    Args:
        ledger: the ledger.
        issuer: AWS IoT.
        now: the time, in seconds since the epoch.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    issuer: Issuer
    now: Callable[[], float]

    def create_invites(self, requests: Iterable[InviteRequest], caller: str) -> list[tuple[str, Invite]]:
        """Create invites, all or none.

        Args:
            requests: up to a hundred (TransactWriteItems).
            caller: ARN of the caller's IAM identity.

        Returns:
            Each invite with its code, which is not stored anywhere.
        """
        created = [self._new(request, caller) for request in requests]
        items = [invite_to_item(invite, ttl=invite.expires + _RETENTION_SECONDS) for _, invite in created]
        self.ledger.table.transact(
            Write((item["kind"], item["id"]), item, "attribute_not_exists(#id)", {}, replace=True) for item in items
        )
        log.note(caller=caller, invites=str(len(created)))
        return created

    def list_invites(self, after: str | None) -> tuple[list[Invite], str | None]:
        """Return a page of invites, ordered by id, and the id after which the next page starts; None at the end."""
        items, last_id = self.ledger.table.page("invite", after, _PAGE_SIZE)
        return [invite_from_item(item) for item in items], last_id

    def revoke_invite(self, invite_id: str, caller: str) -> None:
        """Revoke an invite. Nobody can use it any more, not even a device that enrolled with it and asks again.

        It stays in the table permanently, so that such a device is still refused later.

        Raises:
            InviteUnknownError: there is no invite with this id.
        """
        key = ("invite", invite_id)
        if key not in self.ledger.table.get([key]):
            raise InviteUnknownError
        self.ledger.table.transact([Write(key, {"revoked": True, "ttl": None}, "attribute_exists(#id)", {})])
        log.note(caller=caller, inviteId=invite_id)

    def list_things(self, after: str | None) -> tuple[list[Claim], str | None]:
        """Return a page of Things, ordered by name, and the name after which the next page starts; None at the end."""
        items, last_name = self.ledger.table.page("thing", after, _PAGE_SIZE)
        return [claim_from_item(item) for item in items], last_name

    def show_thing(self, name: str) -> Claim:
        """Return a Thing's claim.

        Raises:
            ThingUnknownError: the ledger has no Thing with this name.
        """
        claim = self.ledger.find_claim(name)
        if claim is None:
            raise ThingUnknownError
        return claim

    def revoke_thing(self, name: str, caller: str) -> None:
        """Revoke a Thing: first in the ledger, then deactivate its certificate.

        It can be repeated, also to finish a call that failed half-way.

        Raises:
            ThingUnknownError: the ledger has no Thing with this name.
        """
        claim = self.show_thing(name)
        if claim.revoked_at is None:
            self.ledger.revoke(claim)
        log.note(caller=caller, thing=name)
        recorded = [claim.certificate] if claim.certificate else []
        # A request that died may have had a certificate issued without recording it.
        for certificate in recorded or unrecorded_certificates(claim, self.ledger, self.issuer):
            self.issuer.deactivate(certificate.certificate_id)

    def _new(self, request: InviteRequest, caller: str) -> tuple[str, Invite]:
        code = invites.create_code()
        code_sha256 = invites.code_sha256(code)
        assert code_sha256 is not None  # noqa: S101 - a code that was just created is well-formed
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
