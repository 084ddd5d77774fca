"""One exchange with the API over a connection that stays open: deadline, size limit, and the library's errors as ours.

Redirects are not followed and cookies are not kept, so what is sent to the API is never sent to another host.
"""

from __future__ import annotations

import ssl
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests import exceptions as http
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import exceptions as connection
from urllib3.util import parse_url

from hsm_enroll.backend_api import one_answer
from hsm_enroll.backend_api.answer import ACCEPTED, JSON, Answer, http_date, printable, unexpected
from hsm_enroll.backend_api.deadline import within
from hsm_enroll.errors import ApiTlsError, BackendUnreachableError, HsmEnrollError, UsageError
from hsm_enroll.version import __version__
from hsm_enroll.x509 import trust_anchors

# Routers forget a connection that is silent for long, without a word to either end; the next request would go nowhere.
LONGEST_IDLE_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
READ_SECONDS = 35.0  # API Gateway ends an integration after 30 s

# What urllib3 raises before the request is sent; subclasses first.
_NOT_CONNECTED: dict[type[Exception], str] = {
    connection.NameResolutionError: "its name cannot be resolved",
    connection.NewConnectionError: "nothing accepts connections there",
    connection.ConnectTimeoutError: "nothing answers there",
    connection.ProxyError: "the proxy does not let it through",
}


# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h).
_UNTIMELY = {9: "is not valid yet", 10: "has expired"}
_CLOCK_HINT = (
    "Check this machine's clock: set it, or start NTP, then run the same command again. If it is right, tell the "
    "operator of the backend."
)
_POOLS = {"https": one_answer.Pool}


