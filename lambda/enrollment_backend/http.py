"""API Gateway HTTP API, payload format 2.0: the event taken apart, the answer put together, errors as problems.

A refusal is `application/problem+json` (RFC 9457 §3). Its `type` is ``about:blank`` (§4.2.1): what tells problems apart
is the extension member `code`, which is stable. Which routes there are is not known here.
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
from enrollment_backend.errors import (
    AttestationRequiredError,
    AwsRefusedError,
    CertificateForeignError,
    ConflictError,
    EnrollmentError,
    InviteInvalidError,
    InviteRequiredError,
    InviteUnknownError,
    OperatorRequiredError,
    RequestRefusedError,
    RetryableError,
    ThingExistsError,
    ThingUnknownError,
    ThrottledError,
)
from enrollment_backend.strict_json import parse_object

MAX_BODY_BYTES = 16 * 1024
_MAX_BASE64_CHARACTERS = (MAX_BODY_BYTES + 2) // 3 * 4

Event = Mapping[str, Any]
Answer = dict[str, Any]


class NotFoundError(EnrollmentError):
    """No route has this path."""

    code = "not-found"
    detail = "There is nothing at this path."


class MethodNotAllowedError(EnrollmentError):
    """The route does not know this method."""

    code = "method-not-allowed"
    detail = "This path does not take this method."

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class MediaTypeError(EnrollmentError):
    """The body is not declared as JSON."""

    code = "media-type-unsupported"
    detail = "The Content-Type must be application/json."


class BodyTooLargeError(EnrollmentError):
    """The body exceeds 16 KiB."""

    code = "body-too-large"
    detail = "The body is larger than 16 KiB."


class BodyBase64Error(RequestRefusedError):
    """The event says that its body is base64, and it is not."""

    code = "body-base64-invalid"
    detail = "The body could not be decoded."


# The first class of an error's ancestry that is listed here decides; what is not listed is the server's fault.
_STATUS: dict[type[EnrollmentError], HTTPStatus] = {
    RequestRefusedError: HTTPStatus.BAD_REQUEST,
    InviteRequiredError: HTTPStatus.UNAUTHORIZED,
    InviteInvalidError: HTTPStatus.UNAUTHORIZED,
    AttestationRequiredError: HTTPStatus.FORBIDDEN,
    OperatorRequiredError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ThingUnknownError: HTTPStatus.NOT_FOUND,
    InviteUnknownError: HTTPStatus.NOT_FOUND,
    MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
    ConflictError: HTTPStatus.CONFLICT,
    ThingExistsError: HTTPStatus.CONFLICT,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ThrottledError: HTTPStatus.TOO_MANY_REQUESTS,
    AwsRefusedError: HTTPStatus.BAD_GATEWAY,
    CertificateForeignError: HTTPStatus.BAD_GATEWAY,
    RetryableError: HTTPStatus.SERVICE_UNAVAILABLE,
    EnrollmentError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True)
class Reply:
    """An answer that is no problem.

    Attributes:
        status: of HTTP.
        media_type: of the body.
        body: text.
        headers: beside those that every answer has.
    """

    status: HTTPStatus
    media_type: str = "application/json"
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


Endpoint = Callable[[Event], Reply]
Routes = Mapping[str, Mapping[str, Endpoint]]
"""Path, then method."""


def request_id_of(event: Event, context: object) -> str:
    """Return API Gateway's id of the request, or Lambda's, or ``unknown``."""
    candidate = _request_context(event).get("requestId")
    if isinstance(candidate, str) and candidate:
        return candidate
    return str(getattr(context, "aws_request_id", "unknown"))


def handle(event: Event, routes: Routes, request_id: str) -> Answer:
    """Answer one request.

    Args:
        event: API Gateway HTTP API event, payload format 2.0.
        routes: what to call.
        request_id: shown in problems, so that a caller can name the request to the operator.

    Returns:
        What Lambda hands back to API Gateway. Refusals are answers as well; one log line says which.

    Raises:
        Exception: only what nobody foresaw.
    """
    route = "none"
    try:
        path, method = str(event.get("rawPath")), _method(event)
        if path not in routes:
            raise NotFoundError
        route = path
        if method not in routes[path]:
            raise MethodNotAllowedError(allow=", ".join(routes[path]))
        reply = routes[path][method](event)
    except EnrollmentError as error:
        reply = _problem(error, request_id)
        failed = reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        log.request(route=route, status=reply.status.value, outcome=error.code, failed=failed, **error.facts)
    else:
        log.request(route=route, status=reply.status.value, outcome="ok", failed=False)
    return _answer(reply)


def internal_error(request_id: str) -> Answer:
    """Answer 500 with the code ``internal``, saying nothing about why."""
    return _answer(_problem(EnrollmentError(), request_id))


def json_reply(status: HTTPStatus, content: dict[str, Any]) -> Reply:
    """Return a reply whose body is a JSON object."""
    return Reply(status, body=json.dumps(content))


def instant(seconds: float) -> str:
    """Return a time, given in seconds since the epoch, as RFC 3339 §5.6 writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def json_body(event: Event) -> dict[str, Any]:
    """Return the body of a request that is declared to be JSON, a strict object.

    Raises:
        MediaTypeError, BodyTooLargeError, RequestRefusedError: it is not.
    """
    if _media_type(event) != "application/json":
        raise MediaTypeError
    return parse_object(body_of(event))


