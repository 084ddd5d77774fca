"""A client of the operator's routes (``lambda/openapi.yaml``: ``/v1/operator/…``); requests are signed with SigV4.

API Gateway admits every AWS identity that IAM allows ``execute-api:Invoke``. There is no other permission.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from hsm_enroll.backend_api.answer import Answer, document, unexpected
from hsm_enroll.backend_api.retry import Policy, retried
from hsm_enroll.backend_api.transport import Transport
from hsm_enroll.backend_api.url import checked_url
from hsm_enroll.errors import BackendUnreachableError
from hsm_enroll.operator import aws, records, signing
from hsm_enroll.operator.invites import NewInvite, body, fitting
from hsm_enroll.operator.records import CreatedInvite, InviteRecord, SweepReport, ThingRecord
from hsm_enroll.operator.refusals import refusal

INVITES = "/v1/operator/invites"
FLEET = "/v1/operator/fleet"
SWEEP = "/v1/operator/sweep"

_LARGEST_ANSWER_BYTES = 6 * 1024 * 1024  # a Lambda function cannot answer more
_UNREACHABLE_HINT = "Check the network and the API's address, then try again."

# A request that was sent and got no answer is not repeated: an operator can look up what became of it. A busy API says
# when to come back; a 503 that does not is an outage.
_RETRIES = Policy(tries=5, tries_by_status={429: 5, 503: 5}, only_when_asked={503})
# After 503 the invites may have been made all the same, with codes that are lost; after 429 nothing was done.
_RETRIES_OF_CREATE = Policy(tries=5, tries_by_status={429: 5})

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
        region: AWS region of the API; None is the one in API Gateway's host name, else the environment's.
        deadline: seconds after which a single request is abandoned, however slowly its answer trickles in.
        sleep: waits between tries, in seconds; an argument so that tests need not wait.

    Raises:
        UsageError: the URL is not an HTTPS URL, the CA file cannot be used, or no region is known.
    """

    def __init__(
        self,
        api_url: str,
        ca_file: Path | None = None,
        region: str | None = None,
        *,
        deadline: float = 45.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        api_url = checked_url(api_url)
        session = aws.session()
        region = region or signing.region_in(api_url) or aws.region(session)
        self._transport = Transport(
            api_url,
            signing.signer(session, region),
            ca_file=ca_file or aws.ca_bundle(session),
            deadline=deadline,
            largest_answer=_LARGEST_ANSWER_BYTES,
            hint=_UNREACHABLE_HINT,
        )
        self._sleep = sleep

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
        try:
            answer = self._expected(201, "POST", INVITES, content=body(invites), retries=_RETRIES_OF_CREATE)
        except BackendUnreachableError as error:
            if error.sent:
                error.hint = f"{error.hint} {_LOST_ANSWER_HINT.format(count=len(invites))}"
            raise
        made: list[CreatedInvite] = self._read(
            lambda: records.listed(document(answer, records.hide_code), "invites", records.created_invite)
        )
        if [(one.thing, one.uses) for one in made] != [(one.thing, one.uses) for one in invites]:
            raise unexpected(self.api_url, "the invites are not the ones requested")
        return made

    def list_invites(self) -> Iterator[InviteRecord]:
        """Yield all invites; a page is requested when its first invite is."""
        for page in self._pages("GET", INVITES):
            yield from self._read(records.listed, page, "invites", records.invite_record)

    def revoke_invite(self, invite_id: str) -> None:
        """Make an invite invalid. Devices that were enrolled with it stay enrolled.

        Raises:
            BackendRefusedError: with ``invite-unknown`` if there is no invite with that id.
        """
        self._expected(204, "DELETE", INVITES, {"id": invite_id})

    def list_things(self) -> Iterator[ThingRecord]:
        """Yield all Things of the ledger; a page is requested when its first Thing is."""
        for page in self._pages("GET", FLEET):
            yield from self._read(records.listed, page, "things", records.thing_record)

    def show_thing(self, thing: str) -> ThingRecord:
        """Return one Thing.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has no Thing of that name.
        """
        answer = document(self._expected(200, "GET", FLEET, {"thing": thing}))
        found: ThingRecord = self._read(records.thing_record, answer.get("thing"))
        if found.thing != thing:
            raise unexpected(self.api_url, "it is about another Thing")
        return found

    def revoke_thing(self, thing: str) -> None:
        """Make a Thing's certificate inactive for good; revoking it again changes nothing.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has no Thing of that name.
        """
        self._expected(204, "DELETE", FLEET, {"thing": thing})

    def sweep(self) -> Iterator[SweepReport]:
        """Disable the certificates that are not in the ledger; each part is swept when its report is requested."""
        for page in self._pages("POST", SWEEP):
            yield self._read(records.sweep_report, page)

    def _pages(self, method: str, path: str) -> Iterator[dict[str, Any]]:
        """Follow ``next``: a query parameter of a GET, a member of the body of a POST."""
        seen: set[str] = set()
        token: str | None = None
        while True:
            members = {} if token is None else {"next": token}
            query, content = (members, None) if method == "GET" else ({}, json.dumps(members).encode("utf-8"))
            page = document(self._expected(200, method, path, query, content))
            token = self._read(records.next_token, page)
            if token in seen:
                raise unexpected(self.api_url, "its pages repeat without an end")
            yield page
            if token is None:
                return
            seen.add(token)

    def _expected(
        self,
        status: int,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        content: bytes | None = None,
        retries: Policy = _RETRIES,
    ) -> Answer:
        # SigV4 signs the query with RFC 3986's escapes, so a space must not become +. Surrogates become question marks.
        target = f"{path}?{urlencode(query, quote_via=quote, safe='', errors='replace')}" if query else path
        answer = retried(lambda: self._transport.exchange(method, target, content), retries, self._sleep)
        if answer.status != status:
            raise refusal(answer)
        return answer

    def _read(self, reader: Callable[..., T], *values: Any) -> T:
        try:
            return reader(*values)
        except ValueError as error:
            raise unexpected(self.api_url, str(error)) from error
