"""A client of the operator's routes (``lambda/openapi.yaml``: ``/v1/operator/…``); requests are signed with SigV4.

API Gateway admits every AWS identity that IAM allows ``execute-api:Invoke``. There is no other permission.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from botocore.session import Session

from hsm_enroll.backend_api.answer import Answer, document, unexpected
from hsm_enroll.backend_api.deadline import TRY_SECONDS
from hsm_enroll.backend_api.patience import Limits
from hsm_enroll.backend_api.retry import retried
from hsm_enroll.backend_api.transport import Transport
from hsm_enroll.backend_api.url import checked_url
from hsm_enroll.errors import BackendUnreachableError, UsageError
from hsm_enroll.operator import aws, members, records, reports, signing
from hsm_enroll.operator.invites import NewInvite, NewReplacement, body, fitting
from hsm_enroll.operator.records import (
    AttachedCertificate,
    CreatedInvite,
    InviteRecord,
    ShownThing,
    ThingRecord,
)
from hsm_enroll.operator.refusals import refusal
from hsm_enroll.operator.reports import RebuildReport, SweepReport

INVITES = "/v1/operator/invites"
REPLACEMENTS = "/v1/operator/replacements"
FLEET = "/v1/operator/fleet"
SWEEP = "/v1/operator/sweep"
REBUILD = "/v1/operator/rebuild"

_LARGEST_PAGE = 1000
_MOST_NAMES, _LONGEST_NAMES = 100, 3000  # in one request; API Gateway accepts 10 kB of request line and headers
_LARGEST_ANSWER_BYTES = 6 * 1024 * 1024  # a Lambda function cannot answer more
_UNREACHABLE_HINT = "Check the network and the API's address, then try again."

# A request that was sent and got no answer is not repeated: an operator can look up what became of it. A busy API says
# when to come back; a 503 that does not is an outage.
_RETRIES = Limits(tries=5, statuses={429, 503}, only_when_asked={503})
# After 503 the invites may have been made all the same, with codes that are lost; after 429 nothing was done.
_RETRIES_OF_CREATE = Limits(tries=5, statuses={429})

_LOST_ANSWER_HINT = (
    "Up to {count} invites may have been made, and their codes are lost: "
    "hsm-enroll invite list shows them, and they expire."
)

T = TypeVar("T")


class OperatorClient:
    """An operator's client of one enrollment API. It keeps its connection open between requests.

    Every method may raise these:
        BackendUnreachableError, ThrottledError: try later.
        BackendRefusedError: with the API's own reason; also if IAM does not admit the caller.
        UnexpectedResponseError, ApiTlsError: something other than the API answered.
        UsageError: there are no AWS credentials.

    Args:
        api_url: ``https://…``, with or without a trailing slash.
        ca_file: PEM trust anchors; None is AWS_CA_BUNDLE, or else as for ``trust_anchors.pem``.
        session: whose credentials sign the requests; None is the environment's.
        region: AWS region of the API; None is the one in API Gateway's host name, else the session's.
        deadline: seconds after which a single request is abandoned, however slowly its answer trickles in.
        sleep: waits between tries, in seconds; an argument so that tests need not wait.
        tell: is told in one sentence why a request is sent again, and when.
        waiting: entered while an answer is to come, with what is waited for, and for how many seconds.

    Raises:
        UsageError: the URL is not an HTTPS URL, the CA file cannot be used, no region is known, or the one that is
            given is not that of the URL.
    """

    def __init__(
        self,
        api_url: str,
        ca_file: Path | None = None,
        session: Session | None = None,
        region: str | None = None,
        *,
        deadline: float = TRY_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[str], None] = lambda _: None,
        waiting: Callable[[str, float], AbstractContextManager[None]] = lambda _, __: nullcontext(),
    ) -> None:
        api_url = checked_url(api_url)
        session = session or aws.session()
        own = signing.region_in(api_url)
        if region and own and region != own:
            raise UsageError(
                f"the API {api_url} is in the region {own}, not in {region}", hint="Leave --region out, or correct it."
            )
        self._region = region or own or aws.region(session)
        self._transport = Transport(
            api_url,
            signing.signer(session, self._region),
            ca_file=ca_file or aws.ca_bundle(session),
            deadline=deadline,
            largest_answer=_LARGEST_ANSWER_BYTES,
            hint=_UNREACHABLE_HINT,
        )
        self._sleep = sleep
        self._tell = tell
        self._waiting = waiting

    @property
    def api_url(self) -> str:
        """The API's URL, without a trailing slash."""
        return self._transport.base_url

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
        for page in self._pages("GET", INVITES, _selection(status, prefix, limit)):
            yield from self._read(members.listed, page, "invites", records.invite_record)

    def revoke_invite(self, invite_id: str) -> None:
        """Make an invite invalid. Devices that were enrolled with it stay enrolled.

        Raises:
            BackendRefusedError: with ``invite-unknown`` if there is no invite with that id.
        """
        self._expected(204, "DELETE", INVITES, {"id": invite_id})

    def list_things(
        self, status: str | None = None, prefix: str | None = None, limit: int | None = None
    ) -> Iterator[ThingRecord]:
        """Yield Things of the ledger, the last one claimed first; otherwise as `list_invites`."""
        for page in self._pages("GET", FLEET, _selection(status, prefix, limit)):
            yield from self._read(members.listed, page, "things", records.thing_record)

    def find_things(self, names: Sequence[str]) -> list[ThingRecord]:
        """Return those Things that the ledger has, in the order of their names.

        Args:
            names: valid names of Things, each once.
        """
        found: list[ThingRecord] = []
        for part in _parts(names):
            answer = document(self._expected(200, "GET", FLEET, {"things": ",".join(part)}))
            records_ = self._read(members.listed, answer, "things", records.thing_record)
            if not {record.thing for record in records_} <= set(part):
                raise unexpected(self.api_url, "it is about other Things")
            found += records_
        return found

    def show_thing(self, thing: str) -> ShownThing:
        """Return one Thing, and what is attached to it in AWS IoT.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has no Thing of that name.
        """
        answer = document(self._expected(200, "GET", FLEET, {"thing": thing}))
        found: ShownThing = self._read(records.shown_thing, answer)
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
        answer = self._expected({200, 204}, "DELETE", FLEET, {"thing": thing, "others": others})
        if answer.status == 204:
            return ()
        found: tuple[AttachedCertificate, ...] = self._read(records.other_certificates, document(answer))
        return found

    def look_for_orphans(self) -> Iterator[SweepReport]:
        """Find the certificates that are not in the ledger, and disable none, part by part."""
        for page in self._pages("POST", SWEEP, {"lookOnly": True}):
            yield self._read(reports.sweep_report, page)

    def sweep(self) -> Iterator[SweepReport]:
        """Disable all certificates that are not in the ledger; each part is swept when its report is requested."""
        for page in self._pages("POST", SWEEP, {"yesAll": True}):
            yield self._read(reports.sweep_report, page)

    def sweep_part(self, token: str | None) -> SweepReport:
        """Disable the certificates of one part that are not in the ledger.

        Args:
            token: of the part, from `SweepReport.next` of the part before; None for the first part.

        Raises:
            BackendRefusedError: with ``sweep-stopped`` if these are more than the backend's limit.
        """
        content = json.dumps({} if token is None else {"next": token}).encode("utf-8")
        report: SweepReport = self._read(
            reports.sweep_report, document(self._expected(200, "POST", SWEEP, content=content))
        )
        return report

    def rebuild(self, *, look_only: bool, existing_things: bool) -> Iterator[RebuildReport]:
        """Restore ledger entries from AWS IoT, part by part; what is restored already is not restored again.

        Args:
            look_only: whether to change nothing.
            existing_things: whether to restore Things that were not created by the backend, too.
        """
        asked = {"lookOnly": look_only, "existingThings": existing_things}
        for page in self._pages("POST", REBUILD, asked):
            yield self._read(reports.rebuild_report, page)

    def _create(
        self, path: str, content: bytes, asked: Sequence[NewInvite] | Sequence[NewReplacement]
    ) -> list[CreatedInvite]:
        try:
            answer = self._expected(201, "POST", path, content=content, retries=_RETRIES_OF_CREATE)
        except BackendUnreachableError as error:
            if error.sent:
                error.hint = f"{error.hint} {_LOST_ANSWER_HINT.format(count=len(asked))}"
            raise
        made: list[CreatedInvite] = self._read(
            lambda: members.listed(document(answer, records.hide_code), "invites", records.created_invite)
        )
        if [(one.thing, one.uses) for one in made] != [(one.thing, one.uses) for one in asked]:
            raise unexpected(self.api_url, "the invites are not the ones requested")
        return made

    def _pages(self, method: str, path: str, selection: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Follow ``next``: a query parameter of a GET, a member of the body of a POST."""
        seen: set[str] = set()
        token: str | None = None
        while True:
            asked = {**(selection or {})} if token is None else {**(selection or {}), "next": token}
            query, content = (asked, None) if method == "GET" else ({}, json.dumps(asked).encode("utf-8"))
            page = document(self._expected(200, method, path, query, content))
            token = self._read(members.next_token, page)
            if token in seen:
                raise unexpected(self.api_url, "its pages repeat without an end")
            yield page
            if token is None:
                return
            seen.add(token)

    def _expected(
        self,
        status: int | Set[int],
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        content: bytes | None = None,
        retries: Limits = _RETRIES,
    ) -> Answer:
        # SigV4 signs the query with RFC 3986's escapes, so a space must not become +. Surrogates become question marks.
        target = f"{path}?{urlencode(query, quote_via=quote, safe='', errors='replace')}" if query else path
        with self._waiting(f"the API at {self.api_url}", TRY_SECONDS):
            answer = retried(
                lambda: self._transport.exchange(method, target, content), retries, self._sleep, self._tell
            )
        if answer.status not in ({status} if isinstance(status, int) else status):
            raise refusal(answer, self._region)
        return answer

    def _read(self, reader: Callable[..., T], *values: Any) -> T:
        try:
            return reader(*values)
        except ValueError as error:
            raise unexpected(self.api_url, str(error)) from error


def _selection(status: str | None, prefix: str | None, limit: int | None) -> dict[str, str]:
    size = None if limit is None else str(min(limit, _LARGEST_PAGE))
    given = {"status": status, "prefix": prefix, "limit": size}
    return {name: value for name, value in given.items() if value is not None}


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
