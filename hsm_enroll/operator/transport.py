"""One request to the API, signed with SigV4 (AWS Signature Version 4, service ``execute-api``) by botocore."""

from __future__ import annotations

import os
import re
import socket
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from urllib3 import exceptions as http

from hsm_enroll.backend_api.deadline import within
from hsm_enroll.errors import ApiTlsError, BackendUnreachableError, UsageError
from hsm_enroll.operator import aws
from hsm_enroll.operator.answer import Answer, foreign, printable
from hsm_enroll.version import __version__

_MAXIMUM_ANSWER_BYTES = 6 * 1024 * 1024  # a Lambda function cannot answer more
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 35.0  # API Gateway ends an integration after 30 s
_HINT = "Check the network and the API's address, then try again."
_NOT_CONNECTED: dict[type[boto.BotoCoreError], str] = {
    boto.EndpointConnectionError: "nothing accepts connections there",
    boto.ConnectTimeoutError: "nothing answers there",
    boto.ProxyConnectionError: "the proxy does not let it through",
}
_EXECUTE_API_HOST = re.compile(r"[a-z0-9]+\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


class SignedTransport:
    """Sends signed requests to one API. Follows no redirect, tries once.

    Args:
        base_url: ``https://…``, with or without a trailing slash.
        ca_file: PEM trust anchors; None is what AWS's tools use (AWS_CA_BUNDLE, else botocore's own).
        region: AWS region to sign for; None is the one in API Gateway's host name, else the environment's.
        deadline: seconds until a request is given up, however slowly its answer trickles in.

    Raises:
        UsageError: the URL is no HTTPS URL, the CA file does not exist, or no region is known.
    """

    def __init__(self, base_url: str, *, ca_file: Path | None, region: str | None, deadline: float) -> None:
        self.base_url = _checked(base_url)
        self._session = aws.session()
        self._region = region or _region_in(self.base_url) or aws.region(self._session)
        trusted = aws.ca_bundle(self._session) if ca_file is None else str(ca_file)
        if trusted is not None and not os.path.isfile(trusted):  # noqa: PTH113 - unlike is_file it never raises
            raise UsageError(
                f"the CA file {trusted} does not exist", hint="Check HSM_ENROLL_CA_FILE and AWS_CA_BUNDLE."
            )
        self._http = URLLib3Session(
            verify=True if trusted is None else trusted,  # type: ignore[arg-type]  # the stub knows no file
            proxies=get_environ_proxies(self.base_url),
            # Head and body go out as two writes; without it the body waits for the head's acknowledgement (40 ms here).
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # type: ignore[list-item]
            timeout=(_CONNECT_SECONDS, _READ_SECONDS),  # type: ignore[arg-type]  # the stub knows one number
        )
        self._deadline = deadline

    def send(self, method: str, target: str, body: bytes | None) -> Answer:
        """Sign a request and send it.

        It runs in a thread of its own, since a read's time-out starts anew with every byte.

        Args:
            method: of HTTP.
            target: path and query, to be put behind the base URL.
            body: JSON, or None.

        Raises:
            BackendUnreachableError: no whole answer came in time.
            ApiTlsError, ForeignAnswerError: it was not the API that answered.
            UsageError: there are no credentials.
        """
        request = self._signed(method, target, body)
        try:
            return within(self._deadline, lambda: self._exchange(request))
        except TimeoutError as error:
            raise BackendUnreachableError(
                f"{self.base_url} did not finish its answer within {self._deadline:.0f} s", hint=_HINT
            ) from error

    def _signed(self, method: str, target: str, body: bytes | None) -> AWSPreparedRequest:
        headers = {
            "Accept": "application/json, application/problem+json",
            "User-Agent": f"hsm-enroll/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = AWSRequest(method, self.base_url + target, headers=headers, data=body, stream_output=True)
        SigV4Auth(aws.credentials(self._session), "execute-api", self._region).add_auth(request)
        return request.prepare()

    def _exchange(self, request: AWSPreparedRequest) -> Answer:
        try:
            response = self._http.send(request)
            return Answer(
                url=self.base_url,
                status=response.status_code,
                media_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
                body=self._limited(response),
                retry_after=response.headers.get("Retry-After", ""),
                request_id=printable(response.headers.get("apigw-requestid", "")),
            )
        except boto.SSLError as error:
            raise ApiTlsError(f"{self.base_url} shows a certificate that is not trusted here") from error
        except tuple(_NOT_CONNECTED) as error:
            raise self._not_connected(error) from error
        except boto.InvalidProxiesConfigError as error:
            raise UsageError("the proxy's address or configuration cannot be used") from error
        except (boto.ReadTimeoutError, boto.ConnectionClosedError, http.HTTPError, OSError) as error:
            raise BackendUnreachableError(
                f"{self.base_url}: the connection broke before its answer ended", hint=_HINT
            ) from error
        except (boto.HTTPClientError, ValueError) as error:
            raise BackendUnreachableError(
                f"{self.base_url} cannot be asked: {type(error).__name__}", hint=_HINT
            ) from error

    def _not_connected(self, error: boto.BotoCoreError) -> BackendUnreachableError:
        meaning = _NOT_CONNECTED[type(error)]
        if isinstance(error.kwargs.get("error"), http.NameResolutionError):
            meaning = "its name cannot be resolved"
        return BackendUnreachableError(f"{self.base_url} cannot be reached: {meaning}", sent=False, hint=_HINT)

    def _limited(self, response: AWSResponse) -> bytes:
        # Held by no name but a buffer's, which does not show what is in it: a traceback's locals may be printed.
        body = BytesIO()
        while body.write(response.raw.read(8192, decode_content=False)):
            if body.tell() > _MAXIMUM_ANSWER_BYTES:
                response.raw.close()
                raise foreign(self.base_url, f"it is longer than {_MAXIMUM_ANSWER_BYTES} bytes")
        return body.getvalue()


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError as error:
        raise UsageError("the API's address is not a URL") from error
    if parts.scheme != "https" or not parts.hostname or not port_is_valid or not url.isascii() or not url.isprintable():
        raise UsageError("the API's address has to be an https:// URL", hint="Check --api and HSM_ENROLL_API_URL.")
    if parts.username or parts.query or parts.fragment or " " in url:
        raise UsageError("the API's address may hold a host, a port and a path, nothing else")
    return url.rstrip("/")


def _region_in(url: str) -> str | None:
    match = _EXECUTE_API_HOST.fullmatch(urlsplit(url).hostname or "")
    return match[1] if match else None
