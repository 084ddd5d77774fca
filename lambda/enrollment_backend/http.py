"""API Gateway HTTP API, payload format 2.0: reads events, builds responses, and turns errors into problem documents.

An error response is `application/problem+json` (RFC 9457 §3). Its `type` is ``about:blank`` (§4.2.1); programs tell
problems apart by the extension member `code`, which is stable. This module does not know which routes exist.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from enrollment_backend import log
from enrollment_backend.attestation.errors import AttestationRefusedError
from enrollment_backend.aws_errors import (
    AwsRefusedError,
    AwsResponseInvalidError,
    CertificateNotForKeyError,
    ThingExistsError,
    ThrottledError,
)
from enrollment_backend.errors import (
    AttestationRequiredError,
    ClientCertificateRequiredError,
    ClientCertificateUnknownError,
    ConflictError,
    EkAuthorityUnknownError,
    EkUnlistedError,
    EnrollmentError,
    EnrollmentQueuedError,
    ExistingThingsNotAllowedError,
    InviteInvalidError,
    InviteRequiredError,
    InviteUnknownError,
    OperatorRequiredError,
    RenewalsLimitedError,
    RequestRefusedError,
    RetryableError,
    SweepStoppedError,
    ThingUnknownError,
)
from enrollment_backend.proof_errors import ProofRefusedError
from enrollment_backend.strict_json import parse_object

MAX_BODY_BYTES = 16 * 1024
_PROOF = "application/jose"  # RFC 7515 §9.2.1
_MAX_BASE64_CHARACTERS = (MAX_BODY_BYTES + 2) // 3 * 4

Event = Mapping[str, Any]
GatewayResponse = dict[str, Any]
"""What a Lambda function returns to API Gateway, in payload format 2.0."""


class NotFoundError(EnrollmentError):
    """There is no route with this path."""

    code = "not-found"
    detail = "There is nothing at this path."


class MethodNotAllowedError(EnrollmentError):
    """The route does not support this method.

    Args:
        allow: the methods it supports, as the header Allow lists them.
    """

    code = "method-not-allowed"
    detail = "This path does not support this method."

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class MediaTypeError(EnrollmentError):
    """The Content-Type is not what the route expects.

    Args:
        expected: the media type that it expects; appears in `detail`.
    """

    code = "media-type-unsupported"

    def __init__(self, expected: str) -> None:
        self.detail = f"The Content-Type must be {expected}."
        super().__init__()


class BodyTooLargeError(EnrollmentError):
    """The body exceeds 16 KiB."""

    code = "body-too-large"
    detail = "The body is larger than 16 KiB."


class BodyBase64Error(RequestRefusedError):
    """The event claims that its body is base64, and it is not."""

    code = "body-base64-invalid"
    detail = "The body is not valid base64."


# An error gets the status of its nearest base class in this map.
_STATUS: dict[type[EnrollmentError], HTTPStatus] = {
    RequestRefusedError: HTTPStatus.BAD_REQUEST,
    InviteRequiredError: HTTPStatus.UNAUTHORIZED,
    InviteInvalidError: HTTPStatus.UNAUTHORIZED,
    ProofRefusedError: HTTPStatus.UNAUTHORIZED,
    AttestationRequiredError: HTTPStatus.FORBIDDEN,
    AttestationRefusedError: HTTPStatus.FORBIDDEN,
    ClientCertificateRequiredError: HTTPStatus.FORBIDDEN,
    ClientCertificateUnknownError: HTTPStatus.FORBIDDEN,
    OperatorRequiredError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ThingUnknownError: HTTPStatus.NOT_FOUND,
    InviteUnknownError: HTTPStatus.NOT_FOUND,
    EkUnlistedError: HTTPStatus.NOT_FOUND,
    EkAuthorityUnknownError: HTTPStatus.NOT_FOUND,
    MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
    ConflictError: HTTPStatus.CONFLICT,
    ThingExistsError: HTTPStatus.CONFLICT,
    ExistingThingsNotAllowedError: HTTPStatus.CONFLICT,
    SweepStoppedError: HTTPStatus.CONFLICT,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ThrottledError: HTTPStatus.TOO_MANY_REQUESTS,
    # Not 503, which would raise the alarm on 5xx: a queue is no failure.
    EnrollmentQueuedError: HTTPStatus.TOO_MANY_REQUESTS,
    RenewalsLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    AwsRefusedError: HTTPStatus.BAD_GATEWAY,
    AwsResponseInvalidError: HTTPStatus.BAD_GATEWAY,
    CertificateNotForKeyError: HTTPStatus.BAD_GATEWAY,
    RetryableError: HTTPStatus.SERVICE_UNAVAILABLE,
    EnrollmentError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True)
class Response:
    """An HTTP response.

    Attributes:
        status: its status.
        media_type: the body's media type.
        body: the body, which is text.
        headers: additional headers, with names in lower case.
    """

    status: HTTPStatus
    media_type: str = "application/json"
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


Endpoint = Callable[[Event], Response]
Routes = Mapping[str, Mapping[str, Endpoint]]
"""Endpoints by path, then by method."""


def request_id_of(event: Event, context: object) -> str:
    """Return API Gateway's id of the request, else Lambda's, else ``unknown``."""
    candidate = _request_context(event).get("requestId")
    if isinstance(candidate, str) and candidate:
        return candidate
    return str(getattr(context, "aws_request_id", "unknown"))


def handle(event: Event, routes: Routes, request_id: str) -> GatewayResponse:
    """Respond to one request, and write one log line about it.

    Args:
        event: API Gateway HTTP API event, payload format 2.0.
        routes: the endpoints to call.
        request_id: appears in problem documents, so that the caller can name the request to the operator.

    Returns:
        The response for API Gateway; an EnrollmentError becomes a problem document.

    Raises:
        Exception: any other error that an endpoint raises.
    """
    route = "none"
    try:
        path, method = str(event.get("rawPath")), _method(event)
        if path not in routes:
            raise NotFoundError
        route = path
        if method not in routes[path]:
            raise MethodNotAllowedError(allow=", ".join(routes[path]))
        response = routes[path][method](event)
    except EnrollmentError as error:
        response = _problem(error, request_id)
        failed = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        log.request(route=route, status=response.status.value, outcome=error.code, failed=failed, **error.facts)
    else:
        log.request(route=route, status=response.status.value, outcome="ok", failed=False)
    return _gateway_response(response)


def internal_error(request_id: str) -> GatewayResponse:
    """Return a 500 with the code ``internal``, which does not reveal the cause."""
    return _gateway_response(_problem(EnrollmentError(), request_id))


def json_response(status: HTTPStatus, content: dict[str, Any]) -> Response:
    """Return a response whose body is a JSON object."""
    return Response(status, body=json.dumps(content))


def timestamp(seconds: float) -> str:
    """Return a time, given in seconds since the epoch, in the format of RFC 3339 §5.6, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_body(event: Event) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        MediaTypeError: the Content-Type is not JSON.
        BodyTooLargeError, RequestRefusedError: from `body_of` and `strict_json.parse_object`.
    """
    _check_media_type(event, "application/json")
    return parse_object(body_of(event))


def is_proof(event: Event) -> bool:
    """Whether the body is announced as a JWS in compact serialization (RFC 7515 §9.2.1)."""
    return _media_type(event) == _PROOF


def proof_body(event: Event) -> bytes:
    """Return the body of a request that has to be a JWS in compact serialization, for `proof.read`.

    Raises:
        MediaTypeError: the Content-Type is not that of a JWS.
        BodyTooLargeError, BodyBase64Error: from `body_of`.
    """
    return typed_body(event, _PROOF)


def typed_body(event: Event, media_type: str) -> bytes:
    """Return the body of a request that has to be of a media type, given in lower case; errors as `proof_body`."""
    _check_media_type(event, media_type)
    return body_of(event)


def client_certificate(event: Event) -> str | None:
    """Return the certificate, in PEM, with which the client authenticated itself to API Gateway (mutual TLS).

    None if the domain name that was called does not ask for one. API Gateway has verified that the client has the
    certificate's key, and that one of the CAs in its truststore issued it; it has not looked for a revocation.
    """
    authentication = _request_context(event).get("authentication")
    presented = authentication.get("clientCert") if isinstance(authentication, Mapping) else None
    pem = presented.get("clientCertPem") if isinstance(presented, Mapping) else None
    return pem if isinstance(pem, str) and pem else None


def called_url(event: Event) -> str:
    """Return the URL that was called, ``https://HOST/PATH`` without query, with the host in lower case.

    API Gateway says which of its own domain names, and which path under it, a request was sent to. An event that says
    neither, as somebody may pass to the function without API Gateway, gets a URL that nobody can have called.

    An HTTP API's event lacks the path that the API may be mapped to below a custom domain name, and so does the result.
    """
    context = _request_context(event)
    http = context.get("http")
    path = http.get("path") if isinstance(http, Mapping) else None
    return f"https://{str(context.get('domainName', '')).lower()}{path or ''}"


def _request_context(event: Event) -> Mapping[str, Any]:
    context = event.get("requestContext")
    return context if isinstance(context, Mapping) else {}


def _method(event: Event) -> str:
    http = _request_context(event).get("http")
    return str(http.get("method", "")) if isinstance(http, Mapping) else ""


def header(event: Event, lowercase_name: str) -> str | None:
    """Return a header's value; None if it is missing."""
    headers = event.get("headers") or {}
    return next((str(value) for name, value in headers.items() if name.lower() == lowercase_name), None)


