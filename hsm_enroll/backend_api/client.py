"""The HTTP side: the enrollment API's contract as one client (``INTERFACE``: HTTP API; RFC 9457 for its errors).

Everything that is not exactly an answer of ours is refused by name: a captive portal's page, a redirect, an answer
that is too long or never ends. Redirects are not followed, so an enrollment code is never sent to another host.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests import exceptions as http
from urllib3 import exceptions as transport

from hsm_enroll.backend_api.deadline import within
from hsm_enroll.errors import (
    ApiTlsError,
    BackendRefusedError,
    BackendUnreachableError,
    ForeignAnswerError,
    HsmEnrollError,
    ThrottledError,
    UsageError,
)
from hsm_enroll.secret import Secret
from hsm_enroll.version import __version__

CERTIFICATES = "/v1/certificates"
HEALTH = "/v1/health"

# Subclasses first.
_NOT_CONNECTED: dict[type[Exception], str] = {
    transport.NameResolutionError: "its name cannot be resolved",
    transport.NewConnectionError: "nothing accepts connections there",
    transport.ConnectTimeoutError: "nothing answers there",
    transport.ProxyError: "the proxy does not let it through",
}

_MAXIMUM_ANSWER_BYTES = 64 * 1024
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 35.0  # API Gateway ends an integration after 30 s
_TRIES = 4
# By status, the first try included; every other answer is final. A fault of the API's own (500) is rarely gone in a
# second, unless the runtime died under it.
_TRIES_AT_STATUS = {429: _TRIES, 500: 2, 502: _TRIES, 503: _TRIES, 504: _TRIES}
_BACKOFF_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 20.0

# What a technician can do about a refusal, by the API's problem code; any other is the operator's to explain.
_REFUSAL_HINTS = {
    "invite-required": "Give the invite: hsm-enroll init INVITE. If you have none, ask the operator for one.",
    "invite-invalid": "Ask the operator for a new invite: this one is used, has expired, or is for another Thing.",
    "attestation-required": (
        "This version cannot give that proof. Ask the operator for an invite that is not bound to a TPM."
    ),
    "thing-enrolled": (
        "If this device is to take that Thing's place, ask the operator to run hsm-enroll fleet revoke THING and to "
        "give you a new invite; then run the same command again with it."
    ),
    "key-enrolled": (
        "Give the Thing's name that this key was enrolled for, or make a new key: hsm-enroll init --new-key INVITE."
    ),
    "thing-revoked": "Ask the operator for a new invite, then run: hsm-enroll init --new-key INVITE.",
    "thing-exists": (
        "Check the Thing's name. If it is right, ask the operator for an invite that may take over an existing Thing."
    ),
}
_IN_PROGRESS_HINT = "Wait a minute, then run the same command again: it resumes."


@dataclass(frozen=True, slots=True)
class Issued:
    """What the API answers when it has issued a certificate.

    Does *not* promise that the certificate is for this device's key; the caller compares.
    """

    certificate_pem: str
    certificate_id: str
    thing_name: str
    mqtt_endpoint: str
    mqtt_port: int
    attested: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    media_type: str
    body: bytes
    retry_after: str


class EnrollmentClient:
    """One enrollment API.

    Args:
        base_url: ``https://…``, with or without a trailing slash.
        code: the enrollment code, sent as a bearer token (RFC 6750 §2.1); None in an open deployment.
        ca_file: PEM trust anchors; None is the system's (or what ``REQUESTS_CA_BUNDLE`` names).
        deadline: seconds until a single request is given up, however slowly its answer trickles in.
        sleep: waits between tries; an argument so that tests need not wait.

    Raises:
        UsageError: the URL is no HTTPS URL, or the CA file does not exist.
    """

    def __init__(
        self,
        base_url: str,
        *,
        code: Secret | None = None,
        ca_file: Path | None = None,
        deadline: float = 45.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base_url = _checked(base_url)
        if ca_file is not None and not os.path.isfile(ca_file):  # noqa: PTH113 - unlike is_file it never raises
            raise UsageError(f"the CA file {ca_file} does not exist", hint="Check HSM_ENROLL_CA_FILE.")
        self._verify: str | bool = True if ca_file is None else str(ca_file)
        self._code = code
        self._deadline = deadline
        self._sleep = sleep
        self._is_abandoned = False

    @property
    def base_url(self) -> str:
        """The API's URL, without a trailing slash."""
        return self._base_url

    def enroll(self, csr: str, thing_name: str) -> Issued:
        """Ask for a certificate (``POST /v1/certificates``).

        The API answers the same code, Thing and key with the same certificate, so a request whose answer was lost is
        repeated as it was: four tries in all where nothing or half an answer came, and after 429, 502, 503 and 504; two
        after 500. Between them it waits for what Retry-After asks, and a random time on top that doubles its limit each
        time (full jitter). A Retry-After of more than 20 s is not waited for. One request is under way at a time: one
        that the deadline gave up is not repeated, since it may yet arrive. Never repeated: a redirect, a page that is
        none of ours, a server that is not trusted.

        Args:
            csr: PEM.
            thing_name: the Thing to be.

        Raises:
            BackendUnreachableError, ThrottledError: try later.
            BackendRefusedError: with the API's own reason.
            ForeignAnswerError, ApiTlsError: it was not the API that answered.
        """
        body = {"csr": csr, "thingName": thing_name}
        answer = self._retried(lambda: self._request("POST", CERTIFICATES, body))
        if answer.status not in {200, 201}:
            raise self._refusal(answer)
        return self._issued(answer, thing_name)

    def health(self) -> str:
        """Return the backend's version (``GET /v1/health``); one try.

        Raises:
            HsmEnrollError: as :meth:`enroll`.
        """
        answer = self._request("GET", HEALTH, None)
        if answer.status != 200:
            raise self._refusal(answer)
        version = self._document(answer).get("version")
        if not isinstance(version, str):
            raise self._foreign("it tells no version")
        return version

    def _retried(self, send: Callable[[], _Answer]) -> _Answer:
        for attempt in range(1, _TRIES + 1):
            asked = 0.0
            try:
                answer = send()
            except BackendUnreachableError:
                if attempt == _TRIES or self._is_abandoned:
                    raise
            else:
                asked = _seconds(answer.retry_after)
                if attempt >= _TRIES_AT_STATUS.get(answer.status, 0) or asked > _LONGEST_WAIT_SECONDS:
                    return answer
            longest = min(_LONGEST_WAIT_SECONDS, _BACKOFF_SECONDS * 2 ** (attempt - 1))
            self._sleep(asked + random.uniform(0, longest))  # noqa: S311 - spreads load, guards nothing
        raise AssertionError("the last try returns or raises")

    def _request(self, method: str, path: str, body: object) -> _Answer:
        try:
            return within(self._deadline, lambda: self._exchange(method, path, body))
        except TimeoutError as error:
            self._is_abandoned = True
            raise BackendUnreachableError(
                f"{self._base_url} did not finish its answer within {self._deadline:.0f} s"
            ) from error

    def _exchange(self, method: str, path: str, body: object) -> _Answer:
        try:
            with requests.Session() as session, self._send(session, method, path, body) as response:
                return _Answer(
                    status=response.status_code,
                    media_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                    body=self._limited(response),
                    retry_after=response.headers.get("Retry-After", ""),
                )
        except http.SSLError as error:
            raise ApiTlsError(f"{self._base_url} shows a certificate that is not trusted here") from error
        except (http.ConnectTimeout, http.ConnectionError) as error:
            raise self._connection_failure(error) from error
        except (http.Timeout, http.ChunkedEncodingError) as error:
            raise BackendUnreachableError(f"{self._base_url} did not answer: {type(error).__name__}") from error
        except http.ContentDecodingError as error:
            raise self._foreign("its encoding is broken") from error
        except (http.InvalidURL, http.InvalidSchema, transport.LocationValueError) as error:
            raise UsageError(f"the API's address or the proxy's cannot be used: {self._base_url}") from error
        except (http.RequestException, transport.HTTPError, OSError, ValueError) as error:
            raise BackendUnreachableError(f"{self._base_url} cannot be asked: {type(error).__name__}") from error

    def _send(self, session: requests.Session, method: str, path: str, body: object) -> requests.Response:
        headers = {
            "Accept": "application/json, application/problem+json",
            "User-Agent": f"hsm-enroll/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        return session.request(
            method,
            self._base_url + path,
            data=None if body is None else json.dumps(body).encode("utf-8"),
            headers=headers,
            # Given as ``auth``, since requests would else take a password for this host from ~/.netrc.
            auth=_authorization(self._code),
            timeout=(_CONNECT_SECONDS, _READ_SECONDS),
            allow_redirects=False,
            # Given with the request: a session's own value yields to REQUESTS_CA_BUNDLE.
            verify=self._verify,
            stream=True,
        )

    def _connection_failure(self, error: http.ConnectionError) -> HsmEnrollError:
        # urllib3 wraps what happened before the connection stood; anything else broke with the request on its way.
        reason = getattr(error.args[0] if error.args else None, "reason", None)
        text = f"{self._base_url} cannot be reached"
        for kind, meaning in _NOT_CONNECTED.items():
            if isinstance(reason, kind):
                return BackendUnreachableError(f"{text}: {meaning}", sent=False)
        return BackendUnreachableError(f"{text}: the connection broke before an answer came")

    def _limited(self, response: requests.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(8192):
            body += chunk
            if len(body) > _MAXIMUM_ANSWER_BYTES:
                raise self._foreign(f"it is longer than {_MAXIMUM_ANSWER_BYTES} bytes")
        return bytes(body)

    def _refusal(self, answer: _Answer) -> HsmEnrollError:
        if 300 <= answer.status < 400:
            return self._foreign("it redirects elsewhere; redirects are not followed")
        if answer.status == 429:
            wait = f"; it asks to wait {answer.retry_after} s" if _seconds(answer.retry_after) else ""
            return ThrottledError(f"{self._base_url} is busy{wait}")
        problem = self._problem(answer)
        detail = f"{problem['detail']} ({problem['code']})" if problem else f"status {answer.status}"
        if answer.status >= 500:
            busy = bool(problem) and problem["code"] == "enrollment-in-progress"
            hint = _IN_PROGRESS_HINT if busy else None
            return BackendUnreachableError(f"{self._base_url} cannot do it at the moment: {detail}", hint=hint)
        if not problem:
            return self._foreign(f"it refuses with status {answer.status} and no reason of ours")
        return BackendRefusedError(
            f"{self._base_url} refused: {detail}",
            problem_code=problem["code"],
            request_id=problem["requestId"],
            hint=_REFUSAL_HINTS.get(problem["code"]),
        )

    def _problem(self, answer: _Answer) -> dict[str, str]:
        """Return detail, code and request id of an RFC 9457 document, or {} where the answer is none of ours."""
        if answer.media_type != "application/problem+json":
            return {}
        document = self._document(answer)
        members = {name: document.get(name) for name in ("detail", "code", "requestId")}
        if not isinstance(members["code"], str):
            return {}
        return {name: _printable(value) if isinstance(value, str) else "" for name, value in members.items()}

    def _issued(self, answer: _Answer, thing_name: str) -> Issued:
        document = self._document(answer)
        try:
            issued = Issued(
                certificate_pem=document["certificatePem"],
                certificate_id=document["certificateId"],
                thing_name=document["thingName"],
                mqtt_endpoint=document["mqttEndpoint"],
                mqtt_port=document["mqttPort"],
                attested=document["attested"],
            )
        except KeyError as error:
            raise self._foreign(f"{error} is missing") from error
        texts = (issued.certificate_pem, issued.certificate_id, issued.thing_name, issued.mqtt_endpoint)
        if not all(isinstance(text, str) and text for text in texts):
            raise self._foreign("its members are not what they should be")
        if type(issued.mqtt_port) is not int or not 0 < issued.mqtt_port < 65536 or type(issued.attested) is not bool:
            raise self._foreign("its members are not what they should be")
        if issued.thing_name != thing_name:
            raise self._foreign(f"it is for another Thing, {_printable(issued.thing_name)!r}")
        return issued

    def _document(self, answer: _Answer) -> dict[str, Any]:
        if answer.media_type not in {"application/json", "application/problem+json"}:
            raise self._foreign(f"it is {answer.media_type or 'of no type'}, not JSON")
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._foreign("it is not JSON, or was cut off") from error
        if not isinstance(document, dict):
            raise self._foreign("it is no JSON object")
        return document

    def _foreign(self, why: str) -> ForeignAnswerError:
        return ForeignAnswerError(f"what {self._base_url} answered is not an enrollment API's answer: {why}")


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError as error:
        raise UsageError("the API's address is not a URL") from error
    if parts.scheme != "https" or not parts.hostname or not port_is_valid:
        raise UsageError("the API's address has to be an https:// URL", hint="Check --api and HSM_ENROLL_API_URL.")
    if parts.username or parts.query or parts.fragment:
        raise UsageError("the API's address may hold a host, a port and a path, nothing else")
    return url.rstrip("/")


def _authorization(code: Secret | None) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if code is not None:
            request.headers["Authorization"] = f"Bearer {code.reveal()}"
        return request

    return authorize


def _seconds(retry_after: str) -> float:
    """Read Retry-After's delay-seconds (RFC 9110 §10.2.3); an HTTP date or junk counts as none."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 8 else 0.0


def _printable(text: str) -> str:
    """Keep a stranger's text from steering the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:300])
