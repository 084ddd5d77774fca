"""The page, served in this process, in front of a stand-in for the API and for AWS IoT."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from botocore.session import Session

from hsm_enroll.operator.api import OperatorClient
from hsm_enroll.operator.last_seen import LastSeen, Sighting, Unknown
from hsm_enroll.web import app, server
from hsm_enroll.web.access import Access
from tests.operator.api.stand_in import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Backend, Reply
from tests.support.authority import Authority


class Seen(LastSeen):
    """What AWS IoT would say about when Things were last seen."""

    def __init__(self) -> None:
        self.known: dict[str, Sighting] | Unknown = {}

    def of(self, things: Sequence[str]) -> dict[str, Sighting] | Unknown:
        """Say it."""
        assert things
        return self.known


@dataclass(frozen=True)
class Site:
    """The page.

    Attributes:
        url: with the key.
        backend: the API behind it.
        seen: AWS IoT behind it.
        faults: errors that nobody expected.
    """

    url: str
    backend: Backend
    seen: Seen
    faults: list[Exception] = field(default_factory=list)

    @property
    def base(self) -> str:
        """The address of the list of Things, without the key."""
        return self.url.partition("?")[0]

    def answer_next(self, *replies: Reply) -> None:
        """Have the API give these answers to the next requests."""
        first = len(self.backend.received)
        self.backend.replies |= {first + place: reply for place, reply in enumerate(replies)}


@contextmanager
def served(backend: Backend, authority: Authority, kind: type[OperatorClient] = OperatorClient) -> Iterator[Site]:
    """Serve the page until the block ends.

    Args:
        backend: the API.
        authority: issued the API's certificate.
        kind: of the client.
    """
    session = Session()
    session.set_credentials(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    client = kind(backend.url, authority.certificate, session, REGION, sleep=lambda _: None)
    seen = Seen()
    faults: list[Exception] = []
    with server.listen(0) as listener:
        access = Access(listener.getsockname()[1])
        with server.Server(listener, app.create(access, client, seen, faults.append)):
            yield Site(access.url, backend, seen, faults)


@dataclass(frozen=True)
class Answer:
    """What the server has answered."""

    status: int
    headers: dict[str, str]
    text: str


def ask(
    site: Site,
    path: str,
    *,
    cookie: str = "",
    host: str | None = None,
    form: dict[str, str] | None = None,
    language: str = "en",
) -> Answer:
    """Send a request without a browser; a form makes it a POST."""
    address = urlsplit(site.url)
    assert address.port is not None
    connection = HTTPConnection("127.0.0.1", address.port, timeout=30)
    headers = {"Host": host or address.netloc, "Cookie": cookie, "Accept-Language": language}
    if form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    body = None if form is None else urlencode(form)
    connection.request("GET" if form is None else "POST", path, body, headers)
    answer = connection.getresponse()
    found = Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
    connection.close()
    return found


def cookie_of(site: Site) -> str:
    """Return the cookie of a browser that was let in."""
    entered = ask(site, site.url.removeprefix(f"http://{urlsplit(site.url).netloc}"))
    return entered.headers["Set-Cookie"].partition(";")[0]


def visit(site: Site, path: str, form: dict[str, str] | None = None, language: str = "en") -> Answer:
    """Load a page, or send a form to it, as a browser that was let in.

    Args:
        site: the page.
        path: below `Site.base`.
        form: what is typed and chosen in it; the page's token is added.
        language: the browser's.
    """
    cookie, place = cookie_of(site), urlsplit(site.base).path
    if form is not None:
        form = hidden(ask(site, f"{place}invites/new", cookie=cookie)) | form
    return ask(site, place + path, cookie=cookie, form=form, language=language)


def hidden(answer: Answer) -> dict[str, str]:
    """Return what a page's form sends besides what one types."""
    return dict(re.findall(r'<input type="hidden" name="([a-z]+)" value="([^"]*)">', answer.text))


def alert(answer: Answer) -> str:
    """Return the text of the one error in a page, in one line."""
    (found,) = re.findall(r'role="alert">(.*?)</div>', answer.text, re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", found)).split())


def invite(thing: str, invite_id: str) -> dict[str, Any]:
    """Return an open invite as the ledger has it."""
    times = {"created": "2026-11-23T10:00:00Z", "expires": "2026-11-24T10:00:00Z"}
    who = {"createdBy": "arn:aws:iam::123456789012:user/operator", "existingThing": False}
    return {"id": invite_id, "thing": thing, "uses": 1, "usesLeft": 1, "status": "open", **times, **who}
