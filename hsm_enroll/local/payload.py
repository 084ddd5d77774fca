"""Payload format version 2.0: converts an HTTP request to Lambda's event, and the handler's result to an HTTP response.

See the API Gateway developer guide, "Create AWS Lambda proxy integrations for HTTP APIs".
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from cryptography.x509 import load_pem_x509_certificate
from werkzeug.wrappers import Response

from hsm_enroll.local.lambda_runtime import ACCOUNT_ID

_VALIDITY = "%b %e %H:%M:%S %Y GMT"
_MIN_STATUS, _MAX_STATUS = 100, 599
_STAGE = "$default"
_TEXT = re.compile(r"text/.*|application/(json|javascript|xml|.*\+(json|xml))")
# The server sets these headers itself.
_HOP_BY_HOP = frozenset({"connection", "content-length", "transfer-encoding"})


class MalformedResponseError(Exception):
    """The handler's result cannot be converted to an HTTP response."""


@dataclass(frozen=True)
class Request:
    """An HTTP request as it was received.

    Attributes:
        method: in upper case.
        target: path and query as they were sent, percent-encoded.
        protocol: such as ``HTTP/1.1``.
        headers: with names in lower case; repeated headers are joined by commas.
        body: without transfer coding.
        source_ip: the client's address.
        client_certificate: the certificate of the TLS connection, in PEM; None if the server does not ask for one.
    """

    method: str
    target: str
    protocol: str
    headers: Mapping[str, str]
    body: bytes
    source_ip: str
    client_certificate: str | None = None


def to_event(
    request: Request, route_key: str, request_id: str, now: dt.datetime, iam: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """Return Lambda's event for a request.

    Args:
        request: the request.
        route_key: the route that matched, such as ``GET /v1/health``.
        request_id: API Gateway's id of the request.
        now: the time, with its time zone.
        iam: who signed the request, if the route requires a signature.

    Cookies stay in the headers; path parameters are not supported.
    """
    path, _, query = request.target.partition("?")
    host = request.headers.get("host", "")
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route_key,
        "rawPath": path,
        "rawQueryString": query,
        "headers": dict(request.headers),
        "requestContext": {
            "accountId": ACCOUNT_ID,
            "apiId": "local",
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": request.method,
                "path": path,
                "protocol": request.protocol,
                "sourceIp": request.source_ip,
                "userAgent": request.headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": route_key,
            "stage": _STAGE,
            "time": now.strftime("%d/%b/%Y:%H:%M:%S %z"),
            "timeEpoch": int(now.timestamp() * 1000),
        },
        "isBase64Encoded": False,
    }
    parameters: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameters.setdefault(name, []).append(value)
    if parameters:
        event["queryStringParameters"] = {name: ",".join(values) for name, values in parameters.items()}
    if iam is not None:
        event["requestContext"]["authorizer"] = {"iam": dict(iam)}
    if request.client_certificate is not None:
        event["requestContext"]["authentication"] = {"clientCert": _client_certificate(request.client_certificate)}
    if request.body:
        event["body"], event["isBase64Encoded"] = _encoded(request.body, request.headers.get("content-type", ""))
    return event


def to_response(result: object) -> Response:
    """Return the HTTP response for the handler's result.

    Raises:
        MalformedResponseError: API Gateway would respond with a 500.
    """
    try:
        # Lambda's runtime passes it on as JSON: other types fail, and tuples become lists.
        result = json.loads(json.dumps(result))
    except (TypeError, ValueError) as error:
        raise MalformedResponseError("not JSON") from error
    if not isinstance(result, dict) or "statusCode" not in result:
        body = result if isinstance(result, str) else json.dumps(result)
        return Response(body, HTTPStatus.OK, {"content-type": "application/json"})
    try:
        status = _status(result["statusCode"])
        headers = {str(name).lower(): _header(value) for name, value in (result.get("headers") or {}).items()}
        kept = {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
        return Response(_body(result), status, {"content-type": "text/plain;charset=UTF-8"} | kept)
    except (AttributeError, TypeError, ValueError) as error:
        raise MalformedResponseError(str(error)) from error


def _client_certificate(pem: str) -> dict[str, Any]:
    """Return what API Gateway says of a client certificate (mutual TLS of custom domain names)."""
    certificate = load_pem_x509_certificate(pem.encode("ascii"))
    serial = f"{certificate.serial_number:x}"
    octets = bytes.fromhex(serial.zfill(len(serial) + len(serial) % 2))
    return {
        "clientCertPem": pem,
        "subjectDN": certificate.subject.rfc4514_string(),
        "issuerDN": certificate.issuer.rfc4514_string(),
        "serialNumber": octets.hex(":"),
        "validity": {
            "notBefore": certificate.not_valid_before_utc.strftime(_VALIDITY),
            "notAfter": certificate.not_valid_after_utc.strftime(_VALIDITY),
        },
    }


def _encoded(body: bytes, content_type: str) -> tuple[str, bool]:
    """Return the body as text if its type is text, and otherwise in base64; and whether it is base64."""
    if _TEXT.fullmatch(content_type.partition(";")[0].strip().lower()):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _status(value: str | int) -> int:
    status = int(value)
    if not _MIN_STATUS <= status <= _MAX_STATUS:
        raise ValueError("the status is not an HTTP status")
    return status


def _header(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError("a header is not text")


def _body(result: Mapping[str, Any]) -> bytes:
    body = result.get("body") or ""
    if not isinstance(body, str):
        raise TypeError("the body is not text")
    if not result.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError("the body is not base64") from error
