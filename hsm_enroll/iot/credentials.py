"""Gets AWS credentials from AWS IoT's credentials provider, over HTTPS with the key in the token.

AWS IoT developer guide, "Authorizing direct calls to AWS services using AWS IoT Core credential provider". awscrt has a
provider of its own for that, but it shows neither the status nor the reason of a refusal.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from awscrt import http, io

from hsm_enroll.errors import (
    ApiTlsError,
    BackendUnreachableError,
    CredentialsRefusedError,
    HsmEnrollError,
    ThrottledError,
    UnexpectedResponseError,
    UsageError,
)
from hsm_enroll.escaping import escaped
from hsm_enroll.iot import client, failures, trust
from hsm_enroll.iot.target import Target
from hsm_enroll.role_alias import RoleAlias
from hsm_enroll.secret import Secret
from hsm_enroll.store.aws_credentials import AwsCredentials

_LARGEST_BODY = 64 * 1024  # bytes; an answer has about two thousand
_LONGEST_QUOTE = 300
# If a handshake takes longer, awscrt may have found that it failed and be delaying the error.
_SUSPICION_SECONDS = 2.0
_TRUST_CHECK_SECONDS = 5.0
_PROXY_PORT = 80
_ALPN = ["http/1.1"]
_SECRET = {"secretAccessKey", "sessionToken"}
_NETWORK_HINT = "Check the endpoint's name, and that this network allows outgoing connections to its port."
# A connection that is cut off, or an alert about the certificate that was lost with it.
_CLOSED = "AWS_IO_SOCKET_CLOSED"
_CLOSED_HINT = (
    "The network failed, or the credentials provider rejects this device's certificate, which hsm-enroll "
    "doctor --login shows."
)
_ALIAS_HINT = (
    "The backend may have another role alias by now, or none: run hsm-enroll recover, which asks it. "
    "HSM_ENROLL_ROLE_ALIAS overrides it."
)
_ROLE_HINT = "Tell the operator of the backend: the role behind the role alias cannot be used."
_THING_HINT = "The certificate is not attached to the Thing any more. Ask the operator of the backend."


class Proxy(NamedTuple):
    """An HTTP proxy that the connection is tunnelled through.

    Attributes:
        host, port: where it listens.
        login: its user name and password; None if it asks for none.
    """

    host: str
    port: int
    login: tuple[str, Secret] | None = None

    @classmethod
    def of_url(cls, url: str | None) -> Proxy | None:
        """Return the proxy that a URL names, with or without ``http://``; None for None.

        Raises:
            UsageError: it is not one that this supports.
        """
        if url is None:
            return None
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port or _PROXY_PORT
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port:
            raise UsageError(
                "the proxy for AWS IoT's credentials provider cannot be used: its URL is not http://HOST:PORT",
                hint="Correct HTTPS_PROXY, or name the provider's host in NO_PROXY.",
            )
        login = None if parts.username is None else (unquote(parts.username), Secret(unquote(parts.password or "")))
        return cls(parts.hostname, port, login)


class Fetched(NamedTuple):
    """Credentials, and what the provider's clock showed with a time zone; None if it did not say."""

    credentials: AwsCredentials
    date: datetime | None


