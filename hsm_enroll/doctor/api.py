"""What the enrollment API is like, seen by the client that ``init`` uses.

So proxies, trusted authorities and invalid addresses are treated alike. No certificate or code of ours is sent.
"""

from __future__ import annotations

import ssl
import warnings
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from hsm_enroll.backend_api.patient_client import HEALTH
from hsm_enroll.backend_api.transport import Transport, proxy_for
from hsm_enroll.backend_api.url import checked_url
from hsm_enroll.doctor.tls import Distrust, Negotiated, distrust, issuer_shown, negotiated, trusting_context
from hsm_enroll.errors import ApiTlsError, BackendUnreachableError, HsmEnrollError, ThrottledError, UsageError
from hsm_enroll.x509 import trust_anchors

WHOLE_SECONDS = 30.0
_LARGEST_ANSWER_BYTES = 64 * 1024
_PROXY_SCHEMES = {"http", "https"}


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What a connection to the API showed.

    Attributes:
        tls: what was negotiated, why the server is not trusted, or None if there was no connection.
        clock_error: how far this clock is ahead of the answer's Date (RFC 9110 §6.6.1), or None without one. The answer
            of a server that is not trusted counts too, since a wrong clock may be why it is not.
    """

    tls: Negotiated | Distrust | None
    clock_error: timedelta | None


@dataclass(slots=True)
class _Seen:
    tls: Negotiated | None = None
    issuer: str = ""


def first_host(url: str) -> str | None:
    """Return the host that a connection to an API begins with: the API's, or that of the environment's proxy.

    None is for a URL, of either, that the API's client does not accept.
    """
    try:
        own = checked_url(url)
        proxy = proxy_for(own)
        if proxy is None:
            return urlsplit(own).hostname
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        is_valid = parts.port != 0 and parts.scheme in _PROXY_SCHEMES
    except (ValueError, UsageError):
        return None
    return parts.hostname if is_valid else None


def ask(url: str, ca_file: Path | None) -> ApiAnswer:
    """Ask an API for its health. If it is not trusted, look again, to see who issued its certificate.

    Raises nothing: what could not be found out is None.
    """
    seen = _Seen()
    try:
        date = _asked(url, trust_anchors.context(ca_file), seen)
    except ApiTlsError as error:
        refused = _verification(error)
        return ApiAnswer(None, None) if refused is None else _look_again(url, refused)
    except HsmEnrollError:
        return ApiAnswer(None, None)
    return ApiAnswer(seen.tls, _ahead(date))


def advice(error: HsmEnrollError, answer: ApiAnswer | None) -> str:
    """Return what to do if the API's health could not be found out; the doctor itself has nothing to resume.

    Args:
        error: why not.
        answer: what a connection to the API showed.
    """
    if isinstance(error, ThrottledError) or (isinstance(error, BackendUnreachableError) and _answers(answer)):
        return (
            "The network is fine, the API is not: wait a few minutes, then run hsm-enroll doctor --online again. If it "
            "still fails, tell the operator of the backend."
        )
    if error.hint == BackendUnreachableError.default_hint:
        return "Check the network and the API's address."
    return error.hint


def _answers(answer: ApiAnswer | None) -> bool:
    return answer is not None and isinstance(answer.tls, Negotiated)


def _look_again(url: str, refused: ssl.SSLCertVerificationError) -> ApiAnswer:
    seen, date = _Seen(), None
    with suppress(HsmEnrollError):
        date = _asked(url, trusting_context(), seen)
    return ApiAnswer(distrust(refused, seen.issuer), _ahead(date))


def _asked(url: str, context: ssl.SSLContext, seen: _Seen) -> datetime | None:
    """Ask for the API's health, note what is seen of its TLS, and return its time."""
    base_url = checked_url(url)
    _watch(context, urlsplit(base_url).hostname, seen)
    transport = Transport(
        base_url,
        lambda _: {},
        ca_file=None,
        deadline=WHOLE_SECONDS,
        largest_answer=_LARGEST_ANSWER_BYTES,
        context=context,
    )
    with closing(transport), warnings.catch_warnings():
        # That the server is not verified, which is intended, or that the clock is wrong, which has its own checks.
        warnings.simplefilter("ignore")
        return transport.exchange("GET", HEALTH).date


def _watch(context: ssl.SSLContext, host: str | None, seen: _Seen) -> None:
    """Have a context note what is seen in a handshake with a host, but not in one with a proxy."""

    class Watched(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            if self.server_hostname == host:
                seen.tls, seen.issuer = negotiated(self), issuer_shown(self)

    context.sslsocket_class = Watched


def _verification(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the failed verification behind an error."""
    if error is None or isinstance(error, ssl.SSLCertVerificationError):
        return error
    # Through a proxy it is only the context of the last error that has a cause.
    return _verification(error.__cause__) or _verification(error.__context__)


def _ahead(date: datetime | None) -> timedelta | None:
    return None if date is None else datetime.now(UTC) - date