def parameter(event: Event, name: str) -> str | None:
    """Return a query parameter's decoded value, None if it is missing; repeated ones are joined by commas."""
    parameters = event.get("queryStringParameters") or {}
    value = parameters.get(name)
    return None if value is None else str(value)


def operator_of(event: Event) -> str:
    """Return the ARN of the IAM identity whose signature API Gateway verified.

    Raises:
        OperatorRequiredError: API Gateway verified no signature.
    """
    authorizer = _request_context(event).get("authorizer")
    identity = authorizer.get("iam") if isinstance(authorizer, Mapping) else None
    arn = identity.get("userArn") if isinstance(identity, Mapping) else None
    if not isinstance(arn, str) or not arn:
        raise OperatorRequiredError
    return arn


def _check_media_type(event: Event, expected: str) -> None:
    """Check the media type without its parameters, which neither JSON nor JOSE has (RFC 8259 §11, RFC 7515 §9.2.1)."""
    if _media_type(event) != expected:
        raise MediaTypeError(expected)


def _media_type(event: Event) -> str:
    return (header(event, "content-type") or "").partition(";")[0].strip().lower()


def body_of(event: Event) -> bytes:
    """Return the body's bytes.

    Raises:
        BodyTooLargeError: it is larger than 16 KiB; it is then not even decoded.
        BodyBase64Error: it is not valid base64, as the event claims.
    """
    body = event.get("body") or ""
    if event.get("isBase64Encoded"):
        if len(body) > _MAX_BASE64_CHARACTERS:
            raise BodyTooLargeError
        try:
            content = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BodyBase64Error from error
    else:
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError
        # A lone surrogate cannot be encoded in UTF-8. Passed through, it is refused like any other invalid UTF-8.
        content = body.encode("utf-8", "surrogatepass")
    if len(content) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    return content


