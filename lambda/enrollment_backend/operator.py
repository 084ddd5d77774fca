"""The operator's use cases: invites and the fleet. API Gateway has authorized every caller by IAM."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from enrollment_backend import invites, log
from enrollment_backend.adoption import Adoption
from enrollment_backend.aws_errors import ConditionFailedError
from enrollment_backend.claims import Claim, Removal
from enrollment_backend.errors import ExistingThingsNotAllowedError, InviteUnknownError, ThingUnknownError
from enrollment_backend.inspection import Found
from enrollment_backend.invites import Invite
from enrollment_backend.issuer import Issuer
from enrollment_backend.items import (
    INVITE_STATUSES,
    THING_STATUSES,
    ThingEntry,
    entry_from_item,
    invite_from_item,
    invite_to_item,
    selection,
)
from enrollment_backend.ledger import Ledger
from enrollment_backend.recovery import unrecorded_certificates
from enrollment_backend.table import Item, Key, Position, Write

_DAY = 24 * 3600  # seconds
_RETENTION_SECONDS = 90 * _DAY  # of an invite, after it has expired
# What the index does not have.
_THING_DETAILS = (
    "key_type", "renewed", "renewal_undone", "renewal_undone_because",
    "ek_sha256", "ek_certificate_sha256", "tpm_manufacturer", "tpm_firmware",
)  # fmt: skip
_INVITE_DETAILS = ("replaces_key", "require_tpm", "reuse_tpm")
_ATTEMPTS = 3  # at a transaction, before the operator is told to come back


@dataclass(frozen=True)
class InviteRequest:
    """An invite to create; every value has been validated.

    Attributes:
        thing: a Thing's name, or a prefix of names followed by ``*``.
        uses: number of enrollments it allows.
        ttl_seconds: how long it is valid.
        existing_thing, deactivate_existing, replaces_key, ek_sha256, require_tpm, reuse_tpm: see `invites.Invite`. One
            that replaces a key is for one Thing and one enrollment.
    """

    thing: str
    uses: int
    ttl_seconds: int
    existing_thing: bool
    deactivate_existing: bool
    replaces_key: bool
    ek_sha256: str | None
    require_tpm: bool
    reuse_tpm: bool


@dataclass(frozen=True)
class CreatedInvite:
    """A new invite with its code.

    Attributes:
        code: the code.
        invite: the invite.
        thing_status: `ThingEntry.status` of its Thing; None if the ledger does not have it, and for a prefix of names.
    """

    code: str
    invite: Invite
    thing_status: str | None


@dataclass(frozen=True)
class Page:
    """Which page of a list is asked for.

    Attributes:
        status: of the Things or invites that it has; None for all.
        prefix: what their Things' names begin with; None for any.
        after: the position after which it starts; None for the first page.
        size: the maximum number of entries. A page may have fewer, even none, and be followed by another.
        attested: whether it has the Things whose keys are proven to be in a TPM, or the others; None for all.
    """

    status: str | None
    prefix: str | None
    after: Position | None
    size: int
    attested: bool | None = None


@dataclass(frozen=True)
class Operator:
    """The operator's use cases.

    Args:
        ledger: the ledger.
        issuer: AWS IoT.
        adoption: the other certificates of Things.
        remove: see `removal.Remover.remove_now`.
        now: the time, in seconds since the epoch.
        allow_existing_things: whether invites may allow Things that AWS IoT already has.
        renewal_days: the age in days at which a certificate should be renewed; 0 for never.

    Every method raises the errors of `aws.call`.
    """

    ledger: Ledger
    issuer: Issuer
    adoption: Adoption
    remove: Callable[[Sequence[Removal]], None]
    now: Callable[[], float]
    allow_existing_things: bool
    renewal_days: int

    def create_invites(self, requests: Sequence[InviteRequest], caller: str) -> list[CreatedInvite]:
        """Create invites, all or none.

        Args:
            requests: up to a hundred (TransactWriteItems).
            caller: ARN of the caller's IAM identity.

        Returns:
            Each invite with its code, which is not stored anywhere, and with what its Thing is now.

        Raises:
            ExistingThingsNotAllowedError: one is for an existing Thing, and the deployment does not allow that.
            ThingUnknownError: one is to replace the key of a Thing that the ledger does not have.
        """
        if not self.allow_existing_things and any(request.existing_thing for request in requests):
            raise ExistingThingsNotAllowedError
        statuses = {found.thing: found.status for found in self.find_things([request.thing for request in requests])}
        if any(request.replaces_key and request.thing not in statuses for request in requests):
            raise ThingUnknownError
        created = [self._new(request, caller, statuses.get(request.thing)) for request in requests]
        items = [invite_to_item(one.invite, ttl=one.invite.expires + _RETENTION_SECONDS) for one in created]
        self.ledger.table.transact(
            Write((item["kind"], item["id"]), item, "attribute_not_exists(#id)", {}, replace=True) for item in items
        )
        log.note(caller=caller, invites=str(len(created)))
        return created

    def list_invites(self, page: Page) -> tuple[list[Invite], Position | None]:
        """Return a page of invites, the newest first, and the position after which the next starts; None at the end."""
        selected = selection(INVITE_STATUSES, page.status, page.prefix, self.now())
        items, position = self.ledger.table.page("invite", selected, page.after, page.size)
        details = self.ledger.table.get([_key(item) for item in items], *_INVITE_DETAILS)
        return [invite_from_item(item | details.get(_key(item), {})) for item in items], position

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

    def list_things(self, page: Page) -> tuple[list[ThingEntry], Position | None]:
        """Return a page of Things, the last one claimed first; otherwise as `list_invites`."""
        selected = selection(THING_STATUSES, page.status, page.prefix, self.now(), attested=page.attested)
        items, position = self.ledger.table.page("thing", selected, page.after, page.size)
        return self._entries(self._with_details(items), self.ledger.renewing() if items else ()), position

    def find_things(self, names: Sequence[str]) -> list[ThingEntry]:
        """Return those of several Things that the ledger has, in the order in which they are named."""
        found = self.ledger.table.get((kind, name) for name in names for kind in ("thing", "renewal"))
        renewing = {name for kind, name in found if kind == "renewal"}
        things = [found["thing", name] for name in dict.fromkeys(names) if ("thing", name) in found]
        return self._entries(things, renewing)

    def show_thing(self, name: str) -> ThingEntry:
        """Return a Thing.

        Raises:
            ThingUnknownError: the ledger has no Thing with this name.
        """
        found = self.find_things([name])
        if not found:
            raise ThingUnknownError
        return found[0]

    def attached_to(self, name: str) -> list[Found]:
        """Return all certificates that are attached to a Thing in AWS IoT."""
        return self.adoption.others(name, None)

    def revoke_thing(self, name: str, caller: str, others: Literal["ignore", "show", "deactivate"]) -> list[Found]:
        """Revoke a Thing: first in the ledger, then deactivate its certificate; that of its renewal is removed.

        It can be repeated, also to finish a call that failed half-way.

        Args:
            name: the Thing's name.
            caller: ARN of the caller's IAM identity.
            others: what to do about other certificates that are attached to the Thing in AWS IoT, such as those that an
                adopted Thing had before.

        Returns:
            These other certificates, as they are then; none if they are ignored.

        Raises:
            ThingUnknownError: the ledger has no Thing with this name.
            ConditionFailedError: the Thing keeps changing; it is not revoked.
        """
        claim, renewal, removals = self._record_as_revoked(name)
        log.note(caller=caller, thing=name)
        for one in (claim, renewal):
            if one is None:
                continue
            recorded = [one.certificate] if one.certificate else []
            # A request that died may have had a certificate issued without recording it.
            for certificate in recorded or unrecorded_certificates(one, self.ledger, self.issuer):
                self.issuer.deactivate(certificate.certificate_id)
        self.remove(removals)
        if others == "ignore":
            return []
        attached = self.adoption.others(name, claim.certificate.certificate_id if claim.certificate else None)
        return self.adoption.switch_off(attached) if others == "deactivate" else attached

    def _record_as_revoked(self, name: str) -> tuple[Claim, Claim | None, Sequence[Removal]]:
        """Revoke a Thing in the ledger; if that has changed since it was read, read it again."""
        attempts_left = _ATTEMPTS
        while True:
            claim, renewal = self.ledger.find_claims(name)
            if claim is None:
                raise ThingUnknownError
            attempts_left -= 1
            try:
                return claim, renewal, self.ledger.revoke(claim, renewal)
            except ConditionFailedError:
                if not attempts_left:
                    raise

    def _with_details(self, items: Sequence[Item]) -> list[Item]:
        """Return the index's items of Things with what the index does not have, but an entry needs."""
        keys = [_key(item) for item in items if "certificate_id" in item]
        details = self.ledger.table.get(keys, *_THING_DETAILS)
        of_earlier_versions = [key for key, detail in details.items() if "key_type" not in detail]
        for key, item in self.ledger.table.get(of_earlier_versions, "certificate_pem").items():
            details[key] |= item
        return [item | details.get(_key(item), {}) for item in items]

    def _entries(self, items: Iterable[Item], renewing: Container[str]) -> list[ThingEntry]:
        """Return the entries of Things, of which those in `renewing` have a renewal."""
        entries = [replace(entry_from_item(item), renewal_pending=item["id"] in renewing) for item in items]
        return [replace(entry, renewal_due=self._is_due(entry)) for entry in entries]

    def _is_due(self, entry: ThingEntry) -> bool:
        recorded = entry.renewed or entry.enrolled
        if not self.renewal_days or recorded is None or entry.status != "issued":
            return False
        return self.now() >= recorded + self.renewal_days * _DAY

    def _new(self, request: InviteRequest, caller: str, thing_status: str | None) -> CreatedInvite:
        code = invites.create_code()
        code_sha256 = invites.code_sha256(code)
        assert code_sha256 is not None  # noqa: S101 - a code that was just created is well-formed
        now = int(self.now())
        invite = Invite(
            code_sha256=code_sha256,
            thing=request.thing,
            uses=request.uses,
            uses_left=request.uses,
            created=now,
            expires=now + request.ttl_seconds,
            created_by=caller,
            existing_thing=request.existing_thing,
            deactivate_existing=request.deactivate_existing,
            replaces_key=request.replaces_key,
            ek_sha256=request.ek_sha256,
            require_tpm=request.require_tpm,
            reuse_tpm=request.reuse_tpm,
        )
        return CreatedInvite(code, invite, thing_status)


def _key(item: Item) -> Key:
    return item["kind"], item["id"]