class Outgoing(NamedTuple):
    """A request just before it is sent, for whoever authorizes it.

    Attributes:
        method: of HTTP.
        url: exactly as it is sent, query included.
        headers: those that say what the body is.
        body: the request's body, or None.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


Authorize = Callable[[Outgoing], Mapping[str, str]]
"""Returns the headers that authorize a request; called once for each try."""


class Transport:
    """Sends requests to one API, each once. The connection is kept open between them, for 60 s without a request.

    Args:
        base_url: as `url.checked_url` returns it.
        authorize: gives the headers that authorize a request.
        ca_file: PEM trust anchors; None as for ``trust_anchors.pem``.
        deadline: seconds after which a request is abandoned, however slowly its answer trickles in.
        largest_answer: size of the largest accepted body in bytes.
        hint: what to do when the API cannot be reached; None is the hint of the error's class.
        context: trusts in place of ``ca_file``, for a caller who looks at the handshakes.

    Raises:
        UsageError: the CA file cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        authorize: Authorize,
        *,
        ca_file: Path | None,
        deadline: float,
        largest_answer: int,
        hint: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.base_url = base_url
        self._authorize = authorize
        self._deadline = deadline
        self._largest_answer = largest_answer
        self._hint = hint
        context = context or trust_anchors.context(ca_file)
        self._verifies = context.verify_mode is not ssl.CERT_NONE
        self._session = _Session(context)
        self._last_use = 0.0

    def close(self) -> None:
        """Close the connection. The next request opens another."""
        self._session.close()

    def exchange(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        on_sent: Callable[[], None] = lambda: None,
        media_type: str = JSON,
    ) -> Answer:
        """Send a request, once, and return the answer, whatever its status.

        Args:
            method: of HTTP.
            target: path and query below the base URL.
            body: the request's body, or None.
            on_sent: called, on another thread, when the body has been sent; the answer is still to come.
            media_type: the body's.

        Raises:
            BackendUnreachableError: no complete answer came.
            ApiTlsError: there is no trusted TLS connection to the API.
            UnexpectedResponseError: the answer is too large.
            UsageError: the URL or a proxy's cannot be used.
            HsmEnrollError: what ``authorize`` raises.
        """
        if time.monotonic() - self._last_use > LONGEST_IDLE_SECONDS:
            self.close()
        if not _has_valid_proxy(self.base_url):
            # Before the libraries find out, whose errors show it with its password.
            raise self._unusable()
        with self._translating():
            # Outside the deadline: whoever authorizes it may have to ask a person.
            request = self._prepared(method, target, body, on_sent, media_type)
        try:
            return within(self._deadline, lambda: self._sent(request))
        except TimeoutError as error:
            raise BackendUnreachableError(
                f"{self.base_url} did not complete its answer within {self._deadline:.0f} s",
                abandoned=True,
                hint=self._unreachable_hint,
            ) from error
        finally:
            self._last_use = time.monotonic()

    def _prepared(
        self, method: str, target: str, body: bytes | None, on_sent: Callable[[], None], media_type: str
    ) -> requests.PreparedRequest:
        headers = {} if body is None else {"Content-Type": media_type}

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers.update(self._authorize(Outgoing(method, str(request.url), headers, body)))
            return request

        # As ``auth``: without one, requests would send a password for this host from ~/.netrc.
        data = None if body is None else _Body(body, on_sent)
        return self._session.prepare_request(
            requests.Request(method, self.base_url + target, data=data, headers=headers, auth=authorize)
        )

    def _sent(self, request: requests.PreparedRequest) -> Answer:
        with self._translating():
            response = self._session.send(
                request,
                timeout=(_CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
                stream=True,
                verify=self._verifies,
                proxies=_proxies(self.base_url),
            )
            with closing(response):
                return Answer(
                    url=self.base_url,
                    status=response.status_code,
                    media_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                    body=self._body(response.raw),
                    retry_after=response.headers.get("Retry-After", ""),
                    request_id=printable(response.headers.get("apigw-requestid", "")),
                    date=http_date(response.headers.get("Date", "")),
                )

    def _body(self, raw: Any) -> bytes:
        # In a buffer, whose repr does not show its content: a traceback's locals may be printed.
        body = BytesIO()
        while body.write(raw.read(8192, decode_content=False)):
            if body.tell() > self._largest_answer:
                raise unexpected(self.base_url, f"longer than {self._largest_answer} bytes")
        return body.getvalue()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (http.RequestException, connection.HTTPError, OSError, ValueError) as error:
            causes = _causes(error)
            for cause in causes:
                # The library's frames hold the request's headers, and with them the code.
                traceback.clear_frames(cause.__traceback__)
            raise self._failure(error, causes) from error

    def _failure(self, error: Exception, causes: list[BaseException]) -> HsmEnrollError:
        url = self.base_url
        if any(map(_is_tls_error, causes)) and not any(map(_is_hang_up, causes)):
            message = f"cannot establish a trusted TLS connection to {url}"
            if (why := _untimely(causes)) is None:
                return ApiTlsError(message)
            return ApiTlsError(f"{message}: its certificate {why}", untimely=True, hint=_CLOCK_HINT)
        for cause in causes:
            for kind, meaning in _NOT_CONNECTED.items():
                if isinstance(cause, kind):
                    return BackendUnreachableError(
                        f"cannot reach {url}: {meaning}", sent=False, hint=self._unreachable_hint
                    )
        if isinstance(error, http.InvalidURL | http.InvalidSchema | connection.LocationValueError):
            return self._unusable()
        if isinstance(error, http.ConnectionError | connection.ProtocolError):
            return BackendUnreachableError(
                f"the connection to {url} broke before its answer was complete", hint=self._unreachable_hint
            )
        return BackendUnreachableError(f"no answer from {url}: {type(error).__name__}", hint=self._unreachable_hint)

    def _unusable(self) -> UsageError:
        if self._proxy is None:
            return UsageError(f"the API's URL {self.base_url} cannot be used")
        return UsageError(f"{self.base_url} cannot be requested: the proxy's URL is not valid", hint=self._proxy_hint)

    @property
    def _unreachable_hint(self) -> str | None:
        """What to do if the API cannot be reached; it names the proxy that is in between."""
        if self._proxy is None:
            return self._hint
        return f"{self._hint or BackendUnreachableError.default_hint} {self._proxy_hint}"

    @property
    def _proxy_hint(self) -> str:
        host = urlsplit(self.base_url).hostname
        return f"The environment names the proxy {self._proxy}: check HTTPS_PROXY, or list {host} in NO_PROXY."

    @property
    def _proxy(self) -> str | None:
        """The proxy that is in between, without scheme and path, and without a password."""
        proxy = proxy_for(self.base_url)
        return None if proxy is None else printable(proxy.rpartition("://")[2].rpartition("@")[2].partition("/")[0])


def proxy_for(url: str) -> str | None:
    """Return the URL of the proxy that requests to a URL go through, or None: as the environment says.

    Does *not* check it; it may have no scheme, and a password.
    """
    proxy = select_proxy(url, _proxies(url))
    return proxy if isinstance(proxy, str) and proxy else None


def _has_valid_proxy(url: str) -> bool:
    """Whether the proxy, if any, speaks HTTP; urllib3 knows SOCKS where another program has installed PySocks."""
    proxy = proxy_for(url)
    try:
        return proxy is None or parse_url(proxy).scheme in {None, "http", "https"}
    except connection.LocationParseError:
        return False


def _proxies(url: str) -> dict[str, str]:
    return dict(get_environ_proxies(url))


class _Body(BytesIO):
    """A request's body that tells when the last of it has been sent: the end is asked for after that."""

    def __init__(self, content: bytes, on_sent: Callable[[], None]) -> None:
        super().__init__(content)
        self._on_sent = on_sent

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next part."""
        part = super().read(size)
        if not part:
            self._on_sent()
        return part


class _Adapter(HTTPAdapter):
    """Trusts what a context trusts; requests itself would always add certifi's authorities."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Use the context for direct connections."""
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Use the context through a proxy too, and for the proxy itself."""
        contexts = {"ssl_context": self._context, "proxy_ssl_context": self._context}
        manager = super().proxy_manager_for(proxy, **options, **contexts)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, *_: Any) -> None:
        """Add no authorities."""


class _Session(requests.Session):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.mount("https://", _Adapter(context))
        self.headers.clear()
        self.headers.update({"Accept": ACCEPTED, "User-Agent": f"hsm-enroll/{__version__}"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Know of none: also with ``allow_redirects=False`` requests would read a redirect's body, however large."""


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an exception and what led to it, latest first."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _is_tls_error(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLError | connection.SSLError)


def _untimely(causes: list[BaseException]) -> str | None:
    """Return what a certificate's dates have to do with a failure; None if nothing."""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError) and (why := _UNTIMELY.get(cause.verify_code)):
            return f"{why}, if this machine's clock is right, which says {datetime.now(UTC):%Y-%m-%d}"
    return None


def _is_hang_up(error: BaseException) -> bool:
    """Whether a TLS connection just ended, as one does that was kept open and has died."""
    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