def status_of(kind: type[EnrollmentError]) -> HTTPStatus:
    """Return the status that errors of a class get."""
    return next(_STATUS[base] for base in kind.__mro__ if base in _STATUS)


def _problem(error: EnrollmentError, request_id: str) -> Response:
    status = status_of(type(error))
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": error.detail,
        "code": error.code,
        "requestId": request_id,
    }
    return Response(status, "application/problem+json", json.dumps(content), _problem_headers(error))


def _problem_headers(error: EnrollmentError) -> dict[str, str]:
    if isinstance(error, RetryableError):
        return {"retry-after": str(error.retry_after)}  # seconds, RFC 9110 §10.2.3
    if isinstance(error, MethodNotAllowedError):
        return {"allow": error.allow}  # RFC 9110 §15.5.6
    if isinstance(error, InviteRequiredError | InviteInvalidError):
        return {"www-authenticate": error.challenge}  # RFC 9110 §15.5.2
    if isinstance(error, ProofRefusedError):
        return {"www-authenticate": "Proof"}  # not a registered scheme: none has its credentials in the body
    return {}


def _gateway_response(response: Response) -> GatewayResponse:
    content_type = {"content-type": response.media_type} if response.body else {}
    return {
        "statusCode": response.status.value,
        "headers": {**content_type, "cache-control": "no-store", **response.headers},
        "body": response.body,
        "isBase64Encoded": False,
    }
