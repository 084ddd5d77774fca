"""DNS lookups, and TLS handshakes with a server that show what it is like. They present no certificate of ours.

Each takes half a minute at most, however slowly the answer comes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hsm_enroll.backend_api.deadline import within
from hsm_enroll.doctor.tls import Distrust, Negotiated, distrust, issuer_shown, negotiated, trusting_context
from hsm_enroll.x509 import trust_anchors

_STEP_SECONDS = 10.0
_WHOLE_SECONDS = 30.0

T = TypeVar("T")


def why_unresolved(host: str) -> str | None:
    """Return why a host name cannot be resolved, or None if it can."""
    try:
        _within(lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or "not a valid host name"
    return None


def shake_hands(
    host: str, port: int, ca_file: Path | None, *, tls13: bool, alpn: Sequence[str] = ()
) -> Negotiated | Distrust | str:
    """Begin a TLS handshake with a server that wants a certificate, without one of our own.

    TLS 1.2 ends when the server requests one and gets none; by then the version and cipher suite are negotiated and the
    server's certificate is checked (RFC 5246 §7.3). In TLS 1.3 the handshake completes on this side (RFC 8446 §2).

    Args:
        host: the name that its certificate must contain.
        port: TCP port.
        ca_file: as for ``trust_anchors.pem``.
        tls13: whether TLS 1.3 is offered as well as 1.2.
        alpn: the protocols that are offered (RFC 7301); none if it is empty.

    Returns:
        What was negotiated, or why its certificate is not trusted, or what else failed.
    """
    context = trust_anchors.context(ca_file)
    if not tls13:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        return _within(lambda: _agreed(host, port, context, alpn))
    except ssl.SSLCertVerificationError as error:
        seen: list[str] = []
        # With TLS 1.3 if the broker has it: then its certificate can be seen although it gets none from us.
        with suppress(OSError, ValueError):
            _within(lambda: _agreed(host, port, trusting_context(), alpn, seen.append))
        return distrust(error, seen[0] if seen else "")
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)


def _agreed(
    host: str,
    port: int,
    context: ssl.SSLContext,
    alpn: Sequence[str],
    show_issuer: Callable[[str], None] = lambda _: None,
) -> Negotiated:
    if alpn:
        context.set_alpn_protocols(alpn)
    with (
        socket.create_connection((host, port), _STEP_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False) as tls,
    ):
        try:
            tls.do_handshake()
            show_issuer(issuer_shown(tls))
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError:
            # No cipher suite: there was no ServerHello.
            if tls.cipher() is None:
                raise
        return negotiated(tls)


def _within(call: Callable[[], T]) -> T:
    return within(_WHOLE_SECONDS, call)
