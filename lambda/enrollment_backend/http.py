"""API Gateway HTTP API, payload format 2.0, on one side; the use cases on the other. Only this module knows HTTP.

A refusal is `application/problem+json` (RFC 9457 §3). Its `type` is ``about:blank`` (§4.2.1): what tells problems apart
is the extension member `code`, which is stable.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from enrollment_backend import __version__, log
from enrollment_backend.errors import (
    AwsRefusedError,
    CertificateForeignError,
    EnrollmentError,
    FieldMissingError,
    FieldTypeError,
    FieldUnknownError,
    InviteRequiredError,
    RequestRefusedError,
    RetryableAwsError,
    ThingExistsError,
    ThrottledError,
)
from enrollment_backend.service import EnrollmentRequest, Issued
from enrollment_backend.strict_json import parse_object

MAX_BODY_BYTES = 16 * 1024
_PEM_BEGIN = b"-----BEGIN "
_MAX_BASE64_CHARACTERS = (MAX_BODY_BYTES + 2) // 3 * 4

Event = Mapping[str, Any]
Answer = dict[str, Any]
Enroll = Callable[[EnrollmentRequest], Issued]


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
    NotFoundError: HTTPStatus.NOT_FOUND,
    MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
    ThingExistsError: HTTPStatus.CONFLICT,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ThrottledError: HTTPStatus.TOO_MANY_REQUESTS,
    AwsRefusedError: HTTPStatus.BAD_GATEWAY,
    CertificateForeignError: HTTPStatus.BAD_GATEWAY,
    RetryableAwsError: HTTPStatus.SERVICE_UNAVAILABLE,
    EnrollmentError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True)
class _Reply:
    status: HTTPStatus
    media_type: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)


_Endpoint = Callable[[Event, Enroll], _Reply]


def request_id_of(event: Event, context: object) -> str:
    """Return API Gateway's id of the request, or Lambda's, or ``unknown``."""
    candidate = _request_context(event).get("requestId")
    if isinstance(candidate, str) and candidate:
        return candidate
    return str(getattr(context, "aws_request_id", "unknown"))


def handle(event: Event, enroll: Enroll, request_id: str) -> Answer:
    """Answer one request.

    Args:
        event: API Gateway HTTP API event, payload format 2.0.
        enroll: the use case.
        request_id: shown in problems, so that a caller can name the request to the operator.

    Returns:
        What Lambda hands back to API Gateway. Refusals are answers as well; one log line says which.

    Raises:
        Exception: only what nobody foresaw.
    """
    routes: dict[str, dict[str, _Endpoint]] = {
        "/v1/certificates": {"POST": _certificates},
        "/getCertificate": {"POST": _get_certificate},
        "/v1/health": {"GET": _health},
    }
    route = "none"
    try:
        path, method = str(event.get("rawPath")), _method(event)
        if path not in routes:
            raise NotFoundError
        route = path
        if method not in routes[path]:
            raise MethodNotAllowedError(allow=", ".join(routes[path]))
        reply = routes[path][method](event, enroll)
    except EnrollmentError as error:
        reply = _problem(error, request_id)
        write = log.error if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR else log.info
        write("request", route=route, status=reply.status.value, code=error.code, **error.facts)
    else:
        log.info("request", route=route, status=reply.status.value)
    return _answer(reply)


def internal_error(request_id: str) -> Answer:
    """Answer 500 with the code ``internal``, saying nothing about why."""
    return _answer(_problem(EnrollmentError(), request_id))


def _certificates(event: Event, enroll: Enroll) -> _Reply:
    if _media_type(event) != "application/json":
        raise MediaTypeError
    issued = enroll(_enrollment_request(_body(event)))
    return _json(
        HTTPStatus.CREATED,
        {
            "certificatePem": issued.certificate.pem,
            "certificateId": issued.certificate.certificate_id,
            "certificateArn": issued.certificate.arn,
            "thingName": issued.thing_name,
            "mqttEndpoint": issued.mqtt_endpoint,
            "mqttPort": issued.mqtt_port,
            "attested": issued.attested,
        },
    )


def _get_certificate(event: Event, enroll: Enroll) -> _Reply:
    # Any Content-Type will do: clients written for the original article post as whatever their tool declares.
    body = _body(event)
    issued = enroll(_raw_csr(body) if body.startswith(_PEM_BEGIN) else _enrollment_request(body))
    return _Reply(HTTPStatus.OK, "text/plain", issued.certificate.pem)


def _health(_event: Event, _enroll: Enroll) -> _Reply:
    return _json(HTTPStatus.OK, {"status": "ok", "version": __version__})


def _raw_csr(body: bytes) -> EnrollmentRequest:
    # What is not ASCII becomes a character that no PEM has, for the CSR's own check to refuse.
    return EnrollmentRequest(thing_name=None, csr=body.decode("ascii", "replace"))


def _enrollment_request(body: bytes) -> EnrollmentRequest:
    fields = parse_object(body)
    if not fields.keys() <= {"csr", "thingName"}:
        raise FieldUnknownError
    return EnrollmentRequest(
        thing_name=_string(fields, "thingName") if "thingName" in fields else None, csr=_string(fields, "csr")
    )


def _string(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise FieldMissingError
    value = fields[name]
    if not isinstance(value, str):
        raise FieldTypeError
    return value


def _request_context(event: Event) -> Mapping[str, Any]:
    context = event.get("requestContext")
    return context if isinstance(context, Mapping) else {}


def _method(event: Event) -> str:
    http = _request_context(event).get("http")
    return str(http.get("method", "")) if isinstance(http, Mapping) else ""


def _media_type(event: Event) -> str:
    """Return the media type without its parameters: none is defined for JSON (RFC 8259 §11)."""
    headers = event.get("headers") or {}
    for name, value in headers.items():
        if name.lower() == "content-type":
            return str(value).partition(";")[0].strip().lower()
    return ""


def _body(event: Event) -> bytes:
    """Return the body's bytes. What is too long is refused before anything is done with it."""
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


def _json(status: HTTPStatus, content: dict[str, Any]) -> _Reply:
    return _Reply(status, "application/json", json.dumps(content))


def _problem(error: EnrollmentError, request_id: str) -> _Reply:
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": error.detail,
        "code": error.code,
        "requestId": request_id,
    }
    return _Reply(status, "application/problem+json", json.dumps(content), _problem_headers(error))


def _problem_headers(error: EnrollmentError) -> dict[str, str]:
    if isinstance(error, RetryableAwsError):
        return {"retry-after": str(error.retry_after)}  # seconds, RFC 9110 §10.2.3
    if isinstance(error, MethodNotAllowedError):
        return {"allow": error.allow}  # RFC 9110 §15.5.6
    if isinstance(error, InviteRequiredError):
        return {"www-authenticate": "Bearer"}  # RFC 9110 §15.5.2
    return {}


def _answer(reply: _Reply) -> Answer:
    return {
        "statusCode": reply.status.value,
        "headers": {"content-type": reply.media_type, "cache-control": "no-store", **reply.headers},
        "body": reply.body,
        "isBase64Encoded": False,
    }
