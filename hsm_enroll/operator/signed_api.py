"""Requests to the operator's routes (``lambda/openapi.yaml``: ``/v1/operator/…``), which are signed with SigV4.

API Gateway admits every AWS identity that IAM allows ``execute-api:Invoke``. There is no other permission.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from botocore.session import Session

from hsm_enroll.backend_api.answer import Answer, document, unexpected
from hsm_enroll.backend_api.deadline import TRY_SECONDS
from hsm_enroll.backend_api.patience import Limits, Policy
from hsm_enroll.backend_api.retry import retried
from hsm_enroll.backend_api.transport import Transport
from hsm_enroll.backend_api.url import checked_url
from hsm_enroll.errors import UsageError
from hsm_enroll.operator import aws, members, signing
from hsm_enroll.operator.refusals import refusal

_LARGEST_PAGE = 1000
_LARGEST_ANSWER_BYTES = 6 * 1024 * 1024  # a Lambda function cannot answer more
_UNREACHABLE_HINT = "Check the network and the API's address, then try again."

# A request that was sent and got no answer is not repeated: an operator can look up what became of it. A busy API says
# when to come back; a 503 that does not is an outage.
_RETRIES = Limits(tries=5, statuses={429, 503}, only_when_asked={503})

T = TypeVar("T")


class SignedApi:
    """One enrollment API, for an operator. It keeps its connection open between requests.

    Every method may raise these:
        BackendUnreachableError, ThrottledError: try later.
        BackendRefusedError: with the API's own reason; also if IAM does not admit the caller.
        UnexpectedResponseError, ApiTlsError: something other than the API answered.
        UsageError: there are no AWS credentials.

    Attributes:
        session: whose credentials sign the requests.
        region: AWS region of the API.

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
        self.session = session
        self.region = region or own or aws.region(session)
        self._transport = Transport(
            api_url,
            signing.signer(session, self.region),
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

    def pages(self, method: str, path: str, selection: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the pages of a list, by following ``next``: a parameter of a GET, a member of the body of a POST."""
        seen: set[str] = set()
        token: str | None = None
        while True:
            page, token = self.page(method, path, selection, token)
            if token in seen:
                raise unexpected(self.api_url, "its pages repeat without an end")
            yield page
            if token is None:
                return
            seen.add(token)

    def page(
        self, method: str, path: str, selection: Mapping[str, Any] | None, token: str | None
    ) -> tuple[dict[str, Any], str | None]:
        """Return one page of a list, and the token of the following one; None if it is the last.

        Args:
            method, path, selection: as for `pages`.
            token: of the page, from the one before; None is the first page.
        """
        asked = {**(selection or {})} if token is None else {**(selection or {}), "next": token}
        query, content = (asked, None) if method == "GET" else ({}, json.dumps(asked).encode("utf-8"))
        page = document(self.expected(200, method, path, query, content))
        return page, self.read(members.next_token, page)

    def expected(
        self,
        status: int | Set[int],
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        content: bytes | None = None,
        retries: Policy = _RETRIES,
    ) -> Answer:
        """Send a request, and return its answer if it has the status, or one of those, that is expected."""
        # SigV4 signs the query with RFC 3986's escapes, so a space must not become +. Surrogates become question marks.
        target = f"{path}?{urlencode(query, quote_via=quote, safe='', errors='replace')}" if query else path
        with self._waiting(f"the API at {self.api_url}", TRY_SECONDS):
            answer = retried(
                lambda: self._transport.exchange(method, target, content), retries, self._sleep, self._tell
            )
        if answer.status not in ({status} if isinstance(status, int) else status):
            raise refusal(answer, self.region)
        return answer

    def read(self, reader: Callable[..., T], *values: Any) -> T:
        """Read an answer's content; a ValueError means that something other than the API answered."""
        try:
            return reader(*values)
        except ValueError as error:
            raise unexpected(self.api_url, str(error)) from error


def selection(prefix: str | None, limit: int | None, **others: str | None) -> dict[str, str]:
    """Return the query of a list.

    Args:
        prefix: what the names of the Things begin with; None for any.
        limit: how many entries the caller will take, if that is known.
        others: further parameters; those that are None are left out.
    """
    size = None if limit is None else str(min(limit, _LARGEST_PAGE))
    given = {**others, "prefix": prefix, "limit": size}
    return {name: value for name, value in given.items() if value is not None}