def _request_context(event: Event) -> Mapping[str, Any]:
    context = event.get("requestContext")
    return context if isinstance(context, Mapping) else {}


def _method(event: Event) -> str:
    http = _request_context(event).get("http")
    return str(http.get("method", "")) if isinstance(http, Mapping) else ""


def header(event: Event, wanted: str) -> str | None:
    """Return a header's value; its name is given in lower case."""
    headers = event.get("headers") or {}
    return next((str(value) for name, value in headers.items() if name.lower() == wanted), None)


def parameter(event: Event, name: str) -> str | None:
    """Return a query parameter's value, decoded; one that is there several times, joined by commas."""
    parameters = event.get("queryStringParameters") or {}
    value = parameters.get(name)
    return None if value is None else str(value)


def operator_of(event: Event) -> str:
    """Return the ARN of the IAM identity that signed the request, which API Gateway has verified.

    Raises:
        OperatorRequiredError: it has verified none.
    """
    authorizer = _request_context(event).get("authorizer")
    identity = authorizer.get("iam") if isinstance(authorizer, Mapping) else None
    arn = identity.get("userArn") if isinstance(identity, Mapping) else None
    if not isinstance(arn, str) or not arn:
        raise OperatorRequiredError
    return arn


def _media_type(event: Event) -> str:
    """Return the media type without its parameters: none is defined for JSON (RFC 8259 §11)."""
    return (header(event, "content-type") or "").partition(";")[0].strip().lower()


def body_of(event: Event) -> bytes:
    """Return the body's bytes. What is too long is refused before anything is done with it.

    Raises:
        BodyTooLargeError, BodyBase64Error: it is no body of ours.
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
        # A lone surrogate has no UTF-8; passed through as it is, it is refused with all else that is not UTF-8.
        content = body.encode("utf-8", "surrogatepass")
    if len(content) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    return content


def _problem(error: EnrollmentError, request_id: str) -> Reply:
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": error.detail,
        "code": error.code,
        "requestId": request_id,
    }
    return Reply(status, "application/problem+json", json.dumps(content), _problem_headers(error))


def _problem_headers(error: EnrollmentError) -> dict[str, str]:
    if isinstance(error, RetryableError):
        return {"retry-after": str(error.retry_after)}  # seconds, RFC 9110 §10.2.3
    if isinstance(error, MethodNotAllowedError):
        return {"allow": error.allow}  # RFC 9110 §15.5.6
    if isinstance(error, InviteRequiredError | InviteInvalidError):
        return {"www-authenticate": "Bearer"}  # RFC 9110 §15.5.2
    return {}


def _answer(reply: Reply) -> Answer:
    typed = {"content-type": reply.media_type} if reply.body else {}
    return {
        "statusCode": reply.status.value,
        "headers": {**typed, "cache-control": "no-store", **reply.headers},
        "body": reply.body,
        "isBase64Encoded": False,
    }
