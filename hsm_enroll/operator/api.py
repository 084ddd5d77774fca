"""The operator's routes for invites, the fleet, sweeps and rebuilds (``lambda/openapi.yaml``: ``/v1/operator/…``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from hsm_enroll.backend_api.answer import document, unexpected
from hsm_enroll.backend_api.patience import Limits
from hsm_enroll.errors import BackendUnreachableError
from hsm_enroll.operator import members, records, reports
from hsm_enroll.operator.invites import NewInvite, NewReplacement, body, fitting
from hsm_enroll.operator.records import (
    AttachedCertificate,
    CreatedInvite,
    InviteRecord,
    ShownThing,
    ThingRecord,
)
from hsm_enroll.operator.reports import RebuildReport, SweepReport
from hsm_enroll.operator.signed_api import SignedApi, selection

INVITES = "/v1/operator/invites"
REPLACEMENTS = "/v1/operator/replacements"
FLEET = "/v1/operator/fleet"
SWEEP = "/v1/operator/sweep"
REBUILD = "/v1/operator/rebuild"

_MOST_NAMES, _LONGEST_NAMES = 100, 3000  # in one request; API Gateway accepts 10 kB of request line and headers

# After 503 the invites may have been made all the same, with codes that are lost; after 429 nothing was done.
_RETRIES_OF_CREATE = Limits(tries=5, statuses={429})

_LOST_ANSWER_HINT = (
    "Up to {count} invites may have been made, and their codes are lost: "
    "hsm-enroll invite list shows them, and they expire."
)


class OperatorClient(SignedApi):
    """An operator's client of one enrollment API: invites, the fleet, sweeps and rebuilds."""

    def create_invites(self, invites: Sequence[NewInvite]) -> list[CreatedInvite]:
        """Make invites, at most as many as ``invites.fitting`` says; they come back in the same order.

        The backend makes all of them or none. A request that may have been carried out is not repeated: its invites may
        exist, and their codes are lost.
        """
        if not invites or fitting(invites) < len(invites):
            raise ValueError(f"{len(invites)} invites in one request")
        return self._create(INVITES, body(invites), invites)

    def create_replacement(self, replacement: NewReplacement) -> CreatedInvite:
        """Make an invite with which another key takes the place of a Thing's own; otherwise as `create_invites`.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has no Thing of that name.
        """
        return self._create(REPLACEMENTS, replacement.body(), [replacement])[0]

    def list_invites(
        self, status: str | None = None, prefix: str | None = None, limit: int | None = None
    ) -> Iterator[InviteRecord]:
        """Yield invites, the newest first; a page is requested when its first invite is.

        Args:
            status: of the invites to yield; None for all.
            prefix: what their Things' names begin with; None for any.
            limit: how many the caller will take, if that is known.
        """
        for page in self.pages("GET", INVITES, selection(prefix, limit, status=status)):
            yield from self.read(members.listed, page, "invites", records.invite_record)

    def revoke_invite(self, invite_id: str) -> None:
        """Make an invite invalid. Devices that were enrolled with it stay enrolled.

        Raises:
            BackendRefusedError: with ``invite-unknown`` if there is no invite with that id.
        """
        self.expected(204, "DELETE", INVITES, {"id": invite_id})

    def list_things(
        self,
        status: str | None = None,
        prefix: str | None = None,
        limit: int | None = None,
        *,
        attested: str | None = None,
    ) -> Iterator[ThingRecord]:
        """Yield Things of the ledger, the last one claimed first; otherwise as `list_invites`.

        Args:
            attested: ``yes`` for those whose keys are proven to be in a TPM, ``no`` for the others; None for all.
        """
        for page in self.pages("GET", FLEET, selection(prefix, limit, status=status, attested=attested)):
            yield from self.read(members.listed, page, "things", records.thing_record)

    def invite_page(
        self, size: int, token: str | None = None, *, status: str | None = None, prefix: str | None = None
    ) -> tuple[list[InviteRecord], str | None]:
        """Return one page of `list_invites`, and the token of the following one; None if it is the last.

        Args:
            size: how many entries it has, at most 1,000; the last page has fewer.
            token: of the page, from the one before; None is the first page.
            status, prefix: as for `list_invites`; the same for all pages of a list.
        """
        page, following = self.page("GET", INVITES, selection(prefix, size, status=status), token)
        return self.read(members.listed, page, "invites", records.invite_record), following

    def thing_page(
        self,
        size: int,
        token: str | None = None,
        *,
        status: str | None = None,
        prefix: str | None = None,
        attested: str | None = None,
    ) -> tuple[list[ThingRecord], str | None]:
        """Return one page of `list_things`, and the token of the following one; otherwise as `invite_page`."""
        selected = selection(prefix, size, status=status, attested=attested)
        page, following = self.page("GET", FLEET, selected, token)
        return self.read(members.listed, page, "things", records.thing_record), following

    def find_things(self, names: Sequence[str]) -> list[ThingRecord]:
        """Return those Things that the ledger has, in the order of their names.

        Args:
            names: valid names of Things, each once.
        """
        found: list[ThingRecord] = []
        for part in _parts(names):
            answer = document(self.expected(200, "GET", FLEET, {"things": ",".join(part)}))
            records_ = self.read(members.listed, answer, "things", records.thing_record)
            if not {record.thing for record in records_} <= set(part):
                raise unexpected(self.api_url, "it is about other Things")
            found += records_
        return found

    def show_thing(self, thing: str) -> ShownThing:
        """Return one Thing, and what is attached to it in AWS IoT.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has no Thing of that name.
        """
        answer = document(self.expected(200, "GET", FLEET, {"thing": thing}))
        found: ShownThing = self.read(records.shown_thing, answer)
        if found.thing.thing != thing:
            raise unexpected(self.api_url, "it is about another Thing")
        return found

    def revoke_thing(self, thing: str, *, all_certificates: bool = False) -> tuple[AttachedCertificate, ...]:
        """Make a Thing's certificate inactive for good; revoking it again changes nothing.

        Args:
            thing: the Thing's name.
            all_certificates: whether to make inactive whatever else is attached to it in AWS IoT.

        Returns:
            What else is attached to it, as it is then; nothing if the backend is of an earlier version.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has no Thing of that name.
        """
        others = "deactivate" if all_certificates else "show"
        answer = self.expected({200, 204}, "DELETE", FLEET, {"thing": thing, "others": others})
        if answer.status == 204:
            return ()
        found: tuple[AttachedCertificate, ...] = self.read(records.other_certificates, document(answer))
        return found

    def look_for_orphans(self) -> Iterator[SweepReport]:
        """Find the certificates that are not in the ledger, and disable none, part by part."""
        for page in self.pages("POST", SWEEP, {"lookOnly": True}):
            yield self.read(reports.sweep_report, page)

    def sweep(self) -> Iterator[SweepReport]:
        """Disable all certificates that are not in the ledger; each part is swept when its report is requested."""
        for page in self.pages("POST", SWEEP, {"yesAll": True}):
            yield self.read(reports.sweep_report, page)

    def sweep_part(self, token: str | None) -> SweepReport:
        """Disable the certificates of one part that are not in the ledger.

        Args:
            token: of the part, from `SweepReport.next` of the part before; None for the first part.

        Raises:
            BackendRefusedError: with ``sweep-stopped`` if these are more than the backend's limit.
        """
        content = json.dumps({} if token is None else {"next": token}).encode("utf-8")
        report: SweepReport = self.read(
            reports.sweep_report, document(self.expected(200, "POST", SWEEP, content=content))
        )
        return report

    def rebuild(self, *, look_only: bool, existing_things: bool) -> Iterator[RebuildReport]:
        """Restore ledger entries from AWS IoT, part by part; what is restored already is not restored again.

        Args:
            look_only: whether to change nothing.
            existing_things: whether to restore Things that were not created by the backend, too.
        """
        asked = {"lookOnly": look_only, "existingThings": existing_things}
        for page in self.pages("POST", REBUILD, asked):
            yield self.read(reports.rebuild_report, page)

    def _create(
        self, path: str, content: bytes, asked: Sequence[NewInvite] | Sequence[NewReplacement]
    ) -> list[CreatedInvite]:
        try:
            answer = self.expected(201, "POST", path, content=content, retries=_RETRIES_OF_CREATE)
        except BackendUnreachableError as error:
            if error.sent:
                error.hint = f"{error.hint} {_LOST_ANSWER_HINT.format(count=len(asked))}"
            raise
        made: list[CreatedInvite] = self.read(
            lambda: members.listed(document(answer, records.hide_code), "invites", records.created_invite)
        )
        if [(one.thing, one.uses) for one in made] != [(one.thing, one.uses) for one in asked]:
            raise unexpected(self.api_url, "the invites are not the ones requested")
        return made


def _parts(names: Sequence[str]) -> Iterator[list[str]]:
    """Divide names into parts that fit into a request each."""
    part: list[str] = []
    length = 0
    for name in names:
        size = len(quote(f"{name},", safe=""))
        if part and (len(part) == _MOST_NAMES or length + size > _LONGEST_NAMES):
            yield part
            part, length = [], 0
        part.append(name)
        length += size
    if part:
        yield part
