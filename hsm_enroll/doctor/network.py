"""DNS lookups and TLS handshakes that show what the other end is like. They present no certificate or code of ours.

Each takes half a minute at most, however slowly the answer comes.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from hsm_enroll.backend_api.answer import printable
from hsm_enroll.backend_api.client import HEALTH
from hsm_enroll.backend_api.deadline import within
from hsm_enroll.backend_api.transport import proxy_for
from hsm_enroll.errors import ForeignCertificateError, UsageError
from hsm_enroll.x509 import trust_anchors
from hsm_enroll.x509.certificate import read_certificate

_STEP_SECONDS = 10.0
WHOLE_SECONDS = 30.0
# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h).
_UNTIMELY = {9, 10}
# ..._DEPTH_ZERO_SELF_SIGNED_CERT, _SELF_SIGNED_CERT_IN_CHAIN, _UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
# _UNABLE_TO_VERIFY_LEAF_SIGNATURE.
_ANOTHER_AUTHORITY = {18, 19, 20, 21}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Way:
    """Where a connection to the API goes first: to the API itself, or to the proxy that the environment names.

    Attributes:
        host: host name or address.
        port: TCP port.
        proxy: the proxy's URL, or None.
    """

    host: str
    port: int
    proxy: SplitResult | None


@dataclass(frozen=True, slots=True)
class Distrust:
    """Why a server's certificate is not trusted.

    Attributes:
        reason: OpenSSL's description.
        issuer: who issued the certificate, or "" if that could not be seen.
        is_untimely: whether the certificate has expired or is not yet valid.
        is_another_authority: whether the chain does not end at a trusted authority.
    """

    reason: str
    issuer: str
    is_untimely: bool
    is_another_authority: bool


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What was negotiated in a handshake: the names of the version and the cipher suite."""

    version: str
    cipher: str


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


def way_to(url: str) -> Way:
    """Return where to connect to first for an HTTPS URL, as the API's client does."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    proxy = proxy_for(url)
    if proxy is None:
        return Way(host, port, None)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return Way(through.hostname or "", through.port or 80, through)


def why_unresolved(host: str) -> str | None:
    """Return why a host name cannot be resolved, or None if it can."""
    try:
        _within(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or "not a valid host name"
    return None


def ask_api(url: str, ca_file: Path | None) -> ApiAnswer:
    """Ask an API for its health. If it is not trusted, ask again, to see who issued its certificate.

    Raises nothing: what could not be found out is None.
    """
    try:
        tls, date = _within(lambda: _exchange(url, trust_anchors.context(ca_file)))
        return ApiAnswer(tls, _ahead(date))
    except ssl.SSLCertVerificationError as error:
        seen: list[str] = []
        try:
            _, date = _within(lambda: _exchange(url, _trusting(), seen.append))
        except (OSError, ValueError, http.client.HTTPException):
            date = None
        return ApiAnswer(_distrust(error, seen), _ahead(date))
    except (OSError, ValueError, http.client.HTTPException, UsageError):
        return ApiAnswer(None, None)


def shake_hands(host: str, port: int, ca_file: Path | None, *, tls13: bool) -> Negotiated | Distrust | str:
    """Begin a TLS handshake with a broker, without a certificate of our own.

    TLS 1.2 ends when the broker requests one and gets none; by then the version and cipher suite are negotiated and the
    broker's certificate is checked (RFC 5246 §7.3). In TLS 1.3 the handshake completes on this side (RFC 8446 §2).

    Args:
        host: the name that its certificate must contain.
        port: TCP port.
        ca_file: as for ``trust_anchors.pem``.
        tls13: whether TLS 1.3 is offered as well as 1.2.

    Returns:
        What was negotiated, or why its certificate is not trusted, or what else failed.
    """
    context = trust_anchors.context(ca_file)
    if not tls13:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        return _within(lambda: _agreed(host, port, context))
    except ssl.SSLCertVerificationError as error:
        seen: list[str] = []
        # With TLS 1.3 if the broker has it: then its certificate can be seen although it gets none from us.
        with suppress(OSError, ValueError):
            _within(lambda: _agreed(host, port, _trusting(), seen.append))
        return _distrust(error, seen)
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)


def _exchange(
    url: str, context: ssl.SSLContext, show_issuer: Callable[[str], None] = lambda _: None
) -> tuple[Negotiated, datetime | None]:
    parts, way = urlsplit(url), way_to(url)
    connection = http.client.HTTPSConnection(way.host, way.port, timeout=_STEP_SECONDS, context=context)
    if way.proxy is not None:
        connection.set_tunnel(parts.hostname or "", parts.port or 443, _credentials(way.proxy))
    try:
        connection.connect()
        tls: ssl.SSLSocket = connection.sock
        show_issuer(_issuer(tls.getpeercert(binary_form=True)))
        name, version, _ = tls.cipher() or ("", "", 0)
        connection.request("GET", f"{parts.path.rstrip('/')}{HEALTH}")
        date = connection.getresponse().getheader("Date")
    finally:
        connection.close()
    return Negotiated(version, name), _moment(date)


def _agreed(
    host: str, port: int, context: ssl.SSLContext, show_issuer: Callable[[str], None] = lambda _: None
) -> Negotiated:
    with (
        socket.create_connection((host, port), _STEP_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False) as tls,
    ):
        try:
            tls.do_handshake()
            show_issuer(_issuer(tls.getpeercert(binary_form=True)))
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError:
            # No cipher suite: there was no ServerHello.
            if tls.cipher() is None:
                raise
        name, version, _ = tls.cipher() or ("", "", 0)
    return Negotiated(version, name)


def _trusting() -> ssl.SSLContext:
    """Return a context that trusts every server, to look at one that is not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _distrust(error: ssl.SSLCertVerificationError, issuers: list[str]) -> Distrust:
    return Distrust(
        reason=error.verify_message,
        issuer=issuers[0] if issuers else "",
        is_untimely=error.verify_code in _UNTIMELY,
        is_another_authority=error.verify_code in _ANOTHER_AUTHORITY,
    )


def _issuer(der: bytes | None) -> str:
    """Return a certificate's issuer for a person to read, without control characters."""
    if der is None:
        return ""
    try:
        text = str(read_certificate(ssl.DER_cert_to_PEM_cert(der)).issuer.human_friendly)
    except (ForeignCertificateError, ValueError):
        return ""
    return printable(text)


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode('ascii')}"}


def _moment(date: str | None) -> datetime | None:
    try:
        return None if date is None else parsedate_to_datetime(date).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _ahead(date: datetime | None) -> timedelta | None:
    return None if date is None else datetime.now(UTC) - date


def _within(call: Callable[[], T]) -> T:
    return within(WHOLE_SECONDS, call)
