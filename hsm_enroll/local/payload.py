"""Payload format version 2.0: an HTTP request as the event that Lambda gets, and what it returns as an HTTP response.

As documented in the API Gateway developer guide, "Create AWS Lambda proxy integrations for HTTP APIs".
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

from werkzeug.wrappers import Response

from hsm_enroll.local.lambda_runtime import ACCOUNT_ID

_LOWEST_STATUS, _HIGHEST_STATUS = 100, 599
_STAGE = "$default"
_TEXT = re.compile(r"text/.*|application/(json|javascript|xml|.*\+(json|xml))")
# Set by the server from what it really sends.
_HOP_BY_HOP = frozenset({"connection", "content-length", "transfer-encoding"})


class MalformedAnswerError(Exception):
    """What the handler returned cannot be turned into an HTTP response."""


@dataclass(frozen=True)
class Request:
    """An HTTP request as it came.

    Attributes:
        method: upper case.
        target: path and query as sent, percent-encoded.
        protocol: such as ``HTTP/1.1``.
        headers: names in lower case, several of one name joined by commas.
        body: decoded from its transfer coding.
        source_ip: the peer's address.
    """

    method: str
    target: str
    protocol: str
    headers: Mapping[str, str]
    body: bytes
    source_ip: str


def to_event(
    request: Request, route_key: str, request_id: str, now: dt.datetime, iam: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """Return the event that Lambda gets.

    Args:
        request: the request.
        route_key: the route that it took, such as ``GET /v1/health``.
        request_id: API Gateway's id of it.
        now: with its time zone.
        iam: who signed it, where the route asks for that.

    Cookies stay among the headers; there are no path parameters.
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
    if request.body:
        event["body"], event["isBase64Encoded"] = _encoded(request.body, request.headers.get("content-type", ""))
    return event


def to_response(answer: object) -> Response:
    """Return the HTTP response for what the handler returned.

    Raises:
        MalformedAnswerError: API Gateway would answer 500 to it.
    """
    try:
        # Lambda's runtime hands it on as JSON: what JSON does not know fails, tuples become lists.
        answer = json.loads(json.dumps(answer))
    except (TypeError, ValueError) as error:
        raise MalformedAnswerError("not JSON") from error
    if not isinstance(answer, dict) or "statusCode" not in answer:
        body = answer if isinstance(answer, str) else json.dumps(answer)
        return Response(body, HTTPStatus.OK, {"content-type": "application/json"})
    try:
        status = _status(answer["statusCode"])
        headers = {str(name).lower(): _header(value) for name, value in (answer.get("headers") or {}).items()}
        kept = {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
        return Response(_body(answer), status, {"content-type": "text/plain;charset=UTF-8"} | kept)
    except (AttributeError, TypeError, ValueError) as error:
        raise MalformedAnswerError(str(error)) from error


def _encoded(body: bytes, content_type: str) -> tuple[str, bool]:
    """Return the body as text where its type says it is text, and else in base64, with a flag that says so."""
    if _TEXT.fullmatch(content_type.partition(";")[0].strip().lower()):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _status(value: str | int) -> int:
    status = int(value)
    if not _LOWEST_STATUS <= status <= _HIGHEST_STATUS:
        raise ValueError("the status is none of HTTP's")
    return status


def _header(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError("a header is not text")


def _body(answer: Mapping[str, Any]) -> bytes:
    body = answer.get("body") or ""
    if not isinstance(body, str):
        raise TypeError("the body is not text")
    if not answer.get("isBase64Encoded"):
        return body.encode()
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError("the body is not base64") from error
