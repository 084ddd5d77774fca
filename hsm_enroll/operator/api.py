"""The operator's routes as one client (``INTERFACE``: ``/v1/operator/…``); requests are signed with SigV4.

API Gateway lets in whom IAM allows ``execute-api:Invoke``; nothing here holds a right of its own. As on the device's
side, everything that is not exactly an answer of the API is refused by name, and redirects are not followed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from hsm_enroll.errors import BackendUnreachableError
from hsm_enroll.operator import records
from hsm_enroll.operator.answer import Answer, document, foreign, refusal
from hsm_enroll.operator.invites import NewInvite, body, fitting
from hsm_enroll.operator.records import CreatedInvite, InviteRecord, SweepReport, ThingRecord
from hsm_enroll.operator.transport import SignedTransport

INVITES = "/v1/operator/invites"
FLEET = "/v1/operator/fleet"
SWEEP = "/v1/operator/sweep"

_NOT_CARRIED_OUT = frozenset({429})
_BUSY = frozenset({429, 503})  # after 503 it may have been carried out: for what may happen twice
_TRIES = 5
_BACKOFF_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 20.0
_LOST_ANSWER_HINT = (
    "Up to {count} invites may have been made whose codes nobody knows: "
    "hsm-enroll invite list shows them, and they expire."
)

T = TypeVar("T")


class OperatorClient:
    """The operator's side of one enrollment API.

    Every method may raise these:
        BackendUnreachableError, ThrottledError: try later.
        BackendRefusedError: with the API's own reason; also where IAM does not let the caller in.
        ForeignAnswerError, ApiTlsError: it was not the API that answered.
        UsageError: there are no AWS credentials.

    Args:
        api_url: ``https://…``, with or without a trailing slash.
        ca_file: PEM trust anchors; None is what AWS's tools use (AWS_CA_BUNDLE, else botocore's own).
        region: AWS region of the API; None is the one in API Gateway's host name, else the environment's.
        deadline: seconds until a single request is given up, however slowly its answer trickles in.
        sleep: waits between tries; an argument so that tests need not wait.

    Raises:
        UsageError: the URL is no HTTPS URL, the CA file does not exist, or no region is known.
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
        self._transport = SignedTransport(api_url, ca_file=ca_file, region=region, deadline=deadline)
        self._sleep = sleep

    @property
    def api_url(self) -> str:
        """The API's URL, without a trailing slash."""
        return self._transport.base_url

    def create_invites(self, invites: Sequence[NewInvite]) -> list[CreatedInvite]:
        """Make invites, at most as many as ``invites.fitting`` says; the answer has their order.

        The backend makes all of them or none. A request of which nobody knows whether it was carried out is not
        repeated: its invites may exist, with codes that nobody knows.
        """
        if not invites or fitting(invites) < len(invites):
            raise ValueError(f"{len(invites)} invites in one request")
        try:
            answer = self._expected(201, "POST", INVITES, content=body(invites), repeat_after=_NOT_CARRIED_OUT)
        except BackendUnreachableError as error:
            if error.sent:
                error.hint = f"{error.hint} {_LOST_ANSWER_HINT.format(count=len(invites))}"
            raise
        made: list[CreatedInvite] = self._read(
            lambda: records.listed(document(answer, records.hide_code), "invites", records.created_invite)
        )
        if [(one.thing, one.uses) for one in made] != [(one.thing, one.uses) for one in invites]:
            raise foreign(self.api_url, "its invites are not the ones that were asked for")
        return made

    def list_invites(self) -> Iterator[InviteRecord]:
        """Return all invites, page by page as they are taken."""
        for page in self._pages("GET", INVITES):
            yield from self._read(records.listed, page, "invites", records.invite_record)

    def revoke_invite(self, invite_id: str) -> None:
        """Make an invite invalid. What it has enrolled stays as it is.

        Raises:
            BackendRefusedError: with ``invite-unknown`` if there is none of that id.
        """
        self._expected(204, "DELETE", INVITES, {"id": invite_id})

    def list_things(self) -> Iterator[ThingRecord]:
        """Return all Things of the ledger, page by page as they are taken."""
        for page in self._pages("GET", FLEET):
            yield from self._read(records.listed, page, "things", records.thing_record)

    def show_thing(self, thing: str) -> ThingRecord:
        """Return one Thing.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has none of that name.
        """
        answer = document(self._expected(200, "GET", FLEET, {"thing": thing}))
        found: ThingRecord = self._read(records.thing_record, answer.get("thing"))
        if found.thing != thing:
            raise foreign(self.api_url, "it is about another Thing")
        return found

    def revoke_thing(self, thing: str) -> None:
        """Make a Thing's certificate inactive for good; doing so again changes nothing.

        Raises:
            BackendRefusedError: with ``thing-unknown`` if the ledger has none of that name.
        """
        self._expected(204, "DELETE", FLEET, {"thing": thing})

    def sweep(self) -> Iterator[SweepReport]:
        """Disable the certificates that no ledger entry knows, part by part as the reports are taken."""
        for page in self._pages("POST", SWEEP):
            yield self._read(records.sweep_report, page)

    def _pages(self, method: str, path: str) -> Iterator[dict[str, Any]]:
        """Follow ``next``; of a GET it is a query parameter, of a POST a member of the body."""
        seen: set[str] = set()
        token: str | None = None
        while True:
            members = {} if token is None else {"next": token}
            query, content = (members, None) if method == "GET" else ({}, json.dumps(members).encode("utf-8"))
            page = document(self._expected(200, method, path, query, content))
            token = self._read(records.next_token, page)
            if token in seen:
                raise foreign(self.api_url, "its pages go round in a circle")
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
        repeat_after: frozenset[int] = _BUSY,
    ) -> Answer:
        # SigV4 signs the query with RFC 3986's escapes: + for a space would not do. What is no text is no name.
        target = f"{path}?{urlencode(query, quote_via=quote, safe='', errors='replace')}" if query else path
        answer = self._retried(lambda: self._transport.send(method, target, content), repeat_after)
        if answer.status != status:
            raise refusal(answer)
        return answer

    def _retried(self, send: Callable[[], Answer], repeat_after: frozenset[int]) -> Answer:
        """Try again, with full jitter, where there was no connection, or the API is busy and says one of these."""
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1
            longest = min(_LONGEST_WAIT_SECONDS, _BACKOFF_SECONDS * 2**attempt)
            wait = random.uniform(0, longest)  # noqa: S311 - spreads load, guards nothing
            try:
                answer = send()
            except BackendUnreachableError as error:
                if last or error.sent:
                    raise
            else:
                asked = answer.wait if answer.status in repeat_after else None
                if asked is None or last or asked > _LONGEST_WAIT_SECONDS:
                    return answer
                wait += asked
            self._sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _read(self, reader: Callable[..., T], *values: Any) -> T:
        try:
            return reader(*values)
        except ValueError as error:
            raise foreign(self.api_url, str(error)) from error