@dataclass
class _Answer:
    """What has arrived of an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray, repr=False)

    def on_response(self, http_stream: Any, status_code: int, headers: Any, **_: Any) -> None:  # noqa: ARG002
        self.status = status_code
        self.headers = {name.lower(): value for name, value in headers}

    def on_body(self, http_stream: Any, chunk: bytes, **_: Any) -> None:
        self.body += chunk
        if len(self.body) > _LARGEST_BODY:
            http_stream.connection.close()


def fetch(target: Target, login: client.Login, alias: RoleAlias, timeout: float, proxy: Proxy | None = None) -> Fetched:
    """Get credentials of the role behind a role alias.

    Args:
        target: whose certificate, and which trust anchors; its endpoint and port are not used.
        login: to the token.
        alias: the role alias, and the credentials provider.
        timeout: seconds for the connection, and again for the answer.
        proxy: what to go through; None connects directly.

    Raises:
        CredentialsRefusedError: the provider refused, and says why.
        BackendUnreachableError, ThrottledError: try later.
        ApiTlsError: this side does not trust the provider.
        UnexpectedResponseError: something other than the provider answered.
    """
    connection = _connected(target, login, alias, timeout, proxy)
    answer = _Answer()
    headers = http.HttpHeaders(
        [("host", alias.endpoint), ("x-amzn-iot-thingname", target.thing_name), ("accept", "application/json")]
    )
    try:
        stream = connection.request(http.HttpRequest("GET", alias.path, headers), answer.on_response, answer.on_body)
        stream.activate()
        _result(stream.completion_future, timeout)
    except TimeoutError as error:
        raise _silent(alias, timeout) from error
    except Exception as error:
        if len(answer.body) <= _LARGEST_BODY:
            raise _unreachable(alias, error) from error
    finally:
        connection.close()
    if len(answer.body) > _LARGEST_BODY:  # all of it may have been there before the connection was closed
        raise _unexpected(alias, "it is too large")
    return _fetched(answer, alias)


def _connected(target: Target, login: client.Login, alias: RoleAlias, timeout: float, proxy: Proxy | None) -> Any:
    tls = io.TlsConnectionOptions(login.context)
    tls.set_server_name(alias.endpoint)
    tls.set_alpn_list(_ALPN)  # instead of MQTT's, which a context for port 443 has
    options = io.SocketOptions()
    options.connect_timeout_ms = int(timeout * 1000)
    future: Future[Any] = http.HttpClientConnection.new(
        alias.endpoint, alias.port, login.bootstrap, options, tls, _proxy_options(proxy)
    )
    deadline = time.monotonic() + timeout
    wait([future], min(timeout, _SUSPICION_SECONDS))
    error = future.exception() if future.done() else None
    if not future.done() or (error is not None and failures.is_handshake_failure(error)):
        _check_trust(target, alias, deadline, proxy)
    try:
        return _result(future, max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        raise _silent(alias, timeout) from error
    except Exception as error:
        raise _of_connecting(error, alias, target) from error


def _proxy_options(proxy: Proxy | None) -> Any:
    if proxy is None:
        return None
    options = http.HttpProxyOptions(proxy.host, proxy.port, connection_type=http.HttpProxyConnectionType.Tunneling)
    if proxy.login is not None:
        options.auth_type = http.HttpProxyAuthenticationType.Basic
        options.auth_username, options.auth_password = proxy.login[0], proxy.login[1].reveal()
    return options


def _check_trust(target: Target, alias: RoleAlias, deadline: float, proxy: Proxy | None) -> None:
    """Raise ApiTlsError if this side does not trust the provider; behind a proxy, that is not found out."""
    if proxy is not None:
        return
    patience = min(_TRUST_CHECK_SECONDS, max(1.0, deadline - time.monotonic()))
    why = trust.why_distrusted(alias.endpoint, alias.port, target.ca_file, patience)
    if why is not None:
        raise ApiTlsError(f"the credentials provider at {alias.provider} is not trusted: {why}")


def _of_connecting(error: BaseException, alias: RoleAlias, target: Target) -> HsmEnrollError:
    name = failures.name_of(error)
    if name.startswith("AWS_ERROR_PKCS11_"):
        return failures.of_token(error, target)
    if failures.is_handshake_failure(error):
        return CredentialsRefusedError(
            f"the credentials provider at {alias.provider} rejected this device's certificate in the TLS handshake "
            f"({name})"
        )
    if name == _CLOSED:
        return BackendUnreachableError(
            f"{alias.provider} closed the connection in the TLS handshake ({name})", hint=_CLOSED_HINT
        )
    return _unreachable(alias, error)


def _result(future: Future[Any], timeout: float) -> Any:
    """Return a future's result; TimeoutError if there is none in time."""
    if not wait([future], timeout).done:
        raise TimeoutError
    return future.result()


def _fetched(answer: _Answer, alias: RoleAlias) -> Fetched:
    if answer.status != 200:
        raise _refusal(answer, alias)
    members = _json(answer).get("credentials")
    if not isinstance(members, dict):
        raise _unexpected(alias, "it has no credentials")
    try:
        credentials = AwsCredentials.of_answer(members)
    except ValueError:
        # Without the cause: the locals of its frames hold the credentials.
        raise _unexpected(alias, "a member is missing or invalid") from None
    return Fetched(credentials, _date(answer.headers.get("date", "")))


def _refusal(answer: _Answer, alias: RoleAlias) -> HsmEnrollError:
    provider = f"the credentials provider at {alias.provider}"
    message = _json(answer).get("message")
    if not isinstance(message, str):
        if answer.status >= 500:
            return BackendUnreachableError(f"{provider} failed: status {answer.status}", hint="Try again later.")
        return _unexpected(alias, f"status {answer.status}")
    reason = escaped(message[:_LONGEST_QUOTE])
    if answer.status == 429 or "Throttling" in answer.headers.get("x-amzn-errortype", ""):
        return ThrottledError(f"{provider} is busy: {reason}")
    if answer.status >= 500:
        return BackendUnreachableError(f"{provider} failed: {reason}", hint="Try again later.")
    refused = f"{provider} refused the role alias {alias.name!r}: {reason}"
    if answer.status == 404:
        return CredentialsRefusedError(refused, hint=_ALIAS_HINT)
    if answer.status == 400:
        return CredentialsRefusedError(refused, hint=_ROLE_HINT)
    if "thing name" in reason:
        return CredentialsRefusedError(refused, hint=_THING_HINT)
    return CredentialsRefusedError(refused)


def _json(answer: _Answer) -> dict[str, Any]:
    try:
        parsed = json.loads(answer.body, object_hook=_with_secrets)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _with_secrets(members: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Secret(value) if name in _SECRET and isinstance(value, str) else value for name, value in members.items()
    }


def _date(header: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _silent(alias: RoleAlias, timeout: float) -> HsmEnrollError:
    return BackendUnreachableError(
        f"the credentials provider at {alias.provider} does not answer within {round(timeout, 1):g} s",
        hint=_NETWORK_HINT,
    )


def _unreachable(alias: RoleAlias, error: BaseException) -> HsmEnrollError:
    return BackendUnreachableError(
        f"the credentials provider at {alias.provider} cannot be reached ({failures.name_of(error)})",
        hint=_NETWORK_HINT,
    )


def _unexpected(alias: RoleAlias, why: str) -> HsmEnrollError:
    return UnexpectedResponseError(
        f"unexpected response from {alias.provider}: {why}",
        hint="Something other than AWS IoT's credentials provider may answer there: check endpoint and port.",
    )
