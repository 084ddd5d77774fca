"""Names, and handshakes that ask what TLS is like at the other end. Nothing of this device's is shown to it.

Each answer is waited for no longer than half a minute, however slowly it comes.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from hsm_enroll.backend_api.client import HEALTH
from hsm_enroll.errors import ForeignCertificateError
from hsm_enroll.iot import trust
from hsm_enroll.x509.certificate import read_certificate

_STEP_SECONDS = 10.0
_WHOLE_SECONDS = 30.0
# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h).
_UNTIMELY = {9, 10}
# ..._DEPTH_ZERO_SELF_SIGNED_CERT, _SELF_SIGNED_CERT_IN_CHAIN, _UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
# _UNABLE_TO_VERIFY_LEAF_SIGNATURE.
_ANOTHER_AUTHORITY = {18, 19, 20, 21}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Way:
    """Whom a connection to the API is made to first: the API itself, or the proxy that the environment names.

    Attributes:
        host: name or address.
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
        reason: in OpenSSL's words.
        issuer: who issued the certificate, or "" where that was not to be seen.
        is_untimely: whether it is a matter of its dates.
        is_another_authority: whether the chain ends elsewhere than it should.
    """

    reason: str
    issuer: str
    is_untimely: bool
    is_another_authority: bool


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What a handshake agreed on: the names of version and cipher suite."""

    version: str
    cipher: str


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What the API's end is like.

    Attributes:
        tls: what was negotiated, the reason for distrust, or None where no connection came about.
        clock_error: how far this clock is ahead of the answer's Date (RFC 9110 §6.6.1), or None without one. An answer
            of a server that is not trusted counts too: a clock that is wrong is what makes it so.
    """

    tls: Negotiated | Distrust | None
    clock_error: timedelta | None


def way_to(url: str) -> Way:
    """Return whom to connect to first for an HTTPS URL, as ``requests`` would."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(f"{host}:{port}"):
        return Way(host, port, None)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return Way(through.hostname or "", through.port or 80, through)


def why_unresolved(host: str) -> str | None:
    """Return why a host has no address, or None where it has one."""
    try:
        _within(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or "it is no name"
    return None


def ask_api(url: str, ca_file: Path | None) -> ApiAnswer:
    """Ask an API for its health, twice where it is not trusted: the second time to see whom it is from.

    Raises nothing: what cannot be had is None.
    """
    try:
        tls, date = _within(lambda: _exchange(url, trust.context(ca_file)))
        return ApiAnswer(tls, _ahead(date))
    except ssl.SSLCertVerificationError as error:
        seen: list[str] = []
        try:
            _, date = _within(lambda: _exchange(url, _trusting(), seen.append))
        except (OSError, ValueError, http.client.HTTPException):
            date = None
        return ApiAnswer(_distrust(error, seen), _ahead(date))
    except (OSError, ValueError, http.client.HTTPException):
        return ApiAnswer(None, None)


def shake_hands(host: str, port: int, ca_file: Path | None, *, tls13: bool) -> Negotiated | Distrust | str:
    """Shake hands with a broker without a certificate of our own, as far as it goes.

    TLS 1.2 ends where the broker asks for one and gets none, with version and cipher suite agreed on and the broker's
    certificate checked (RFC 5246 §7.3); in TLS 1.3 the handshake is complete on this side (RFC 8446 §2).

    Args:
        host: what its certificate must hold.
        port: TCP port.
        ca_file: PEM file with the trust anchors; None is the system's.
        tls13: whether TLS 1.3 is offered beside 1.2.

    Returns:
        What was agreed on, or why its certificate is not trusted, or what else was wrong.
    """
    context = trust.context(ca_file)
    if not tls13:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        return _within(lambda: _agreed(host, port, context))
    except ssl.SSLCertVerificationError as error:
        seen: list[str] = []
        # With TLS 1.3, where the broker has it: then its certificate can be seen though it gets none of ours.
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
            # No cipher suite: it did not come to a ServerHello.
            if tls.cipher() is None:
                raise
        name, version, _ = tls.cipher() or ("", "", 0)
    return Negotiated(version, name)


def _trusting() -> ssl.SSLContext:
    """Return a context that trusts everybody, to look at whom it is that is not trusted."""
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
    """Return a certificate's issuer for people to read, without what might steer their terminal."""
    if der is None:
        return ""
    try:
        text = str(read_certificate(ssl.DER_cert_to_PEM_cert(der)).issuer.human_friendly)
    except (ForeignCertificateError, ValueError):
        return ""
    return "".join(character if character.isprintable() else "?" for character in text[:200])


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


def _within(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own and wait for it half a minute: time-outs of sockets begin anew each byte.

    Raises:
        TimeoutError: it took longer; the thread is left behind.
        Exception: what the function raises.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except Exception as error:  # noqa: BLE001 - raised again below, in the thread that asked
            outcome.set_exception(error)

    threading.Thread(target=run, name="hsm-enroll-doctor", daemon=True).start()
    return outcome.result(_WHOLE_SECONDS)
